"""What settings are made of: tables, names, paths."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

RecordType = Literal["onset", "offset", "gap", "status", "health", "clip"]
Slug = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Labels = tuple[str, ...]
"""Labels of sounds; an empty tuple stands for all."""


def _user_path(path: Path) -> Path:
    """Put the user's home where ``~`` stands, and refuse the empty path, which would stand for any folder."""
    if path == Path():
        raise ValueError("must be the path of a file or folder")
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for users without a home


def none_for_zero(value: Any) -> Any:
    """Take 0 for "without a bound": TOML has no word for None."""
    return None if value in (0, "0") else value


UserPath = Annotated[Path, AfterValidator(_user_path)]
"""A path as users write it."""


def slug(text: str) -> str:
    """Return a text in letters, digits, ``_`` and ``-`` alone, at most 64 of them."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", text).strip("_")[:64] or "unnamed"


class Section(BaseModel):
    """A table of the configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)
