"""Certificates for tests, made by openssl: an authority, and what it vouches for."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.broker import program


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Vouches for names."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._openssl, self._directory = program("openssl"), directory
        self.pair = self._pair(name)
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")  # which Python 3.13 asks for
        self._run("req", "-x509", "-nodes", *self._new(self.pair), "-days", "2", "-subj", f"/CN={name}", *usage)

    @property
    def certificate(self) -> Path:
        """What others trust who trust this authority."""
        return self.pair.certificate

    def issue(self, name: str, alternatives: str = "IP:127.0.0.1,DNS:localhost") -> Pair:
        """Sign a certificate."""
        pair, request = self._pair(name), self._directory / f"{name}.csr"
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternatives}\nauthorityKeyIdentifier=keyid\n")
        self._run("req", "-nodes", "-newkey", "rsa:2048", "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}")
        signer = ("-CA", self.pair.certificate, "-CAkey", self.pair.key, "-CAcreateserial")
        self._run(
            "x509", "-req", "-in", request, *signer, "-out", pair.certificate, "-days", "2", "-extfile", extensions
        )
        return pair

    def _pair(self, name: str) -> Pair:
        return Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")

    def _new(self, pair: Pair) -> tuple[str | Path, ...]:
        return ("-newkey", "rsa:2048", "-keyout", pair.key, "-out", pair.certificate)

    def _run(self, *arguments: str | Path) -> None:
        subprocess.run([self._openssl, *arguments], check=True, capture_output=True)
