"""The download of AudioSet's sounds, with stand-ins for yt-dlp and ffmpeg, since no network is at hand.

The stand-ins refuse what the real programs refuse: another order of options, an unknown option.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from detector.errors import ConfigError, SourceError
from models.cli.main import cli
from models.data.audioset import Wanted, download, read_wanted

RATE_HZ = 16000
YT_DLP = r"""#!/bin/sh
echo "yt-dlp $*" >> "$WORK/log"
[ $# = 9 ] && [ "$1 $2 $3 $4 $5 $6 $7 $8" = \
  "--dump-json --no-playlist --no-warnings --socket-timeout 20 --format bestaudio/best --" ] ||
  { echo "yt-dlp: error: no such option" >&2; exit 2; }
case "$9" in
  "https://www.youtube.com/watch?v=dead"*)
    echo "WARNING: something" >&2; echo "ERROR: [youtube] ${9#*v=}: Video unavailable" >&2; exit 1 ;;
  "https://www.youtube.com/watch?v=odd"*) echo '{"requested_formats": []}' ;;
  "https://www.youtube.com/watch?v=brief"*) echo '{"url": "https://sound/brief", "duration": 20}' ;;
  "https://www.youtube.com/watch?v="*)
    echo "{\"url\": \"https://sound/${9#*v=}\", \"http_headers\": {\"User-Agent\": \"T\"}, \"duration\": null}" ;;
  *) echo "ERROR: not a valid URL" >&2; exit 1 ;;
esac
"""
FFMPEG = r"""#!/bin/sh
[ "$1 $2 $3 $4 $5" = "-nostdin -hide_banner -loglevel error -y" ] || { echo "Unrecognized option" >&2; exit 8; }
shift 5
[ "$1 $2." = "$(printf -- '-headers User-Agent: T\r\n.')" ] || { echo "403 Forbidden: $2" >&2; exit 8; }
shift 2
echo "ffmpeg $*" >> "$WORK/log"
[ $# = 14 ] && [ "$1 $3 $5 $7 $8 $9" = "-ss -i -t -vn -ac 1" ] || { echo "Unrecognized option" >&2; exit 8; }
address=$4; shift 9
[ "$1 $2 $3 $4" = "-ar 16000 -f flac" ] || { echo "Unrecognized option" >&2; exit 8; }
out=${5#file:}
case "$out" in /*.part) ;; *) echo "Unable to choose an output format" >&2; exit 1 ;; esac
case "$address" in
  *slow*) head -c 100 "$WORK/10.flac" > "$out"; echo $$ > "$WORK/slow"; sleep 60 ;;
  *short*) cp "$WORK/2.flac" "$out" ;;
  *empty*) : > "$out" ;;
  *) cp "$WORK/10.flac" "$out" ;;
esac
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with the stand-ins on the PATH."""
    (tmp_path / "bin").mkdir()
    for name, text in (("yt-dlp", YT_DLP), ("ffmpeg", FFMPEG)):
        (tmp_path / "bin" / name).write_text(text, encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    for seconds in (2, 10):
        soundfile.write(tmp_path / f"{seconds}.flac", np.full(seconds * RATE_HZ, 0.25), RATE_HZ)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("WORK", str(tmp_path))
    return tmp_path


def wanted(name: str, start_s: float = 30.0) -> Wanted:
    ytid = name.ljust(11, "x")
    return Wanted(f"{ytid}_{round(1000 * start_s)}.flac", ytid, start_s, start_s + 10)


def log(work: Path) -> list[str]:
    path = work / "log"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_sounds_are_fetched_cut_and_named(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    # A name that begins like an option, in a folder without a name of its own.
    outcome = download([wanted("-good", 12.5)], Path(), RATE_HZ, 1)
    assert (outcome.fetched, outcome.there, outcome.failures) == (1, 0, {})
    assert soundfile.info("./-goodxxxxxx_12500.flac").frames == 10 * RATE_HZ
    asked, cut = log(work)
    assert asked.endswith("-- https://www.youtube.com/watch?v=-goodxxxxxx")
    assert cut.startswith("ffmpeg -ss 12.500 -i https://sound/-goodxxxxxx -t 10.000 -vn")
    assert not list(work.glob("*.part"))


def test_what_does_not_come_is_reported_and_written_down(work: Path) -> None:
    out = work / "out"
    names = ["good", "dead", "dead2", "odd", "short", "empty"]
    outcome = download([*map(wanted, names), wanted("brief", 20.0)], out, RATE_HZ, 3)
    assert outcome.fetched == 1
    reasons = {path.split("x")[0]: reason for path, reason in outcome.failures.items()}
    assert reasons["dead"] == reasons["dead2"] == "Video unavailable"
    assert reasons["odd"] == "yt-dlp names no sound for this video"
    assert reasons["short"] == "only 2.0 s of 10.0 s were received"
    assert reasons["brief"] == "the video has only 20 s"
    assert "0 bytes" in reasons["empty"]
    assert "1 fetched, 0 there before, 6 failed; most often (2): Video unavailable" in outcome.summary()
    assert sorted(p.name for p in out.iterdir()) == ["failures.csv", wanted("good").path]
    lines = (out / "failures.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "path,reason"
    assert len(lines) == 7


def test_a_second_run_goes_on_where_the_first_stopped(work: Path) -> None:
    out = work / "out"
    out.mkdir()
    there, stale = wanted("there"), wanted("stale")
    (out / there.path).write_bytes(b"whole")
    (out / f"{stale.path}.part").write_bytes(b"half")
    (out / "failures.csv").write_text("of the first run", encoding="utf-8")
    outcome = download([there, stale], out, RATE_HZ, 1)
    assert (outcome.fetched, outcome.there) == (1, 1)
    assert (out / there.path).read_bytes() == b"whole"
    assert not [text for text in log(work) if there.ytid in text]
    assert sorted(p.name for p in out.iterdir()) == sorted([there.path, stale.path])


@pytest.mark.parametrize("name", ["yt-dlp", "ffmpeg"])
def test_a_missing_program_is_named_with_its_package(work: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (work / "bin" / name).unlink()
    monkeypatch.setenv("PATH", str(work / "bin"))
    with pytest.raises(ConfigError, match=rf"^{name} is not on the PATH.*install {name}$"):
        download([wanted("good")], work / "out", RATE_HZ, 1)


def test_a_folder_that_cannot_be_made_is_reported(work: Path) -> None:
    (work / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        download([wanted("good")], work / "file" / "out", RATE_HZ, 1)


def test_ctrl_c_stops_the_programs_and_leaves_whole_files_only(work: Path) -> None:
    table, out = work / "manifest.csv", work / "out"
    rows = [f"{w.ytid},{w.start_s},{w.end_s},{w.path},a,1" for w in map(wanted, ["good", "slow", "never"])]
    table.write_text("\n".join(["ytid,start_s,end_s,path,label,fold", *rows]), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "models.cli.main",
        "audioset-download",
        str(table),
        "--out",
        str(out),
        "--jobs",
        "1",
    ]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (work / "slow").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert [p.name for p in out.iterdir()] == [wanted("good").path]
    assert not [text for text in log(work) if "never" in text]
    with pytest.raises(ProcessLookupError):
        os.kill(int((work / "slow").read_text(encoding="utf-8")), 0)


def test_the_command_fetches_what_a_manifest_asks_for(work: Path) -> None:
    table = work / "manifest.csv"
    good, dead = wanted("good"), wanted("dead")
    rows = [f"{w.ytid},{w.start_s},{w.end_s},{w.path}" for w in (good, dead, good)]
    table.write_text("\n".join(["ytid,start_s,end_s,path", *rows]), encoding="utf-8")
    command = [sys.executable, "-m", "models.cli.main", "audioset-download", str(table), "--out", str(work / "out")]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "line 4: goodxxxxxxx_30000.flac is listed before; fetched once" in done.stderr
    assert "1 fetched, 0 there before, 1 failed" in done.stderr
    assert (work / "out" / good.path).is_file()


def test_where_nothing_comes_at_all_the_command_fails(work: Path) -> None:
    table = work / "manifest.csv"
    table.write_text("path,ytid,start_s,end_s\nx.flac,deadxxxxxxx,0,10\n", encoding="utf-8")
    done = CliRunner().invoke(cli, ["audioset-download", str(table), "--out", str(work / "out")])
    assert done.exit_code == SourceError.exit_code
    assert "1 failed; most often (1): Video unavailable" in done.stderr


def test_rows_that_lead_astray_are_left_out(tmp_path: Path) -> None:
    table = tmp_path / "manifest.csv"
    bad = ["../xxxxxxxxxxx.flac,aaaaaaaaaaa,0,10", "/x.flac,aaaaaaaaaaa,0,10", "x.sh,aaaaaaaaaaa,0,10"]
    bad += ["x.flac,aaaa&x=aaaa,0,10", "x.flac,aaaaaaaaaaa,5,5", "x.flac,aaaaaaaaaaa,,10", "x.flac,aaaaaaaaaaa,0,inf"]
    table.write_text("\n".join(["path,ytid,start_s,end_s", *bad, "a/x.flac,aaaaaaaaaaa,0,10"]), encoding="utf-8")
    found, problems = read_wanted(table)
    assert found == [Wanted("a/x.flac", "aaaaaaaaaaa", 0.0, 10.0)]
    assert len(problems) == len(bad)
    table.write_text("path,ytid,start_s,end_s\n", encoding="utf-8")
    with pytest.raises(SourceError, match="audioset-manifest"):
        read_wanted(table)
