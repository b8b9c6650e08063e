"""The units of systemd: what the service is given, line by line."""

from __future__ import annotations

import pytest

from tests.contracts.live import ROOT
from tests.contracts.snapshots import check

UNITS = {
    "service-unit-system.txt": "systemd/snn-detect.service",
    "service-unit-user.txt": "systemd/user/snn-detect.service",
}
PROSE = ("#", "Description=")


@pytest.mark.parametrize("name", UNITS)
def test_directives(name: str) -> None:
    lines = (ROOT / UNITS[name]).read_text(encoding="utf-8").splitlines()
    check(name, "\n".join(line for line in lines if line and not line.startswith(PROSE)))
