"""Standard metrics of sound event detection: computed by sed_scores_eval, one of them also by sed_eval."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.evaluation.inference import Detection
from models.scenes.folder import Scenes, Stream

ONSET_COLLAR_S = 0.5
"""For the onset-only F1 of DCASE 2017, task 2."""
STRICT_COLLAR_S, STRICT_SHARE = 0.2, 0.2
"""For the F1 of onset and offset, as in DESED."""
_DECIMALS = 6
_AVERAGES = ("macro_average", "micro_average")
Truth = dict[str, list[tuple[float, float, str]]]


@dataclass(frozen=True, slots=True)
class StandardMetrics:
    """Metrics for the comparison with other systems, by class, with macro and micro average."""

    onset_f1: dict[str, float]
    """F1 of events whose onset lies within 500 ms."""
    strict_f1: dict[str, float]
    """F1 of events with the onset within 200 ms and the offset within 200 ms or a fifth of the length."""
    segment_f1: dict[str, float]
    """F1 of segments of 1 s."""
    psds1: float
    psds2: float
    """Polyphonic sound detection scores by the criteria of DCASE task 4, up to 100 false alarms per hour."""
    sed_eval_onset_f1: dict[str, float]
    """``onset_f1`` again, by sed_eval."""


def measure(
    own: Sequence[Sequence[Detection]],
    swept: Sequence[Sequence[Sequence[Detection]]],
    thresholds: Sequence[float],
    scenes: Scenes,
) -> StandardMetrics | None:
    """Return the metrics of a model's events with its own decoder values and with those of a sweep.

    None without reference events. For the PSDS, which needs scores, the score of a frame is the highest threshold at
    which an event of the decoder covers it, so that smoothing and hysteresis are part of the measurement.
    """
    labels = sorted({e.label for stream in scenes.streams for e in stream.events})
    if not labels:
        return None
    library = sed_scores()
    truth: Truth = {s.path.name: [(e.onset_s, e.offset_s, e.label) for e in s.events] for s in scenes.streams}
    durations = {s.path.name: s.seconds for s in scenes.streams}
    at_own = score_tables([own], [1.0], scenes.streams, labels)
    at_all = score_tables(swept, thresholds, scenes.streams, labels)
    onset = library.collar_based.fscore(at_own, truth, 0.5, onset_collar=ONSET_COLLAR_S, offset_collar=math.inf)
    collars = {"onset_collar": STRICT_COLLAR_S, "offset_collar": STRICT_COLLAR_S, "offset_collar_rate": STRICT_SHARE}
    strict = library.collar_based.fscore(at_own, truth, 0.5, **collars)
    segment = library.segment_based.fscore(at_own, truth, durations, 0.5, segment_length=1.0)
    psds = library.intersection_based.psds
    first = psds(at_all, truth, durations, dtc_threshold=0.7, gtc_threshold=0.7, alpha_st=1.0)
    # Cross triggers need two classes; the library does not check.
    cross = {"cttc_threshold": 0.3, "alpha_ct": 0.5} if len(labels) > 1 else {}
    second = psds(at_all, truth, durations, dtc_threshold=0.1, gtc_threshold=0.1, alpha_st=1.0, **cross)
    return StandardMetrics(
        onset_f1=_plain(onset[0]),
        strict_f1=_plain(strict[0]),
        segment_f1=_plain(segment[0]),
        psds1=round(float(first[0]), 4),
        psds2=round(float(second[0]), 4),
        sed_eval_onset_f1=_by_sed_eval(own, scenes, labels),
    )


def score_tables(
    swept: Sequence[Sequence[Sequence[Detection]]],
    thresholds: Sequence[float],
    streams: Sequence[Stream],
    labels: Sequence[str],
) -> dict[str, Any]:
    """Return each stream's scores in the format of sed_scores_eval: a row from each change to the next.

    ``swept`` holds, for each threshold in ascending order, the events of each stream.
    """
    create = sed_scores().base_modules.scores.create_score_dataframe
    tables = {}
    for i, stream in enumerate(streams):
        found = [events[i] for events in swept]
        edges = [_clipped(t, stream) for events in found for d in events for t in (d.onset_s, d.offset_s)]
        times = np.unique([0.0, *edges, round(stream.seconds, _DECIMALS)])
        scores = np.zeros((times.size - 1, len(labels)))
        for threshold, events in zip(thresholds, found, strict=True):
            for d in events:
                if d.label in labels:
                    first, last = np.searchsorted(times, [_clipped(d.onset_s, stream), _clipped(d.offset_s, stream)])
                    scores[first:last, labels.index(d.label)] = threshold
        tables[stream.path.name] = create(scores, times, list(labels))
    return tables


def sed_scores() -> Any:
    """Import sed_scores_eval on use, since it imports pandas."""
    with warnings.catch_warnings():
        # dcase_util imports pkg_resources, which is deprecated.
        warnings.simplefilter("ignore")
        import sed_scores_eval
    return sed_scores_eval


def _clipped(seconds: float, stream: Stream) -> float:
    """Return a time clipped to the stream: an event's last frame may be padded."""
    return round(min(seconds, stream.seconds), _DECIMALS)


def _by_sed_eval(own: Sequence[Sequence[Detection]], scenes: Scenes, labels: Sequence[str]) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sed_eval
        from dcase_util.containers import MetaDataContainer

        metrics = sed_eval.sound_event.EventBasedMetrics(
            list(labels), t_collar=ONSET_COLLAR_S, evaluate_onset=True, evaluate_offset=False
        )
        for stream, detections in zip(scenes.streams, own, strict=True):
            name = stream.path.name
            truth = [_row(name, e.label, e.onset_s, e.offset_s) for e in stream.events]
            found = [_row(name, d.label, d.onset_s, d.offset_s) for d in detections if d.label in labels]
            metrics.evaluate(MetaDataContainer(truth), MetaDataContainer(found))
        by_class = metrics.results_class_wise_metrics()
        overall = metrics.results_overall_metrics()["f_measure"]["f_measure"]
    found_f1 = {label: by_class[label]["f_measure"]["f_measure"] for label in labels}
    return {k: round(float(np.nan_to_num(v)), 4) for k, v in {**found_f1, "micro_average": overall}.items()}


def _row(name: str, label: str, onset_s: float, offset_s: float) -> dict[str, Any]:
    return {"filename": name, "event_label": label, "onset": onset_s, "offset": offset_s}


def _plain(values: Mapping[str, float]) -> dict[str, float]:
    """Return values as plain floats, averages last."""
    names = [n for n in values if n not in _AVERAGES] + [n for n in _AVERAGES if n in values]
    return {name: round(float(values[name]), 4) for name in names}
