"""The page in a real browser: no request, no error, arrow keys, dark mode, narrow windows.

Needs the package playwright and a Chromium of the system; skipped where one is missing.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bettyc.report.curves import Group
from bettyc.report.page import page
from bettyc.report.record import read_all

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(two_runs: Path) -> str:
    records, found = read_all([str(two_runs / name) for name in ("a", "b <i>")])
    path = two_runs / "both.html"
    path.write_text(page("both", [Group(r.label, (r,)) for r in records], found))
    return path.as_uri()


class Visit:
    """An open page, what it asked for and what it complained of."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.page = browser.new_context(**context).new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("console", lambda m: self.complaints.append(m.text))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.goto(address)

    def colour(self, selector: str, what: str) -> str:
        script = f"e => getComputedStyle(e).getPropertyValue('{what}')"
        return str(self.page.locator(selector).first.evaluate(script))


def lightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


def test_nothing_is_requested_and_nothing_fails(browser: Any, address: str) -> None:
    visit = Visit(browser, address)

    assert [r for r in visit.requests if not r.startswith("data:")] == [address]
    assert visit.complaints == []
    pictures = "() => [...document.images].map(i => i.complete && i.naturalWidth > 100)"
    assert set(visit.page.evaluate(pictures)) == {True}


def test_tab_reaches_every_plot_and_arrows_read_it(browser: Any, address: str) -> None:
    visit = Visit(browser, address)
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("() => document.activeElement.className") == "skip"
    reached = set()
    for _ in range(60):
        visit.page.keyboard.press("Tab")
        reached.add(visit.page.evaluate("() => document.activeElement.id"))
    plots = set(visit.page.evaluate("() => [...document.querySelectorAll('.plot')].map(p => p.id)"))
    assert plots <= reached

    readout = visit.page.locator(".readout").first
    visit.page.locator(".plot").first.focus()
    assert visit.colour(".plot .cursor", "display") == "none"
    visit.page.keyboard.press("ArrowRight")
    assert readout.inner_text().startswith("step 0: a ")
    assert visit.colour(".plot .cursor", "display") == "inline"
    visit.page.keyboard.press("End")
    assert readout.inner_text().startswith("step 3: a ")
    visit.page.keyboard.press("ArrowRight")
    assert readout.inner_text().startswith("step 3: a ")
    visit.page.keyboard.press("ArrowLeft")
    assert readout.inner_text().startswith("step 2: a ")
    assert ", b <i> " in readout.inner_text()


def test_a_run_can_be_hidden_with_the_keyboard(browser: Any, address: str) -> None:
    visit = Visit(browser, address)
    curves = visit.page.locator('.curve[data-group="1"]')
    assert curves.first.is_visible()

    visit.page.locator('input[data-group="1"]').focus()
    visit.page.keyboard.press("Space")

    assert not curves.first.is_visible()
    visit.page.locator(".plot").first.focus()
    visit.page.keyboard.press("Home")
    assert "b <i>" not in visit.page.locator(".readout").first.inner_text()


def test_the_pointer_reads_the_nearest_update(browser: Any, address: str) -> None:
    visit = Visit(browser, address)
    box = visit.page.locator(".plot svg").first.bounding_box()
    visit.page.mouse.move(box["x"] + 0.97 * box["width"], box["y"] + 20)

    assert visit.page.locator(".readout").first.inner_text().startswith("step 3: ")


def test_dark_mode(browser: Any, address: str) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        visit = Visit(browser, address, color_scheme=scheme)
        shades[scheme] = [
            lightness(visit.colour("body", "background-color")),
            lightness(visit.colour("body", "color")),
            lightness(visit.colour(".plot .tick", "fill")),
            lightness(visit.colour(".plot .line", "stroke")),
        ]
    paper, ink, tick, curve = shades["light"]
    assert paper > 240
    assert max(ink, tick, curve) < 130
    paper, ink, tick, curve = shades["dark"]
    assert paper < 30
    assert min(ink, tick, curve) > 125


@pytest.mark.parametrize("width", [320, 1400])
def test_the_page_is_never_wider_than_the_window(browser: Any, address: str, width: int) -> None:
    visit = Visit(browser, address, viewport={"width": width, "height": 800})

    assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_without_scripts_everything_is_there(browser: Any, address: str) -> None:
    visit = Visit(browser, address, java_script_enabled=False)

    assert visit.page.locator(".plot .line").first.is_visible()
    assert visit.page.locator(".schedule").first.is_visible()
    visit.page.locator("figure summary").first.click()
    assert visit.page.locator("figure table").first.is_visible()
