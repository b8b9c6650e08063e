"""A graph of onnxruntime whose tensors stay where they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.messages import Scores, Spikes


class BoundGraph:
    """A session whose inputs and outputs lie in fixed arrays: no tensor is made or copied in a call."""

    def __init__(
        self,
        session: Any,
        frames: int,
        states: tuple[dict[str, NDArray[np.float32]], ...],
        extra: tuple[str, ...] = (),
    ) -> None:
        """Bind the states, and ``extra`` outputs to have beside the scores, where they are no state."""
        self._session = session
        inputs = {i.name: i.shape for i in session.get_inputs()}
        self._spikes = np.zeros(inputs["spikes"], np.float32)
        self._by_frame = self._spikes[0].transpose(1, 0, 2)
        shapes = {o.name: o.shape for o in session.get_outputs()}
        self._scores = np.zeros((frames, shapes["scores"][1]), np.float32)
        own = [name for name in extra if name.removeprefix("new_") not in states[0]]
        self.extra = {name: np.zeros(shapes[name], np.float32) for name in own}
        """The outputs that were asked for; they hold until the next call."""
        self._bindings = [self._bind(states[k], states[1 - k]) for k in range(2)]

    def run(self, spikes: Spikes, current: int) -> Scores:
        """Run on spikes (frames, planes, n_mfcc) from states ``current`` to the others.

        The scores hold until the next call.
        """
        self._by_frame[:] = spikes
        self._session.run_with_iobinding(self._bindings[current])
        return self._scores

    def _bind(self, old: dict[str, NDArray[np.float32]], new: dict[str, NDArray[np.float32]]) -> Any:
        binding = self._session.io_binding()
        binding.bind_cpu_input("spikes", self._spikes)
        for name, value in old.items():
            binding.bind_cpu_input(name, value)
        results = {"scores": self._scores, **{f"new_{n}": v for n, v in new.items()}, **self.extra}
        for name, value in results.items():
            binding.bind_output(name, "cpu", 0, np.float32, value.shape, value.ctypes.data)
        return binding
