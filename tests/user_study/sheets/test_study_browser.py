"""The sheet in a real browser, where one is installed: filled, reloaded, exported, imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from study_world import RUN_A, RUN_B, World

from user_study.config import Import, Mode
from user_study.votes.answers import completion_code
from user_study.votes.collect import import_answers

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH")]


class Browser:
    """One page of a headless Chromium, spoken to through its debugging pipe: no port, no driver, no network."""

    def __init__(self, profile: Path) -> None:
        inward, self.write = os.pipe()
        self.read, outward = os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --remote-debugging-pipe"
        line = f'exec "$0" {flags} --user-data-dir="$1" about:blank 3<&{inward} 4>&{outward}'
        self.process = subprocess.Popen(
            ["bash", "-c", line, str(CHROMIUM), str(profile)],
            pass_fds=(inward, outward),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(inward)
        os.close(outward)
        self.buffer, self.count, self.session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        self.session = None
        self.send("Browser.close")
        self.process.wait(30)
        os.close(self.read)
        os.close(self.write)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._receive()
            if found.get("id") == self.count:
                assert "error" not in found, found
                return dict(found["result"])
            self.events.append(found)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            part = os.read(self.read, 1 << 16)
            assert part, "the browser has gone"
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\0", 1)
        return dict(json.loads(line))

    def js(self, code: str) -> Any:
        result = self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, code: str) -> None:
        end = time.monotonic() + 20
        while not self.js(code):
            assert time.monotonic() < end, code
            time.sleep(0.02)

    def open(self, page: Path, query: str = "") -> None:
        url = page.as_uri() + query
        self.send("Page.navigate", url=url)
        self.until(f"location.href === {json.dumps(url)} && typeof canonical === 'function'")

    def new_tab(self) -> Any:
        session, self.session = self.session, None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime"):
            self.send(f"{domain}.enable")
        return session

    def switch(self, session: Any) -> None:
        self.session = session
        self.send("Page.bringToFront")

    def phone(self) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
        self.send("Emulation.setTouchEmulationEnabled", enabled=True)

    def tap(self, selector: str) -> None:
        box = self.js(f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
                      " return [b.x + b.width / 2, b.y + b.height / 2]; })()")  # fmt: skip
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": box[0], "y": box[1]}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def hold(self, key: str, code: int, text: str, times: int) -> None:
        """A key that is held down: the first press, then repeats; the browser clicks the focused button at each."""
        press = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}
        for n in range(times):
            self.send("Input.dispatchKeyEvent", type="keyDown", autoRepeat=n > 0, **press)
            time.sleep(0.3)  # longer than the guard against double presses
        self.send("Input.dispatchKeyEvent", type="keyUp", **press)

    def key(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key)


READY = "clock !== null && performance.now() - clock.shown > GUARD_MS"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


def start(browser: Browser, rater: str) -> None:
    browser.js(f"$('rater').value = {json.dumps(rater)}")
    browser.js("$('start').requestSubmit()")
    assert browser.js("$('trial').hidden")  # no consent yet
    browser.js("$('consent').click(); $('start').requestSubmit()")


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


def test_a_phone(world: World, browser: Browser) -> None:
    browser.phone()
    browser.open(world.make() / "sheets" / "sheet-01.html", "?PROLIFIC_PID=5F00AA&STUDY_ID=x")
    assert browser.js("[$('rater').value, $('rater').readOnly]") == ["5f00aa", True]
    start(browser, "5f00aa")
    browser.until(READY)
    assert browser.js("Math.min(...all('.side img').map((image) => image.getBoundingClientRect().width))") >= 170
    assert browser.js("document.documentElement.scrollWidth <= 390")
    browser.tap("[data-zoom='0']")
    browser.until("$('zoom').open")
    assert browser.js("$('zoom-picture').getBoundingClientRect().width") >= 350
    browser.tap("#zoom-close")
    browser.until("!$('zoom').open")
    browser.js("document.querySelector('[data-choice=right]').scrollIntoView()")
    browser.tap("[data-choice=right]")
    browser.until("state.answers.length === 1")
    assert browser.js("state.answers[0].choice") == "right"


SUBJECTS: dict[Mode, tuple[str, ...]] = {
    "paired": (RUN_A, RUN_B),
    "ranking": (RUN_A, RUN_B, f"{RUN_A}/prior"),
    "discrimination": ("real", RUN_B),
}


@pytest.mark.parametrize("mode", SUBJECTS)
def test_every_page_of_every_mode_is_accessible(world: World, browser: Browser, mode: Mode) -> None:
    """By axe-core; a newer one than the package's is taken from the file that AXE_CORE names."""
    axe_core = pytest.importorskip("axe_core_python", reason="needs axe-core-python (pip install -e .[dev])")
    script = Path(os.environ.get("AXE_CORE") or Path(axe_core.__file__).parent / "axe.min.js").read_text("utf-8")
    study = world.make(mode=mode, subjects=SUBJECTS[mode], per_sheet=4, catch=4)
    browser.open(study / "sheets" / "sheet-01.html")
    assert violations(browser, script) == []
    start(browser, "r1")
    key = {"paired": "1", "ranking": "1", "discrimination": "2"}[mode]
    looked = False
    while browser.js("$('done').hidden"):
        browser.until(f"{READY} || told")
        if browser.js("told"):
            browser.js("$('continue').click()")
            continue
        if not looked:
            assert violations(browser, script) == []
            browser.key("z")
            assert violations(browser, script) == []
            browser.key("z")
            looked = True
        browser.key(key)
        if mode == "ranking":
            browser.key("3")
            browser.js("document.activeElement.blur()")
            browser.key("Enter")
        browser.until(f"told || clock === null || {READY}")
    assert violations(browser, script) == []
    path = world.root / "r.json"
    path.write_text(browser.js("$('export').value"))
    import_answers(Import(study, (path,), world.config.results))
    assert not (study / "refused.json").exists()


def violations(browser: Browser, script: str) -> list[str]:
    if not browser.js("typeof axe === 'object'"):
        browser.js(script + "; 0")
    return list(browser.js("axe.run().then((r) => r.violations.map((v) => v.id + ': ' + v.nodes[0].html))"))
