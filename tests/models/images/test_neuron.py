"""One neuron under two resets: numbers worked out by hand, and where the two differ."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.images.tutorial import step_current, trace_seed, trace_snntorch, train_current

# Beta 0.5, threshold 1, current 0.75: all sums are exact in float32.
CURRENT = np.full(6, 0.75, np.float32)


def test_reset_at_once_by_hand() -> None:
    """Half of what a spike left, plus the current.

    U: 0.75; 0.375 + 0.75 = 1.125, spike, V 0.125; 0.0625 + 0.75 = 0.8125; 0.40625 + 0.75 = 1.15625,
    spike, V 0.15625; 0.078125 + 0.75 = 0.828125; 0.4140625 + 0.75 = 1.1640625, spike, V 0.1640625.
    """
    trace = trace_seed(CURRENT, 0.5)
    assert trace.potential.tolist() == [0.75, 1.125, 0.8125, 1.15625, 0.828125, 1.1640625]
    assert trace.carried.tolist() == [0.75, 0.125, 0.8125, 0.15625, 0.828125, 0.1640625]
    assert trace.spikes.tolist() == [0, 1, 0, 1, 0, 1]


def test_snntorchs_default_by_hand() -> None:
    """Half of the whole potential, plus the current, less 1 after a spike.

    U: 0.75; 0.375 + 0.75 = 1.125, spike; 0.5625 + 0.75 - 1 = 0.3125; 0.15625 + 0.75 = 0.90625;
    0.453125 + 0.75 = 1.203125, spike; 0.6015625 + 0.75 - 1 = 0.3515625.
    """
    trace = trace_snntorch(CURRENT, 0.5)
    assert trace.potential.tolist() == [0.75, 1.125, 0.3125, 0.90625, 1.203125, 0.3515625]
    assert trace.carried.tolist() == trace.potential.tolist()
    assert trace.spikes.tolist() == [0, 1, 0, 0, 1, 0]


currents = st.lists(st.floats(0, 0.875, width=32), min_size=2, max_size=30)
betas = st.floats(0, 1, width=32)


@given(currents, betas)
def test_the_two_part_by_what_leaked_from_the_threshold_after_the_first_spike(values: list[float], beta: float) -> None:
    current = np.array(values, np.float32)
    ours, theirs = trace_seed(current, beta), trace_snntorch(current, beta)
    first = int(ours.spikes.argmax()) if ours.spikes.any() else len(current) - 1
    np.testing.assert_array_equal(ours.spikes[: first + 1], theirs.spikes[: first + 1])
    np.testing.assert_allclose(ours.potential[: first + 1], theirs.potential[: first + 1], atol=1e-6)
    if first + 1 < len(current):
        assert ours.potential[first + 1] - theirs.potential[first + 1] == pytest.approx(1 - beta, abs=1e-6)


def test_a_neuron_that_never_leaks_does_not_distinguish_the_resets() -> None:
    current = np.full(9, 0.75, np.float32)
    np.testing.assert_array_equal(trace_seed(current, 1.0).spikes, trace_snntorch(current, 1.0).spikes)


def test_inputs_of_the_plot_distinguish_the_resets() -> None:
    for current in (step_current(), train_current()):
        assert trace_seed(current, 0.8).spikes.sum() > trace_snntorch(current, 0.8).spikes.sum() > 0
