"""Secrets: from files and from systemd's credentials, never repeated in a message."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from detector.config.secrets import credential, read_secret
from detector.errors import ConfigError


def test_secrets_from_files_and_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"hunter2\r\nnot this\n")
    file.chmod(0o640)
    assert read_secret(file) == "hunter2"
    with pytest.raises(ConfigError, match="no credential 'secret'"):
        read_secret("secret")
    assert credential("secret") is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert credential("secret") == file
    assert read_secret("secret") == "hunter2"
    (tmp_path / "blank").write_text("\n", encoding="utf-8")
    assert credential("blank") is None


@pytest.mark.parametrize(
    ("data", "expected"), [(None, "No such file"), (b"\n", "is empty"), (b"\xff\xfe", "is not UTF-8 text")]
)
def test_secrets_that_cannot_be_used(tmp_path: Path, data: bytes | None, expected: str) -> None:
    path = tmp_path / "secret"
    if data is not None:
        path.write_bytes(data)
        path.chmod(0o600)
    with pytest.raises(ConfigError, match=expected):
        read_secret(path)


def test_a_secret_that_every_user_can_read_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "secret"
    path.write_text("hunter2", encoding="utf-8")
    path.chmod(0o604)
    with caplog.at_level(logging.WARNING):
        assert read_secret(path) == read_secret(path) == "hunter2"
    (message,) = caplog.messages
    assert "every user can read this secret" in message
    assert "hunter2" not in message
