#!/usr/bin/env python3
"""Take the screenshots of the README from the running demo.

    python tools/make_screenshots.py

writes docs/images anew. Needs Chromium, and Playwright from the extra dev.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Page, ViewportSize, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"
SIZE: ViewportSize = {"width": 1280, "height": 800}
WALL_HEIGHT_PX = 450
"""Of the demo's four cameras."""
TIMEOUT_MS = 240_000
QUALITY = 82


def main() -> None:
    """Play the demo, and wait on each page for what it is to show."""
    IMAGES.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "streamer.cli", "demo", "--keep"]
    demo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: S603  our own arguments
    try:
        address = find_address(demo)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            take_all(browser.new_page(viewport=SIZE), address)
            browser.close()
    finally:
        demo.terminate()
        demo.wait()


def find_address(demo: "subprocess.Popen[str]") -> str:
    """The dashboard's address, which the demo prints."""
    for line in demo.stdout or ():
        if found := re.search(r"http://\S+", line):
            return found.group()
    raise SystemExit("the demo ended without naming its dashboard")


def take_all(page: Page, address: str) -> None:
    """The wall while somebody has fallen, the vehicle's event, and the camera of the fall."""
    page.goto(address)
    page.get_by_text("stays where nothing stays so long").wait_for(timeout=TIMEOUT_MS)
    page.get_by_text("the lens is covered").wait_for(timeout=TIMEOUT_MS)
    page.set_viewport_size({"width": SIZE["width"], "height": WALL_HEIGHT_PX})
    take(page, "wall")
    page.set_viewport_size(SIZE)
    page.goto(f"{address}#/event/{event_with_clip(address, 'plaza')}")
    page.locator("video").wait_for(timeout=TIMEOUT_MS)
    page.wait_for_timeout(1500)
    take(page, "event")
    page.goto(f"{address}#/camera/hall")
    page.locator("canvas").first.wait_for(timeout=TIMEOUT_MS)
    page.wait_for_timeout(1500)
    take(page, "camera")


def event_with_clip(address: str, camera_id: str) -> str:
    """The id of a camera's first event, once its clip is stored."""
    for _ in range(200):
        with urlopen(f"{address}api/v1/events?camera_id={camera_id}") as answer:  # noqa: S310  the demo's own address
            events = json.load(answer)["events"]
        clips = [each["event"]["event_id"] for each in events if each["evidence"] and each["evidence"].get("clip")]
        if clips:
            return str(clips[-1])
        time.sleep(1)
    raise SystemExit(f"no event of {camera_id} with a clip")


def take(page: Page, name: str) -> None:
    """A screenshot of the whole page."""
    page.screenshot(path=IMAGES / f"{name}.jpg", type="jpeg", quality=QUALITY, full_page=True)


if __name__ == "__main__":
    main()
