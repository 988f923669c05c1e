"""Sheets and reports by axe-core and on a phone, where a browser is installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from study_browser import CHROMIUM, READY, Browser, start
from study_world import RUN_A, RUN_B, World

from user_study.config import Import, Mode, Simulate
from user_study.votes.collect import import_answers
from user_study.votes.simulate import simulate_study

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH")]


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
    script = axe()
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


@pytest.mark.parametrize("mode", SUBJECTS)
def test_the_report_of_every_mode_is_accessible(world: World, browser: Browser, mode: Mode) -> None:
    study = world.make(mode=mode, subjects=SUBJECTS[mode])
    simulate_study(Simulate(study, raters=4, results=world.config.results))
    browser.open(study / "simulated" / "report.html", ready="document.readyState === 'complete'")
    assert "SIMULATED" in browser.js("document.body.innerText") and browser.js("document.images[0].naturalWidth") > 0
    assert violations(browser, axe()) == []
    browser.phone()
    assert browser.js("document.documentElement.scrollWidth <= 390")


def axe() -> str:
    """The script of axe-core; a newer one than the package's is taken from the file that AXE_CORE names."""
    package = pytest.importorskip("axe_core_python", reason="needs axe-core-python (pip install -e .[dev])")
    return Path(os.environ.get("AXE_CORE") or Path(package.__file__).parent / "axe.min.js").read_text("utf-8")


def violations(browser: Browser, script: str) -> list[str]:
    if not browser.js("typeof axe === 'object'"):
        browser.js(script + "; 0")
    return list(browser.js("axe.run().then((r) => r.violations.map((v) => v.id + ': ' + v.nodes[0].html))"))
