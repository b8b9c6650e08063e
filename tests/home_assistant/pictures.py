"""Pictures of Home Assistant's pages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import Error as PageError

from tests.check_processor import CheckError
from tests.home_assistant.setup import Setup

_WIDTH, _HEIGHT = 1280, 1800
_TIMES = 6
"""So that the sound lasts until a slow page shows it."""
_SHOWN_MS = 10_000


def take_pictures(setup: Setup, folder: Path, device: str) -> list[str]:
    """Write pictures of the device's page, in silence and while a guitar sounds, and return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    if (chromium := shutil.which("chromium")) is None:
        raise CheckError("chromium is missing; on Debian: apt install chromium")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            names = _take(setup, browser, folder, device)
            browser.close()
    except PageError as error:
        raise CheckError(f"the device's page does not show its entities: {' '.join(error.message.split())}") from error
    setup.settle()
    return names


def _take(setup: Setup, browser: Browser, folder: Path, device: str) -> list[str]:
    page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT})
    page.add_init_script(f"localStorage.setItem('hassTokens', {json.dumps(json.dumps(_tokens(setup)))})")
    page.goto(f"{setup.home.url}/config/devices/device/{device}")
    page.get_by_text("Guitar", exact=True).first.wait_for(timeout=120_000)
    names = [_picture(page, folder / "device.png")]
    setup.start_guitar(_TIMES)
    page.wait_for_timeout(_SHOWN_MS)
    return [*names, _picture(page, folder / "device-guitar.png")]


def _picture(page: Page, path: Path) -> str:
    page.screenshot(path=path)
    return path.name


def _tokens(setup: Setup) -> dict[str, Any]:
    """Return the log-in as the page keeps it."""
    far_ms = 4_102_444_800_000  # the page would renew a token that ends soon
    return setup.home.tokens | {"hassUrl": setup.home.url, "clientId": f"{setup.home.url}/", "expires": far_ms}
