"""The service that the tests of this folder share: it runs once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contracts.live import Live, live


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Give the service with every sink, after the demo scene and a pause."""
    with live(tmp_path_factory.mktemp("contracts")) as found:
        yield found
