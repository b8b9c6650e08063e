"""Event decoder: each rule by hand, then against its definition, and what holds for all scores."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.decoder import SCORE_OF_ODDS, EventDecoder, Evidence, frame_span
from detector.manifest import ClassSpec, DecoderParams, EvidenceParams
from detector.messages import Event, Scores
from tests.strategies import chunk_lengths, cut

HOP, FRAME = 400, 1000
ROOT = Path(__file__).resolve().parents[2]
PLAIN = DecoderParams(
    smoothing_frames=1, on_threshold=0.7, off_threshold=0.4, min_on_frames=1, min_off_frames=1, refractory_frames=0
)


def decoder(*params: DecoderParams) -> EventDecoder:
    return EventDecoder([ClassSpec(f"class{i}", f"category{i}", p) for i, p in enumerate(params)], HOP, FRAME)


def column(*values: float) -> Scores:
    return np.array(values, np.float32)[:, None]


def moments(events: list[Event]) -> list[tuple[str, int]]:
    """Give each event's kind and the frame that decided it."""
    return [(e.kind, (e.emitted_sample - FRAME + 1) // HOP) for e in events]


def decode(params: DecoderParams, *values: float) -> list[tuple[str, int]]:
    """Give the moments of the events of one class; what is open at the end stays open."""
    return moments(decoder(params).push(column(*values)))


def test_a_sound_by_hand() -> None:
    onset, offset = decoder(PLAIN).push(column(0.1, 0.8, 1.0, 0.5, 0.2, 0.1))
    assert asdict(onset) == {
        "kind": "onset",
        "index": 0,
        "label": "class0",
        "category": "category0",
        "onset_sample": 400,
        "emitted_sample": 1399,
        "score": pytest.approx(0.8),
        "threshold": 0.7,
        "offset_sample": None,
        "peak": None,
        "mean": None,
        "reason": None,
        "rate_hz": 0,
    }
    assert asdict(offset) == {
        **asdict(onset),
        "kind": "offset",
        "emitted_sample": 4 * 400 + 999,
        "score": pytest.approx(0.2),
        "offset_sample": 3 * 400 + 1000,
        "peak": 1.0,
        "mean": pytest.approx((0.8 + 1.0 + 0.5) / 3),
        "reason": "ended",
    }


def test_a_threshold_is_met_when_reached_exactly() -> None:
    """0.7 as float32 lies below 0.7 as float64; the score of 0.7 meets the threshold all the same."""
    just_below = float(np.nextafter(np.float32(0.7), np.float32(0)))
    assert decode(PLAIN, just_below) == []
    assert decode(PLAIN, 0.7) == [("onset", 0)]
    just_below = float(np.nextafter(np.float32(0.4), np.float32(0)))
    assert decode(PLAIN, 0.9, 0.4, 0.4) == [("onset", 0)]
    assert decode(PLAIN, 0.9, just_below) == [("onset", 0), ("offset", 1)]


@pytest.mark.parametrize("frames", [2, 3, 5, 7])
def test_a_steady_score_at_the_threshold_meets_it_after_smoothing(frames: int) -> None:
    for threshold in (0.1, 0.3, 0.7, 0.9):
        p = replace(PLAIN, smoothing_frames=frames, on_threshold=threshold, off_threshold=threshold)
        assert decode(p, *[threshold] * 20) == [("onset", 0)]


def test_between_the_thresholds_nothing_changes() -> None:
    assert decode(PLAIN, 0.6, 0.69, 0.41) == []
    assert decode(PLAIN, 0.8, 0.6, 0.41, 0.69) == [("onset", 0)]


def test_smoothing_is_the_mean_of_the_scores_that_there_are() -> None:
    p = replace(PLAIN, smoothing_frames=3, on_threshold=0.5, off_threshold=0.3)
    # Means: 0.4, 0.5, 0.6, 0.5, 0.33, 0.1; the fourth no longer holds the first score.
    events = decoder(p).push(column(0.4, 0.6, 0.8, 0.1, 0.1, 0.1))
    assert moments(events) == [("onset", 1), ("offset", 5)]
    assert events[0].score == pytest.approx(0.5)
    assert events[1].peak == pytest.approx(0.6)
    assert events[1].mean == pytest.approx((0.5 + 0.6 + 0.5 + 1 / 3) / 4)


def test_smoothing_does_not_drift() -> None:
    """After a year's worth of large and small scores a mean is the mean of its own scores, to the bit."""
    p = replace(PLAIN, smoothing_frames=4, on_threshold=0.9)
    room = decoder(p)
    room.push(np.random.default_rng(0).random((100_000, 1), np.float32) * np.float32(0.89))
    last = column(1.0, 1.0, 0.95, 0.90)
    (event,) = room.push(last)
    assert event.score == math.fsum(last[:, 0].tolist()) / 4


def test_means_are_exact_and_what_is_next_to_nothing_is_nothing() -> None:
    p = replace(PLAIN, smoothing_frames=3, on_threshold=0.3, off_threshold=0.3)
    (event,) = decoder(p).push(column(2**-21, 2**-20, 1.0))
    assert event.score == (1 + 2**-20) / 3


def test_a_mean_may_reach_the_threshold_after_the_last_score_that_does() -> None:
    """Means, frame by frame: 0, 0, 0, 0.25, 0.4, 0.55, 0.7."""
    room = decoder(replace(PLAIN, smoothing_frames=4))
    assert [len(room.push(column(x))) for x in (0.0, 0.0, 0.0, 1.0, 0.6, 0.6, 0.61)] == [0, 0, 0, 0, 0, 0, 1]


def test_an_onset_needs_its_frames_in_a_row() -> None:
    p = replace(PLAIN, min_on_frames=3)
    assert decode(p, 0.8, 0.8, 0.6, 0.8, 0.8, 0.6) == []
    (onset,) = decoder(p).push(column(0.8, 0.8, 0.6, 0.9, 0.8, 0.75))
    assert onset.onset_sample == 3 * HOP
    assert onset.emitted_sample == 5 * HOP + FRAME - 1
    assert onset.score == pytest.approx(0.75)


def test_a_sounds_mean_and_peak_begin_with_the_run_that_led_to_it() -> None:
    p = replace(PLAIN, min_on_frames=2)
    offset = decoder(p).push(column(1.0, 0.6, 0.9, 0.8, 0.0))[-1]
    assert offset.peak == pytest.approx(0.9)
    assert offset.mean == pytest.approx(0.85)


def test_a_dip_is_merged_until_it_is_as_long_as_the_shortest_gap() -> None:
    p = replace(PLAIN, min_off_frames=3)
    assert decode(p, 0.8, 0.1, 0.1, 0.5, 0.1, 0.1) == [("onset", 0)]
    assert decode(p, 0.8, 0.1, 0.1, 0.1, 0.5) == [("onset", 0), ("offset", 3)]


def test_a_merged_dip_counts_in_the_mean_and_the_last_one_does_not() -> None:
    p = replace(PLAIN, min_off_frames=2)
    offset = decoder(p).push(column(0.8, 0.1, 0.6, 0.2, 0.3))[-1]
    assert offset.offset_sample == 2 * HOP + FRAME
    assert offset.mean == pytest.approx((0.8 + 0.1 + 0.6) / 3)


def test_no_run_begins_in_the_refractory_time() -> None:
    p = replace(PLAIN, refractory_frames=3)
    # The offset is sent in frame 1; frames 2, 3 and 4 are void.
    assert decode(p, 0.8, 0.1, 0.8, 0.8, 0.8, 0.1) == [("onset", 0), ("offset", 1)]
    assert decode(p, 0.8, 0.1, 0.8, 0.8, 0.8, 0.8) == [("onset", 0), ("offset", 1), ("onset", 5)]
    events = decoder(replace(p, min_on_frames=2)).push(column(0.8, 0.8, 0.1, 0.8, 0.8, 0.8, 0.8, 0.8))
    assert moments(events)[2:] == [("onset", 7)]
    assert events[-1].onset_sample == 6 * HOP


def test_without_a_refractory_time_the_next_frame_may_begin_a_sound() -> None:
    assert decode(PLAIN, 0.8, 0.1, 0.8) == [("onset", 0), ("offset", 1), ("onset", 2)]


def test_the_end_of_the_stream_closes_what_is_open() -> None:
    room = decoder(replace(PLAIN, min_off_frames=5), PLAIN)
    room.push(np.array([[0.8, 0.1], [0.9, 0.8], [0.2, 0.8]], np.float32))
    first, second = room.flush()
    assert (first.label, first.kind, first.reason) == ("class0", "offset", "end_of_stream")
    assert first.emitted_sample == 2 * HOP + FRAME - 1
    assert first.offset_sample == 1 * HOP + FRAME
    assert first.score == pytest.approx(0.2)
    assert first.mean == pytest.approx(0.85)
    assert (second.label, second.offset_sample) == ("class1", 2 * HOP + FRAME)
    assert room.flush() == []


def test_a_run_that_led_to_no_onset_ends_with_the_stream() -> None:
    room = decoder(replace(PLAIN, min_on_frames=3))
    assert room.push(column(0.8, 0.8)) == []
    assert room.flush() == []
    assert room.push(column(0.8)) == []


def test_a_stream_of_no_frames() -> None:
    room = decoder(PLAIN)
    assert room.push(np.empty((0, 1), np.float32)) == []
    assert room.flush() == []


def test_a_gap_ends_sounds_and_positions_go_on_behind_it() -> None:
    room = decoder(replace(PLAIN, smoothing_frames=2))
    room.push(column(0.8, 0.8))
    (ended,) = room.flush("gap")
    assert (ended.reason, ended.index) == ("gap", 0)
    room.reset(first_sample=50_000, first_index=room.next_index)
    (onset,) = room.push(column(0.1, 0.8, 0.8))
    assert onset.index == 1
    assert onset.onset_sample == 50_000 + 2 * HOP
    assert onset.emitted_sample == 50_000 + 2 * HOP + FRAME - 1


def test_classes_are_numbered_together_and_ordered_within_a_frame() -> None:
    """In frame 2 class 2 ends while 0 and 1 begin: offsets first, then the classes in their order."""
    scores = np.array([[0, 0, 0.9], [0, 0, 0.9], [0.9, 0.9, 0], [0, 0.9, 0]], np.float32)
    events = decoder(PLAIN, PLAIN, PLAIN).push(scores)
    assert [(e.kind, e.label, e.index) for e in events] == [
        ("onset", "class2", 0),
        ("offset", "class2", 0),
        ("onset", "class0", 1),
        ("onset", "class1", 2),
        ("offset", "class0", 1),
    ]


def test_what_is_no_score_is_brought_into_range() -> None:
    nan, inf = math.nan, math.inf
    assert decode(PLAIN, nan, nan) == []
    assert decode(PLAIN, 0.8, nan) == [("onset", 0), ("offset", 1)]
    assert decode(replace(PLAIN, smoothing_frames=2), nan, 0.9, 0.5) == [("onset", 2)]
    (onset,) = decoder(PLAIN).push(column(inf))
    assert onset.score == 1.0


def test_scores_that_the_caller_overwrites_were_taken() -> None:
    room, scores = decoder(replace(PLAIN, smoothing_frames=2)), column(0.6)
    room.push(scores)
    scores[:] = 0.0
    (onset,) = room.push(column(0.8))
    assert onset.score == pytest.approx(0.7)


def test_a_long_push_is_many_short_ones() -> None:
    """Sounds across the borders of the decoder's own blocks, at each distance from them."""
    p = replace(PLAIN, smoothing_frames=5, min_on_frames=3, min_off_frames=4, refractory_frames=6)
    for shift in range(240, 270):
        scores = np.zeros((600, 1), np.float32)
        scores[shift : shift + 10] = scores[shift + 22 : shift + 40] = 0.9
        at_once, singly = decoder(p).push(scores), decoder(p)
        assert [e for row in scores for e in singly.push(row[None])] == at_once
        assert moments(at_once) == by_definition(p, scores[:, 0].tolist())
        assert len(at_once) == 4


def test_reset_is_like_new() -> None:
    p = replace(PLAIN, smoothing_frames=3, refractory_frames=9)
    scores = column(*[0.0, 0.0, 0.8, 0.9, 0.9, 0.9, 0.9, 0.8] * 50)
    room = decoder(p)
    wanted = room.push(scores)
    room.reset()
    assert room.next_index == 0
    assert room.push(scores) == wanted


def test_reset_forgets_open_sounds() -> None:
    room = decoder(PLAIN)
    assert len(room.push(column(0.8))) == 1
    room.reset()
    assert room.flush() == []


levels = st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, math.nan])
score_tracks = st.lists(st.tuples(levels, st.integers(1, 12)), min_size=1, max_size=30).map(
    lambda runs: [level for level, frames in runs for _ in range(frames)]
)


@st.composite
def decoder_params(draw: st.DrawFn) -> DecoderParams:
    off, on = sorted((draw(st.sampled_from([0.0, 0.3, 0.4, 0.6, 1.0])), draw(st.sampled_from([0.0, 0.4, 0.7, 0.9]))))
    evidence = EvidenceParams(
        draw(st.sampled_from([0.0, 0.02, 0.3, 1.0])),
        draw(st.sampled_from([0.001, 0.1, 0.5, 1.0])),
        draw(st.sampled_from([-6.0, -2.5, 0.0, 1.3, 6.0])),
    )
    has_evidence = draw(st.booleans())
    return DecoderParams(
        1 if has_evidence else draw(st.integers(1, 6)),
        on,
        off,
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        draw(st.integers(0, 6)),
        evidence if has_evidence else None,
    )


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[DecoderParams], Scores]:
    """Draw one to four classes, and scores for them with runs, dips, ties and what is not a number."""
    tracks = draw(st.lists(score_tracks, min_size=1, max_size=4))
    scores = np.zeros((max(map(len, tracks)), len(tracks)), np.float32)
    for column_, track in zip(scores.T, tracks, strict=True):
        column_[: len(track)] = track
    return [draw(decoder_params()) for _ in tracks], scores


def evidence_by_definition(p: EvidenceParams, track: list[float]) -> list[float]:
    """Compute evidence score by score, in integers of Python and with a table of its own."""
    table = [round(2**15 / (1 + math.exp(-(j - 96) / 16))) for j in range(193)]
    table[0], table[-1] = 0, 2**15
    leak, weight, bias = round(4096 * p.leak), round(1024 * p.weight), round(16 * 1024 * (p.bias + 6))
    evidence, found = 0, []
    for score in track:
        steps = math.floor(score * 2**15)
        at = max(j for j in range(193) if table[j] <= steps)
        odds = 1024 * at + (0 if at == 192 else 1024 * (steps - table[at]) // (table[at + 1] - table[at]))
        evidence += -math.floor(evidence * leak / 4096) + math.floor(weight * (odds - bias) / 1024)
        evidence = min(max(evidence, 0), 192 * 1024)
        at, part = divmod(evidence, 1024)
        found.append((table[at] + (0 if at == 192 else (table[at + 1] - table[at]) * part // 1024)) / 2**15)
    return found


def by_definition(p: DecoderParams, track: list[float]) -> list[tuple[str, int]]:
    """Decide each frame from all the scores before it: slow, but without a state."""
    n = p.smoothing_frames
    raw = [0.0 if math.isnan(x) else x for x in track]
    windows = [raw[max(0, t - n + 1) : t + 1] for t in range(len(raw))]
    smoothed = [sum(w) / len(w) for w in windows]
    if p.evidence is not None:
        smoothed = evidence_by_definition(p.evidence, [float(np.float32(x)) for x in raw])
    on, off = float(np.float32(p.on_threshold)), float(np.float32(p.off_threshold))
    events: list[tuple[str, int]] = []
    for t in range(len(raw)):
        kind, at = events[-1] if events else ("", -1 - p.refractory_frames)
        run = smoothed[max(0, t - (p.min_off_frames if kind == "onset" else p.min_on_frames) + 1) : t + 1]
        if kind == "onset":
            if t - at >= p.min_off_frames and all(s < off for s in run):
                events.append(("offset", t))
        elif t - at - p.refractory_frames >= p.min_on_frames and len(run) == p.min_on_frames and min(run) >= on:
            events.append(("onset", t))
    return events


@given(streams())
def test_each_class_follows_the_definition(stream: tuple[list[DecoderParams], Scores]) -> None:
    params, scores = stream
    events = decoder(*params).push(scores)
    for c, p in enumerate(params):
        mine = [e for e in events if e.label == f"class{c}"]
        assert moments(mine) == by_definition(p, scores[:, c].tolist())


@given(streams(), chunk_lengths(most=40))
def test_chunking_cannot_show(stream: tuple[list[DecoderParams], Scores], lengths: list[int]) -> None:
    params, scores = stream
    whole, chunked = decoder(*params), decoder(*params)
    wanted = whole.push(scores) + whole.flush()
    assert [e for chunk in cut(scores, lengths) for e in chunked.push(chunk)] + chunked.flush() == wanted


@given(streams())
def test_classes_are_independent(stream: tuple[list[DecoderParams], Scores]) -> None:
    params, scores = stream
    events = decoder(*params).push(scores)
    for c, p in enumerate(params):
        alone = decoder(p).push(scores[:, c : c + 1])
        mine = [e for e in events if e.label == f"class{c}"]
        assert [replace(e, index=0, label="", category="") for e in mine] == [
            replace(e, index=0, label="", category="") for e in alone
        ]


@given(streams())
def test_what_holds_for_all_events(stream: tuple[list[DecoderParams], Scores]) -> None:
    params, scores = stream
    room = decoder(*params)
    events = room.push(scores) + room.flush()
    assert [e.emitted_sample for e in events] == sorted(e.emitted_sample for e in events)
    assert [e.index for e in events if e.kind == "onset"] == list(range(room.next_index))
    of_class = defaultdict(list)
    for e in events:
        of_class[e.label].append(e)
    for label, mine in of_class.items():
        p = params[int(label.removeprefix("class"))]
        onsets, offsets = mine[0::2], mine[1::2]
        for onset, offset in zip(onsets, offsets, strict=True):
            assert (onset.kind, offset.kind) == ("onset", "offset")
            check_pair(p, onset, offset)
        for offset, onset in zip(offsets, onsets[1:], strict=False):
            assert onset.emitted_sample - offset.emitted_sample >= (p.refractory_frames + p.min_on_frames) * HOP


def check_pair(p: DecoderParams, onset: Event, offset: Event) -> None:
    assert onset.index == offset.index
    assert onset.onset_sample == offset.onset_sample
    assert onset.emitted_sample == onset.onset_sample + (p.min_on_frames - 1) * HOP + FRAME - 1
    assert offset.offset_sample is not None
    assert offset.peak is not None
    assert offset.mean is not None
    assert onset.onset_sample < offset.offset_sample <= offset.emitted_sample + 1
    assert onset.score <= offset.peak
    assert 0 <= offset.mean <= offset.peak * (1 + 1e-12)
    if offset.reason == "ended":
        assert (offset.emitted_sample + 1 - offset.offset_sample) == p.min_off_frames * HOP


@given(streams(), st.integers(0, 10**12), st.integers(0, 10**6))
def test_an_anchor_only_moves_positions(
    stream: tuple[list[DecoderParams], Scores], first_sample: int, first_index: int
) -> None:
    """Also: whatever was decoded before, a reset decoder gives what a fresh one does."""
    params, scores = stream
    fresh, used = decoder(*params), decoder(*params)
    used.push(scores[::-1])
    used.reset(first_sample, first_index)
    moved = [
        replace(
            e,
            index=e.index + first_index,
            onset_sample=e.onset_sample + first_sample,
            emitted_sample=e.emitted_sample + first_sample,
            offset_sample=None if e.offset_sample is None else e.offset_sample + first_sample,
        )
        for e in fresh.push(scores) + fresh.flush()
    ]
    assert used.push(scores) + used.flush() == moved


def evident() -> DecoderParams:
    """Return decoder values with evidence without a leak, which grows by half of what the log-odds are above 0."""
    return replace(PLAIN, on_threshold=0.5, off_threshold=0.25, evidence=EvidenceParams(0.0, 0.5, 0.0))


def test_evidence_comes_sooner_where_a_sound_is_clear() -> None:
    """The threshold of 0.5 is evidence of 6: at 0.98, with log-odds of 3.89, the 4th frame; at 0.9, 2.20, the 6th."""
    for score, frame in ((1.0, 1), (0.98, 3), (0.9, 5), (0.7, 14)):
        assert decode(evident(), *[0.0] * 3, *[score] * 20) == [("onset", 3 + frame)]
    assert decode(evident(), *[0.5] * 500) == []


def test_evidence_outlasts_a_dip_and_leaks() -> None:
    """Six frames at 0.9 give 6.6; one at 0.1 takes 1.1 from that, which is above the off-threshold's 4.9."""
    assert decode(evident(), *[0.9] * 6, 0.1) == [("onset", 5)]
    assert decode(evident(), *[0.9] * 6, 0.1, 0.1) == [("onset", 5), ("offset", 7)]
    leaking = replace(evident(), evidence=EvidenceParams(0.2, 0.5, 0.0))  # 1.1 a frame comes to 5.5 at the most
    assert decode(leaking, *[0.9] * 500) == []


def test_evidence_is_what_the_formula_says() -> None:
    """With real numbers in place of integers and tables; scores that noise makes around one half."""
    p = EvidenceParams(leak=0.03, weight=0.1, bias=-0.5)
    scores = 1 / (1 + np.exp(-np.random.default_rng(1).normal(0, 2, 2000).clip(-6, 6)))
    evidence, wanted = 0.0, []
    for odds in np.log(scores / (1 - scores)):
        evidence = min(max((1 - p.leak) * evidence + p.weight * (odds - p.bias), 0.0), 12.0)
        wanted.append(1 / (1 + math.exp(6 - evidence)))
    found = Evidence([p]).push(scores.astype(np.float32)[:, None])[:, 0]
    assert found == pytest.approx(np.array(wanted), abs=0.01)
    assert np.std(found) > 0.01


def test_the_table_of_evidence_is_that_of_the_c() -> None:
    source = (ROOT / "detector" / "engine" / "c" / "snn_evidence.h").read_text(encoding="ascii")
    (table,) = re.findall(r"snn_score_of_odds\[SNN_ODDS \+ 1\] = \{([^}]*)\}", source)
    assert tuple(map(int, table.split(","))) == SCORE_OF_ODDS
    assert all(a < b for a, b in itertools.pairwise(SCORE_OF_ODDS))
    constants = dict(re.findall(r"#define (SNN_[A-Z_]+) (\d+)", source))
    assert constants == {
        "SNN_ODDS": "192",
        "SNN_PART_BITS": "10",
        "SNN_LEAK_BITS": "12",
        "SNN_EVIDENCE_SCORE": "32768",
    }


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"leak": 1.01}, "evidence.leak must lie in [0.0, 1.0], not 1.01"),
        ({"leak": -0.1}, "evidence.leak must lie in [0.0, 1.0], not -0.1"),
        ({"weight": 0.0}, "evidence.weight must lie in [0.0009765625, 1.0], not 0.0"),
        ({"weight": math.nan}, "evidence.weight must lie in [0.0009765625, 1.0], not nan"),
        ({"bias": 6.5}, "evidence.bias must lie in [-6, 6], not 6.5"),
    ],
)
def test_refuses_evidence_that_cannot_be(wrong: dict[str, float], text: str) -> None:
    evidence = replace(EvidenceParams(0.0, 0.5, 0.0), **wrong)
    with pytest.raises(ValueError, match=re.escape(f"'class0': {text}")):
        decoder(replace(PLAIN, evidence=evidence))


def test_refuses_an_average_beside_evidence() -> None:
    with pytest.raises(ValueError, match="'class0': smoothing_frames must be 1 with evidence"):
        decoder(replace(evident(), smoothing_frames=2))


def test_frames_overlap_by_what_the_hop_leaves() -> None:
    assert frame_span(0, 0, HOP, FRAME) == (0, 1000)
    assert frame_span(3, 50, HOP, FRAME) == (1250, 2250)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"smoothing_frames": 0}, "smoothing_frames must lie in [1, 256], not 0"),
        ({"smoothing_frames": 257}, "smoothing_frames must lie in [1, 256], not 257"),
        ({"min_on_frames": 0}, "min_on_frames must lie in [1, inf], not 0"),
        ({"min_off_frames": -2}, "min_off_frames must lie in [1, inf], not -2"),
        ({"refractory_frames": -1}, "refractory_frames must lie in [0, inf], not -1"),
        ({"on_threshold": 1.5}, "on_threshold must lie in [0, 1], not 1.5"),
        ({"on_threshold": math.nan}, "on_threshold must lie in [0, 1], not nan"),
        ({"off_threshold": -0.1}, "off_threshold must lie in [0, 0.7], not -0.1"),
        ({"off_threshold": 0.8}, "off_threshold must lie in [0, 0.7], not 0.8"),
    ],
)
def test_refuses_what_cannot_be(wrong: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"'class1': {text}")):
        decoder(PLAIN, DecoderParams(**(asdict(PLAIN) | wrong)))


def test_refuses_no_classes_and_no_lengths() -> None:
    with pytest.raises(ValueError, match="at least one class"):
        decoder()
    with pytest.raises(ValueError, match="not 0 and 800"):
        EventDecoder([ClassSpec("a", "b", PLAIN)], 0, 800)
    with pytest.raises(ValueError, match="not 400 and 0"):
        EventDecoder([ClassSpec("a", "b", PLAIN)], 400, 0)


def test_refuses_scores_of_other_classes() -> None:
    with pytest.raises(ValueError, match=r"\(n, 2\), not \(4, 3\)"):
        decoder(PLAIN, PLAIN).push(np.zeros((4, 3), np.float32))
