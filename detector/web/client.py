"""A client of the page's API, as small as a program needs it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from detector.errors import DeviceError, SourceError

Message: TypeAlias = tuple[str, Mapping[str, Any]]
"""A kind (frames, record, state) and what it tells; see the description of the API."""
_ANSWER_S: Final = 10.0
_SILENT_S: Final = 5.0
"""A stream that says nothing for so long is dead: the state alone comes once a second."""


class WebClient:
    """Asks one service."""

    def __init__(self, host: str, port: int, token: str | None) -> None:
        """Prepare to ask."""
        self._host, self._port = host, port
        self._where = f"{host}:{port}"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str) -> Any:
        """Return the JSON of an answer; raises DeviceError where there is no such service, or it wants a token."""
        try:
            return json.loads(self._answer(path, _ANSWER_S).read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DeviceError(f"{self._where}: answers, but not as a detector's page does ({error})") from error

    def stream(self) -> Iterator[Message]:
        """Yield what happens as it happens.

        Raises DeviceError as ``get`` does, OSError where the stream falls silent, SourceError where it ends.
        """
        kind = ""
        for raw in self._answer("/api/stream", _SILENT_S):
            name, _, value = raw.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)
        raise SourceError("the stream has ended")

    def _answer(self, path: str, timeout_s: float) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            connection.request("GET", path, headers=self._headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            why = f"no detector's page answers there ({error}); start one with --web"
            raise DeviceError(f"{self._where}: {why}") from error
        if answer.status == http.client.UNAUTHORIZED:
            raise DeviceError(f"{self._where}: wants a token; name its file with --token-file")
        if answer.status != http.client.OK:
            raise DeviceError(f"{self._where}: answers {answer.status} {answer.reason}")
        return answer
