"""What tests share: where recordings are, and the front end of the model that ships."""

from __future__ import annotations

import atexit
import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from detector.manifest import MfccParams
from tests.front_end import FRONT_END

settings.register_profile("project", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("project")

# A shell ignores SIGINT in what it starts in the background, and the commands under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Where a test gives no folder of its own, a program must not use those of a service that this system may have.
_OWN = tempfile.TemporaryDirectory(prefix="snn-detect-tests-")
atexit.register(_OWN.cleanup)
os.environ |= {key: str(Path(_OWN.name, key)) for key in ("STATE_DIRECTORY", "CACHE_DIRECTORY")}

DATA = Path(os.environ.get("SNN_DETECT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


LONGEST = {
    "test_live_scene.py",
    "test_adapt.py",
    "test_build.py",
    "test_install.py",
    "test_loop.py",
    "test_systemd.py",
    "test_wheels.py",
    "test_page.py",
    "test_archive.py",
}
"""Files that take a minute or more, much of it waiting: begun last, one of them would run alone at the end."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the longest files begin first."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def data() -> Path:
    """Give the folder of recordings; without it, skip, except in CI, where that is a failure."""
    if not DATA.is_dir():
        reason = f"no recordings at {DATA}; set SNN_DETECT_DATA"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return DATA


@pytest.fixture
def model_params() -> MfccParams:
    """Give a front end like that of the model that ships."""
    return FRONT_END
