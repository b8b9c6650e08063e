"""A small bank for the shipped model, of the tones of the tree of sounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from detector.network import default_model_path
from models.adapting.bank import Bank
from models.adapting.make_bank import make_bank


@pytest.fixture(scope="module")
def bank(tree: Path, few_conditions: None) -> Bank:  # noqa: ARG001
    return make_bank(default_model_path(), tree, 0, 2)[0]
