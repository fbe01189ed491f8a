"""What a person sees and does on the viewer's page, in a real Chromium beside real services."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.browser.rig import Rig, chromium, running

pytestmark = pytest.mark.browser

PATIENCE_MS = 30_000
WITH, WITHOUT = "with side information", "without side information"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with running("left", "front") as found:
        yield found


@pytest.fixture
def page(browser: Browser, rig: Rig) -> Iterator[Page]:
    """The page, with pictures; it must not complain."""
    opened = browser.new_page(viewport={"width": 1280, "height": 800})
    opened.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []

    def complained(line: ConsoleMessage) -> None:
        # A picture that was let go before a slow browser asked for it is a 404, and no fault of the page.
        if line.type in ("error", "warning") and "Failed to load resource" not in line.text:
            complaints.append(line.text)

    opened.on("console", complained)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(rig.page)
    expect(opened.locator("#facts")).to_contain_text("side information of right", timeout=PATIENCE_MS)
    yield opened
    opened.close()
    assert not complaints


def pictures(page: Page) -> dict[str, str]:
    """Which picture lies left and right: the end of its address."""
    sources = {
        side: page.locator(f"#picture-{side}").get_attribute("src") or "" for side in ("left", "right")
    }
    return {side: source.rsplit("/", 1)[1] for side, source in sources.items()}


def test_two_pictures_a_border_and_curves(page: Page) -> None:
    expect(page.locator("#connection")).to_have_text("connected to the decoder")
    expect(page.locator("#label-left")).to_have_text(WITHOUT)
    expect(page.locator("#label-right")).to_have_text(WITH)
    assert pictures(page) == {"left": "without", "right": "decoded"}
    for side in ("left", "right"):
        assert page.locator(f"#picture-{side}").evaluate("image => image.naturalWidth") == 256
    # The curves grow, and say that side information is worth something.
    expect(page.locator("#psnr-now")).to_contain_text("without", timeout=PATIENCE_MS)
    right, without = map(float, re.findall(r"\d+\.\d+", page.locator("#psnr-now").inner_text()))
    assert right > without + 0.5
    expect(page.locator("#bpp polyline.with")).to_have_attribute("points", re.compile(r"\d+,\d+.* \d"))
    expect(page.locator("#psnr polyline.without")).to_have_attribute("points", re.compile(r"\d+,\d+"))


def test_side_information_is_switched_off_and_on(page: Page) -> None:
    page.get_by_label("use side information").uncheck()
    expect(page.locator("#label-right")).to_have_text(WITHOUT)
    assert pictures(page)["right"] == "without"
    page.get_by_label("use side information").check()
    expect(page.locator("#label-right")).to_have_text(WITH)


def test_every_picture_can_be_chosen(page: Page) -> None:
    for kind, text in (("source", "source"), ("side", "side information"), ("decoded", WITH)):
        page.locator("#left").select_option(kind)
        expect(page.locator("#label-left")).to_have_text(text)
        expect(page.locator("#note")).to_be_hidden()
        assert pictures(page)["left"] == kind


def test_the_border_moves_by_keyboard_and_by_mouse(page: Page) -> None:
    slider = page.get_by_label("Border between the two pictures")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("#divider")).to_have_attribute("style", "left: 0%;")
    page.keyboard.press("End")
    expect(page.locator("#divider")).to_have_attribute("style", "left: 100%;")
    box = page.locator("#viewport").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    share = float(re.findall(r"[\d.]+", page.locator("#divider").get_attribute("style") or "")[0])
    assert share == pytest.approx(25, abs=2)


def test_the_rate_dial_changes_what_is_sent(page: Page) -> None:
    expect(page.locator("#rate-now")).to_contain_text("level 2")
    page.locator("#level").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#rate-now")).to_contain_text("level 5", timeout=PATIENCE_MS)
    expect(page.locator("#facts")).to_contain_text("level 5", timeout=PATIENCE_MS)
    page.get_by_label("Hold").fill("9")
    page.get_by_role("button", name="Set").click()
    expect(page.locator("#rate-now")).to_contain_text("9 kbit/s,", timeout=PATIENCE_MS)
    page.get_by_role("button", name="Follow the link").click()
    expect(page.locator("#rate-now")).to_contain_text("follows its link", timeout=PATIENCE_MS)
    page.locator("#level").focus()
    page.keyboard.press("Home")
    expect(page.locator("#rate-now")).to_contain_text("level 0", timeout=PATIENCE_MS)
    expect(page.locator("#rate-error")).to_be_empty()


def test_pause_holds_the_picture(page: Page) -> None:
    button = page.get_by_role("button", name="Pause")
    button.focus()
    page.keyboard.press("Space")
    viewport = page.locator("#viewport")
    expect(viewport).to_have_attribute("data-loading", "false")
    held = viewport.get_attribute("data-number")
    page.wait_for_timeout(1500)
    # What is held can be looked at from all sides, long after.
    for kind in ("source", "side", "without", "decoded"):
        page.locator("#left").select_option(kind)
        expect(page.locator("#picture-left")).to_have_attribute("src", re.compile(f"/{held}/{kind}$"))
    assert viewport.get_attribute("data-number") == held
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#viewport")).not_to_have_attribute("data-number", str(held), timeout=PATIENCE_MS)


def test_everything_is_reached_by_keyboard(page: Page) -> None:
    reached = set()
    for _ in range(24):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id || document.activeElement.name"))
    assert {"left", "right", "side", "slider", "pause", "level", "kbps", "follow", "camera"} <= reached


def test_a_phone_shows_all_of_it(browser: Browser, rig: Rig) -> None:
    phone = browser.new_page(viewport={"width": 360, "height": 740})
    phone.set_default_timeout(PATIENCE_MS)
    phone.goto(rig.page)
    expect(phone.locator("#facts")).to_contain_text("bpp", timeout=PATIENCE_MS)
    assert phone.evaluate("() => document.scrollingElement.scrollWidth <= innerWidth")
    for part in ("#viewport", "#bpp", "#psnr", "#level", ".wide", "#events"):
        box = phone.locator(part).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
    phone.close()


def test_another_camera_is_chosen_and_one_that_goes_is_told(browser: Browser) -> None:
    with running("left", "front") as rig:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(rig.page)
        expect(page.locator("#streams tr")).to_have_count(3, timeout=PATIENCE_MS)
        page.get_by_label("front").check()
        expect(page.locator("#picture-right")).to_have_attribute("alt", f"{WITH}, camera front")
        rig.cameras["front"].end()
        expect(page.locator("#events")).to_contain_text("camera front closed", timeout=PATIENCE_MS)
        expect(page.locator("#rates")).to_be_hidden(timeout=PATIENCE_MS)
        page.get_by_label("left", exact=True).check()
        expect(page.locator("#picture-right")).to_have_attribute("alt", f"{WITH}, camera left")
        page.close()
