"""The picture of the page that the README begins with: ``python -m tests.detector.web.picture FILE`` takes it again.

The page is open in Chromium while the demo scene plays, from its beginning to the moment in which the picture is taken.
"""

from __future__ import annotations

import shutil
import sys
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.service import Child
from tests.web_service import SCENE, url_of

FILE: Final = Path(__file__).resolve().parents[3] / "detector" / "web" / "page.webp"
SIZE: Final = (1280, 940)
MAX_BYTES: Final = 200_000
"""Of the file: each reader of the README loads it."""
QUALITY: Final = 75
SOUNDS: Final = 3
"""The picture is taken when so many sounds are in the list."""
_SETTLED_MS: Final = 500
"""Behind the beginning of the last sound: its score has risen."""
_TIMEOUT_MS: Final = 120_000


def take(browser: Browser, url: str, path: Path, sounds: int = SOUNDS) -> None:
    """Write a picture of the page, in WebP, at the moment in which its list of sounds has so many entries."""
    page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="dark")
    try:
        page.set_default_timeout(_TIMEOUT_MS)
        page.goto(url)
        page.wait_for_selector(f"#latest li:nth-child({sounds})")
        page.wait_for_timeout(_SETTLED_MS)
        _write(page, path)
    finally:
        page.close()


def _write(page: Page, path: Path) -> None:
    with Image.open(BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").save(path, "WEBP", quality=QUALITY, method=6)


def main() -> None:
    """Play the scene, and write the picture of its page to the file that is named, by default the README's."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    with Child("--device", SCENE, "--web", "127.0.0.1:0", "--loop") as child, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        take(browser, url_of(child), path)
        browser.close()
    sys.stdout.write(f"{path}: {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
