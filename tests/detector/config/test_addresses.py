"""Addresses to listen on: what is loopback, and what is no address."""

from __future__ import annotations

import pytest

from detector.config.secrets import split_address, token_required
from detector.errors import ConfigError


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "[::ffff:127.0.0.1]:1"])
def test_loopback_needs_no_token(address: str) -> None:
    assert not token_required(address)


@pytest.mark.parametrize(
    "address", ["0.0.0.0:1", ":1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1", "pi4:1", "localhost.example.org:1"]
)
def test_other_addresses_need_a_token(address: str) -> None:
    assert token_required(address)


@pytest.mark.parametrize("address", ["", "9464", "localhost", "::1", "::1:9464", "a:", "a:-1", "a:65536", "a:²", "a:b"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError):
        token_required(address)


def test_addresses_are_split() -> None:
    assert split_address("[::1]:9464") == ("::1", 9464)
    assert split_address(":80") == ("", 80)
