"""A small client of the page's API, for programs."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from detector.errors import DeviceError, SourceError

Message: TypeAlias = tuple[str, Mapping[str, Any]]
"""A kind (frames, record, state) and its JSON object; see the description of the API."""
_ANSWER_TIMEOUT_S: Final = 10.0
_STREAM_TIMEOUT_S: Final = 5.0
"""A stream without data for so long is dead: the state is sent once a second."""


class WebClient:
    """Requests from one service."""

    def __init__(self, host: str, port: int, token: str | None) -> None:
        """Prepare; nothing is requested yet."""
        self._host, self._port = host, port
        self._address = f"{host}:{port}"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str) -> Any:
        """Return the JSON of an answer; raises DeviceError where there is no such service, or it requires a token."""
        try:
            return json.loads(self._answer(path, _ANSWER_TIMEOUT_S).read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DeviceError(f"{self._address}: the answer is not that of snn-detect's page ({error})") from error

    def stream(self) -> Iterator[Message]:
        """Yield messages as they come.

        Raises DeviceError as ``get`` does, OSError where nothing comes any more, SourceError where the stream ends.
        """
        kind = ""
        for raw in self._answer("/api/stream", _STREAM_TIMEOUT_S):
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
            reason = f"no page of snn-detect answers ({error}); start one with --web"
            raise DeviceError(f"{self._address}: {reason}") from error
        if answer.status == http.client.UNAUTHORIZED:
            raise DeviceError(f"{self._address}: a token is required; name its file with --token-file")
        if answer.status != http.client.OK:
            raise DeviceError(f"{self._address}: answers {answer.status} {answer.reason}")
        return answer
