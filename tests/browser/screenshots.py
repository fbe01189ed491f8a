"""Pictures of the viewer's page for the docs: `python -m tests.browser.screenshots [FOLDER]`, docs/ without."""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.rig import chromium, running

FRAMES_MS = 25_000
"""Curves need some frames."""


def main(folder: Path) -> None:
    """Write viewer.png and viewer-phone.png."""
    with running("left", fps=2) as rig, chromium() as browser:
        wide = browser.new_page(viewport={"width": 1280, "height": 860})
        narrow = browser.new_page(viewport={"width": 390, "height": 844}, device_scale_factor=1.5)
        for page in (wide, narrow):
            page.goto(rig.page)
            expect(page.locator("#psnr-now")).to_contain_text("without", timeout=60_000)
        wide.wait_for_timeout(FRAMES_MS)
        wide.screenshot(path=folder / "viewer.png")
        narrow.screenshot(path=folder / "viewer-phone.png", full_page=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "docs")
