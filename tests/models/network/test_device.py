"""Where training computes convolutions in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from models.network import device


@pytest.fixture(autouse=True)
def no_cache() -> Iterator[None]:
    device.quick_half_precision.cache_clear()
    yield
    device.quick_half_precision.cache_clear()


@pytest.mark.parametrize(
    ("words", "quick"),
    [
        ({"GenuineIntel", "avx512_bf16"}, False),
        ({"GenuineIntel", "avx512_bf16", "amx_bf16"}, True),
        ({"AuthenticAMD", "avx512_bf16"}, True),
        (set(), False),
    ],
)
def test_bfloat16_is_used_where_it_is_faster(words: set[str], quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_cpu_words", lambda: frozenset(words))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert device.quick_half_precision() == (quick and torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def test_bfloat16_is_not_used_where_the_library_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_cpu_words", lambda: frozenset({"AuthenticAMD"}))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not device.quick_half_precision()
