"""Decoder values of a new class: peaks, and the rule."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from detector.decoder import EventDecoder
from detector.manifest import ClassSpec
from detector.network import load_model
from detector.pipeline import with_threshold
from models.adapting.operating_points import LIMITS, Choice, Peaks, Piece, Smoother, choose, peak, peaks_of, smoothers

FIRST = load_model().manifest.classes[0].decoder


@pytest.mark.parametrize("smoother", list(smoothers()))
def test_a_peak_is_the_highest_threshold_at_which_the_decoder_reports_an_event(smoother: Smoother) -> None:
    rng = np.random.default_rng(smoother.smoothing_frames * 10 + smoother.min_on_frames)
    for _ in range(20):
        scores = rng.random(40).astype(np.float32) ** 2
        found = peak(Piece("speech", "", 1, scores, 0), smoother)
        for threshold, expected in ((found - 1e-5, True), (found + 1e-5, False)):
            spec = ClassSpec(
                "bell", "things", dataclasses.replace(FIRST, evidence=None, **dataclasses.asdict(smoother))
            )
            decoder = EventDecoder([with_threshold(spec, threshold)], 400, 800)
            assert any(e.kind == "onset" for e in decoder.push(scores[:, None])) is expected


def test_what_precedes_a_piece_is_averaged_but_does_not_count() -> None:
    scores = np.array([0.9, 0.9, 0.1, 0.1, 0.1, 0.1], np.float32)
    assert peak(Piece("", "", 1, scores, 2), Smoother(1, 1)) == pytest.approx(0.1)
    assert peak(Piece("", "", 1, scores, 2), Smoother(2, 1)) == pytest.approx(0.5)
    assert peak(Piece("", "", 1, scores[:1], 0), Smoother(1, 4)) == 0


def peaks(own: list[float], speech: list[float], dishes: list[float]) -> Peaks:
    values = [*own, *speech, *dishes]
    groups = [""] * len(own) + ["speech"] * len(speech) + ["dishes"] * len(dishes)
    return Peaks(np.array(values), np.array(groups), np.arange(len(values)) % 5)


def test_no_group_has_more_events_than_its_sensitivity_allows() -> None:
    rng = np.random.default_rng(0)
    given = peaks(
        rng.uniform(0.3, 1, 25).tolist(), rng.uniform(0, 0.9, 200).tolist(), rng.uniform(0, 0.5, 1000).tolist()
    )
    chosen = choose({Smoother(1, 1): given})
    for name, limit in LIMITS.items():
        rates = given.false(chosen.thresholds[name])
        assert all(rate.hits <= limit * rate.total for rate in rates.values()), name
    # Speech decides, although it is a sixth of the pieces.
    assert given.false(chosen.thresholds["high"] - 0.1)["speech"].value > LIMITS["high"]
    t = chosen.thresholds
    assert t["high"] <= t["balanced"] <= t["low"]
    found = [given.found(t[name]).hits for name in ("high", "balanced", "low")]
    assert found == sorted(found, reverse=True)


def test_a_margin_is_kept_where_thresholds_find_the_same() -> None:
    given = peaks([0.9] * 20, [0.1] * 100, [0.1] * 100)
    assert 0.15 < choose({Smoother(1, 1): given}).thresholds["balanced"] < 0.6


def test_the_form_that_finds_most_is_chosen_and_of_equals_the_shortest() -> None:
    better, worse = peaks([0.9] * 20, [0.1] * 100, []), peaks([0.9] * 10 + [0.05] * 10, [0.1] * 100, [])
    assert choose({Smoother(1, 1): worse, Smoother(4, 2): better, Smoother(8, 4): better}).smoother == Smoother(4, 2)


def test_decoder_values_keep_the_durations_of_the_other_class() -> None:
    chosen = Choice(Smoother(4, 2), {"low": 0.9, "balanced": 0.6, "high": 0.3})
    values = chosen.decoder(FIRST, "low")
    assert (values.smoothing_frames, values.min_on_frames, values.on_threshold) == (4, 2, 0.9)
    assert values.min_off_frames == FIRST.min_off_frames
    assert values.off_threshold / values.on_threshold == pytest.approx(FIRST.off_threshold / FIRST.on_threshold)


def test_folds_are_kept_apart() -> None:
    given = peaks_of(
        [Piece("", "", fold, np.full(4, fold / 10, np.float32), 0) for fold in range(1, 6)], Smoother(1, 1)
    )
    assert given.only(2).values == pytest.approx([0.2])
    assert given.without(2).values == pytest.approx([0.1, 0.3, 0.4, 0.5])
