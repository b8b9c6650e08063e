"""What Prometheus gets: names, types and labels of the figures."""

from __future__ import annotations

import re

import httpx

from tests.contracts.live import TOKEN, Live
from tests.contracts.snapshots import check
from tests.service import wait_until

HARDWARE = {"snn_detect_temperature_celsius", "snn_detect_under_voltage"}
"""Figures that only some machines have; the test of the alerts holds their names."""
SAMPLE = re.compile(r"^(\w+?)(?:\{(.*)\})? (\S+)$")


def scrape(running: Live, **headers: str) -> httpx.Response:
    """Ask as Prometheus does."""
    return httpx.get(running.metrics_url, headers={"Authorization": f"Bearer {TOKEN}"} | headers, timeout=30)


def test_names_types_and_labels(running: Live) -> None:
    wait_until(lambda: "snn_detect_clips_bytes" in scrape(running).text, "figures of a health record")
    kinds: dict[str, str] = {}
    samples: dict[str, set[str]] = {}
    for line in scrape(running).text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            kinds[name] = kind
            samples[name] = set()
        elif found := SAMPLE.match(line):
            family = next(n for n in (found[1], re.sub(r"_(bucket|sum|count)$", "", found[1])) if n in kinds)
            labels = ",".join(sorted(re.findall(r'(\w+)="', found[2] or "")))
            suffix = found[1].removeprefix(family)
            samples[family].add(f"{suffix}{{{labels}}}")
    lines = [" ".join([name, kind, *sorted(samples[name])]) for name, kind in kinds.items() if name not in HARDWARE]
    check("metrics.txt", "\n".join(sorted(lines)))


def test_values_of_labels(running: Live) -> None:
    text = scrape(running).text
    found = sorted(
        f"{name} {label} {value}"
        for name, label, value in set(
            re.findall(r'^snn_detect_(\w+)\{.*?\b(kind|reason|le)="([^"]*)"', text, re.MULTILINE)
        )
    )
    check("metrics-values-of-labels.txt", "\n".join(found))


def test_the_answer(running: Live) -> None:
    assert scrape(running).headers["content-type"].startswith("text/plain")
    openmetrics = scrape(running, Accept="application/openmetrics-text; version=1.0.0")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


def test_a_token_is_asked_for_where_there_is_one(running: Live) -> None:
    refused = scrape(running, Authorization="Bearer wrong")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="snn-detect"')
    assert httpx.get(running.metrics_url.replace("/metrics", "/nothing"), timeout=30).status_code == 401
    base = running.metrics_url.removesuffix("/metrics")
    authorization = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{base}/nothing", headers=authorization, timeout=30).status_code == 404
    assert httpx.post(f"{base}/metrics", headers=authorization, timeout=30).status_code == 405
