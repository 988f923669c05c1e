"""The sheet in a real browser, where one is installed: filled, reloaded, exported, imported."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from study_browser import CHROMIUM, READY, Browser, start
from study_world import World

from user_study.config import Import
from user_study.votes.answers import completion_code
from user_study.votes.collect import import_answers

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH")]


def test_fill_reload_undo_export_import(world: World, browser: Browser) -> None:
    study = world.make(per_sheet=8)
    page = study / "sheets" / "sheet-01.html"
    browser.open(page)
    start(browser, "R-1")
    browser.until(READY)
    for _ in range(3):
        browser.key("1")  # a key pressed three times answers once
    assert browser.js("state.answers.length") == 1
    browser.until(READY)
    browser.key("ArrowRight")
    browser.until(READY)
    browser.open(page)
    browser.until(READY)
    assert browser.js("state.answers.map((a) => a.choice)") == ["left", "right"]
    browser.key("Backspace")
    assert browser.js("state.answers.length") == 1
    given = ["left"]
    for key, choice in [("0", "tie"), ("u", "unseen"), ("2", "right"), ("ArrowLeft", "left")] * 3:
        if browser.js("$('done').hidden"):
            browser.until(READY)
            browser.key(key)
            given.append(choice)
    browser.until("!$('done').hidden")
    assert browser.js("document.querySelectorAll('#caption *, body > img').length") == 0
    exported = browser.js("$('export').value")
    browser.open(page)
    assert browser.js("$('export').value") == exported  # a reload at the end loses nothing

    answers = json.loads(exported)["payload"]["answers"]
    assert [a["choice"] for a in answers] == given[: len(answers)]
    assert [a["views"] for a in answers[:4]] == [1, 2, 3, 1]  # undone; reloaded and undone
    assert all(a["response_ms"] >= 250 for a in answers)
    (world.root / "r.json").write_text(exported)
    import_answers(Import(study, (world.root / "r.json",), world.config.results))
    votes = pd.read_parquet(study / "votes.parquet")
    assert dict(zip(votes["trial"], votes["choice"], strict=True)) == {a["trial"]: a["choice"] for a in answers}
    assert set(votes["rater"]) == {"r-1"} and not (study / "refused.json").exists()
    assert browser.js("$('code').textContent") == completion_code(json.loads(exported)["payload"]["token"], "r-1")

    names = [event["method"] for event in browser.events]
    assert "Runtime.exceptionThrown" not in names
    assert [e for e in browser.events if e["method"] == "Log.entryAdded"] == []  # a breach of the policy is logged
    urls = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert {url for url in urls if not url.startswith("data:")} == {page.as_uri()}


def test_full_storage_is_said_and_costs_no_answer(world: World, browser: Browser) -> None:
    study = world.make(per_sheet=2, catch=0, repeats=0, map=False, caption=False)
    browser.open(study / "sheets" / "sheet-02.html")
    browser.js("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }; 0")
    start(browser, "r2")
    for _ in range(2):
        browser.until(READY)
        browser.key("ArrowDown")
    browser.until("!$('done').hidden")
    assert "cannot store" in browser.js("$('warning').textContent")
    (world.root / "r.json").write_text(browser.js("$('export').value"))
    import_answers(Import(study, (world.root / "r.json",), world.config.results))
    assert len(pd.read_parquet(study / "votes.parquet")) == 2


def test_damaged_storage_starts_anew(world: World, browser: Browser) -> None:
    page = world.make() / "sheets" / "sheet-01.html"
    browser.open(page)
    for stored in ("{", "null", '{"rater": "x"}', '{"rater": "x", "answers": [{"trial": "t1"}]}'):
        browser.js(f"localStorage.setItem(storeKey, {json.dumps(stored)})")
        browser.open(page)
        browser.until("!$('intro').hidden")


def test_the_pages_own_sha256(world: World, browser: Browser) -> None:
    import hashlib

    browser.open(world.make() / "sheets" / "sheet-01.html")
    for text in ("", "abc", "a" * 55, "a" * 56, "a" * 64, "x" * 100_003):
        assert browser.js(f"sha256({json.dumps(text)})") == hashlib.sha256(text.encode()).hexdigest()


def test_a_second_tab_goes_on_and_the_first_stops(world: World, browser: Browser) -> None:
    page = world.make() / "sheets" / "sheet-01.html"
    browser.open(page)
    start(browser, "r1")
    for _ in range(2):
        browser.until(READY)
        browser.key("1")
    browser.until(READY)
    first = browser.new_tab()
    second = browser.session
    browser.open(page)
    browser.until(READY)
    assert browser.js("state.answers.length") == 2
    browser.switch(first)
    browser.until("!$('paused').hidden")
    browser.key("1")
    browser.switch(second)
    browser.until(READY)
    browser.key("2")
    browser.until(READY)
    assert browser.js("JSON.parse(localStorage.getItem(storeKey)).answers.length") == 3
    browser.switch(first)
    browser.js("$('go-on').click()")
    browser.until(READY)
    assert browser.js("state.answers.map((a) => a.choice)") == ["left", "left", "right"]
    browser.js("window.confirm = () => true; document.querySelector('#trial .stop').click()")
    browser.switch(second)
    browser.until("!$('paused').hidden")
    browser.key("1")
    assert browser.js("localStorage.getItem(storeKey)") is None  # deleted answers stay deleted
    browser.js("$('go-on').click()")
    browser.until("!$('intro').hidden")


FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }; 0"


def test_storage_that_fills_up_half_way(world: World, browser: Browser) -> None:
    """A reload goes on from what was stored; a second tab does not take what only the first one has."""
    page = world.make() / "sheets" / "sheet-01.html"
    browser.open(page)
    start(browser, "r1")
    for full in (False, True, True):
        browser.until(READY)
        if full:
            browser.js(FULL)
        browser.key("1")
    browser.until(READY)
    assert not browser.js("$('warning').hidden")
    first = browser.new_tab()
    browser.open(page)
    browser.until(READY)
    assert browser.js("state.answers.length") == 1
    browser.switch(first)
    browser.until(READY)
    browser.key("2")
    assert browser.js("state.answers.map((a) => a.choice)") == ["left", "left", "left", "right"]

    flags = {"source": FULL}
    browser.send("Page.addScriptToEvaluateOnNewDocument", **flags)
    browser.open(page, "?")
    browser.until(READY)
    browser.key("2")
    assert browser.js("state.answers.map((a) => a.choice)") == ["left", "right"]


def test_raters_of_one_browser_have_answers_of_their_own(world: World, browser: Browser) -> None:
    page = world.make() / "sheets" / "sheet-01.html"
    for rater, count in (("ann", 2), ("bob", 1)):
        browser.open(page, f"?rater={rater}")
        browser.until("!$('intro').hidden")
        start(browser, rater)
        for _ in range(count):
            browser.until(READY)
            browser.key("1")
        browser.until(READY)
    browser.js("window.confirm = () => true; document.querySelector('#trial .stop').click()")
    browser.open(page, "?rater=Ann")
    browser.until(READY)
    assert browser.js("[state.rater, state.answers.length]") == ["ann", 2]
    browser.open(page, "?rater=bob")
    browser.until("!$('intro').hidden")


def test_a_key_held_on_a_button_answers_once(world: World, browser: Browser) -> None:
    browser.open(world.make() / "sheets" / "sheet-01.html")
    start(browser, "r1")
    browser.until(READY)
    browser.js("document.querySelector('[data-choice=left]').focus()")
    browser.hold("Enter", 13, "\r", 5)
    assert browser.js("state.answers.length") == 1


def test_a_part_is_saved_and_taken_up_elsewhere(world: World, browser: Browser) -> None:
    study = world.make()
    page = study / "sheets" / "sheet-01.html"
    browser.open(page)
    start(browser, "r1")
    for key in ("1", "2", "0"):
        browser.until(READY)
        browser.key(key)
    browser.until(READY)
    part = world.root / "part.json"
    part.write_text(browser.js("exportText()"))
    import_answers(Import(study, (part,), world.config.results))
    assert len(pd.read_parquet(study / "votes.parquet")) == 3
    assert browser.js("exportCsv().split('\\r\\n').length") == 5  # head, three answers, last line end
    browser.js("window.confirm = () => true; document.querySelector('#trial .stop').click()")
    other = world.root / "other.json"
    other.write_text(part.read_text().replace('"tie"', '"left"'))
    for path, good in ((other, False), (part, True)):
        node = browser.send("DOM.getDocument")["root"]["nodeId"]
        chosen = browser.send("DOM.querySelector", nodeId=node, selector="#resume")["nodeId"]
        browser.send("DOM.setFileInputFiles", nodeId=chosen, files=[str(path)])
        browser.until(READY if good else "!$('warning').hidden")
    assert browser.js("state.answers.map((a) => a.choice)") == ["left", "right", "tie"]
