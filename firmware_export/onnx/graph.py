"""Write a finished network as an ONNX graph over a fixed number of frames, state in and state out.

The graph is built node by node rather than traced: it has as few nodes as the equations need, since
a call's cost on a small board is mostly its number of nodes, and every weight keeps a name that
other exports can find. The operations and their order are those of ``SpikingConvNet.step``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.network.csnn import THRESHOLD, Bias, SpikingConvNet, SpikingUnit, state_shapes

OPSET = 18
IR_VERSION = 9


def build_graph(net: SpikingConvNet, frames: int) -> onnx.ModelProto:
    """Return the graph from ``spikes`` (1, planes, frames, n_mfcc) and states to ``scores`` and new states.

    ``scores`` is (frames, classes).
    ``net`` must be finished (see ``models.network.csnn.finished``). With one frame, the graph also gives
    each layer's spikes under the names of ``spike_outputs``; they cost nothing unless they are asked for.
    """
    return _Builder(net, frames).build()


class _Builder:
    def __init__(self, net: SpikingConvNet, frames: int) -> None:
        self._net, self._frames = net, frames
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._spike_names = spike_outputs(net)
        if THRESHOLD != 1:
            raise ValueError("the reset below takes the spikes themselves away: it needs a threshold of 1")
        self._constant("threshold", np.float32(THRESHOLD))

    def build(self) -> onnx.ModelProto:
        net, t = self._net, self._frames
        x = self._node("MatMul", ["spikes", self._constant("to_bands", net.to_bands.numpy())], "bands")
        for i, (conv, unit) in enumerate(net.conv_layers, 1):
            x = self._neurons(self._convolution(x, conv, f"conv{i}"), unit, f"conv{i}", axis=2)
        if t > 1:
            x = self._node("Transpose", [x], "flat_planes", perm=[0, 2, 1, 3])
        x = self._node("Reshape", [x, self._indices("flat_shape", [t, -1])], "flat")
        x = self._neurons(self._dense(x, net.dense, "dense"), net.dense_unit, "dense", axis=0)
        self._readout(self._dense(x, net.readout, "readout"))
        return self._model()

    def _convolution(self, x: str, conv: Any, name: str) -> str:
        past = (conv.kernel_size[0] - 1) * conv.dilation[0]
        if past:
            new_past, x = x, self._node("Concat", [f"{name}_past", x], f"{name}_window", axis=2)
            if new_past == f"new_{name}_past":
                return self._convolve(x, conv, name)
            ends = [self._indices(f"last_{past}", [-past]), self._indices("end", [np.iinfo(np.int64).max])]
            self._node("Slice", [x, *ends, self._indices("axis_2", [2])], f"new_{name}_past")
        return self._convolve(x, conv, name)

    def _convolve(self, x: str, conv: Any, name: str) -> str:
        half = conv.padding[1]
        return self._node(
            "Conv",
            [x, *self._weight_and_bias(conv, name)],
            f"{name}_current",
            kernel_shape=list(conv.kernel_size),
            strides=list(conv.stride),
            dilations=list(conv.dilation),
            pads=[0, half, 0, half],
        )

    def _dense(self, x: str, layer: Any, name: str) -> str:
        return self._node("Gemm", [x, *self._weight_and_bias(layer, name)], f"{name}_current", transB=1)

    def _weight_and_bias(self, layer: Any, name: str) -> list[str]:
        return [
            self._constant(f"{name}_{kind}", _array(getattr(layer, kind)))
            for kind in ("weight", "bias")
            if getattr(layer, kind) is not None
        ]

    def _neurons(self, current: str, unit: SpikingUnit, name: str, axis: int) -> str:
        """Add synapses and neurons, frame after frame, and return their spikes over all frames."""
        beta = self._per_neuron(f"{name}_beta", unit.beta, name)
        alpha = None if unit.alpha is None else self._per_neuron(f"{name}_alpha", unit.alpha, name)
        bias = self._per_neuron(f"{name}_bias", unit.norm.bias, name) if isinstance(unit.norm, Bias) else None
        synapse, mem, spikes = f"{name}_syn", f"{name}_mem", []
        for t, value in enumerate(self._split(current, axis)):
            if alpha is not None:
                synapse = self._leak(alpha, synapse, value, f"{name}_syn", t)
                value = synapse if bias is None else self._node("Add", [synapse, bias], f"{name}_input_{t}")  # noqa: PLW2901 - the current
            u = self._leak(beta, mem, value, f"{name}_u", t, state=False)
            fired = self._node("Greater", [u, "threshold"], f"{name}_fired_{t}")
            sent = self._spike_names[name] if self._frames == 1 else f"{name}_spikes_{t}"
            spikes.append(self._node("Cast", [fired], sent, to=TensorProto.FLOAT))
            # The threshold is 1, so that the spikes themselves are what the reset takes away.
            mem = self._node("Sub", [u, spikes[-1]], self._name(f"{name}_mem", t, state=True))
        return self._join(spikes, f"{name}_spikes", axis)

    def _per_neuron(self, name: str, values: Any, layer: str) -> str:
        """Write a value per channel as one per neuron: operators are quickest on equal shapes."""
        channels, *rest = graph_state_shapes(self._net)[f"{layer}_mem"]
        column = _array(values).reshape(1, channels, *[1] * len(rest))
        return self._constant(name, np.ascontiguousarray(np.broadcast_to(column, (1, channels, *rest))))

    def _readout(self, current: str) -> None:
        beta = self._constant("readout_beta", _array(self._net.readout_beta))
        mem, scores = "readout_mem", []
        for t, value in enumerate(self._split(current, 0)):
            mem = self._leak(beta, mem, value, "readout_mem", t)
            scores.append(self._node("Sigmoid", [mem], self._name("scores", t)))
        self._join(scores, "scores", 0)

    def _leak(self, decay: str, before: str, value: str, name: str, t: int, *, state: bool = True) -> str:  # noqa: PLR0913
        decayed = self._node("Mul", [decay, before], f"{name}_decayed_{t}")
        return self._node("Add", [decayed, value], self._name(name, t, state=state))

    def _split(self, tensor: str, axis: int) -> list[str]:
        if self._frames == 1:
            return [tensor]
        parts = [f"{tensor}_{t}" for t in range(self._frames)]
        self._nodes.append(helper.make_node("Split", [tensor], parts, axis=axis, num_outputs=self._frames))
        return parts

    def _join(self, parts: list[str], name: str, axis: int) -> str:
        return parts[0] if self._frames == 1 else self._node("Concat", parts, name, axis=axis)

    def _name(self, name: str, t: int, *, state: bool = False) -> str:
        """Name a frame's tensor: the last frame's state is the graph's output, a lone frame needs no number."""
        if state and t == self._frames - 1:
            return f"new_{name}"
        return name if self._frames == 1 else f"{name}_{t}"

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def _constant(self, name: str, value: Any) -> str:
        self._weights.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    def _indices(self, name: str, values: list[int]) -> str:
        return self._constant(name, np.array(values, np.int64))

    def _model(self) -> onnx.ModelProto:
        spec, t = self._net.spec, self._frames
        shapes = {name: [1, *shape] for name, shape in graph_state_shapes(self._net).items()}
        inputs = {"spikes": [1, spec.planes, t, spec.n_mfcc], **shapes}
        outputs: dict[str, Any] = {"scores": [t, spec.classes], **{f"new_{k}": v for k, v in shapes.items()}}
        if t == 1:
            outputs |= {output: shapes[f"{layer}_mem"] for layer, output in self._spike_names.items()}
        graph = helper.make_graph(
            self._nodes,
            "snn_detect",
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()],
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in outputs.items()],
            list(self._weights.values()),
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="snn-detect"
        )
        onnx.checker.check_model(model)
        return model


def spike_outputs(net: SpikingConvNet) -> dict[str, str]:
    """Name the one-frame graph's output that holds each layer's spikes.

    Where the next convolution reaches back one frame, a layer's spikes are that convolution's new past.
    """
    names = {f"conv{i}": f"conv{i}_spikes" for i in range(1, len(net.convs) + 1)} | {"dense": "dense_spikes"}
    for i, conv in enumerate(net.spec.convs[1:], 2):
        if conv.past == 1:
            names[f"conv{i - 1}"] = f"new_conv{i}_past"
    return names


def graph_state_shapes(net: SpikingConvNet) -> dict[str, tuple[int, ...]]:
    """Name every state tensor of the graph and its shape without the batch axis.

    Convolutions keep the frame axis, dense layers have no width: what their operators need.
    """
    shapes = {}
    for name, shape in state_shapes(net.spec).items():
        if name.startswith("conv"):
            shapes[name] = shape if name.endswith("_past") else (shape[0], 1, shape[1])
        else:
            shapes[name] = shape[:1]
    return shapes


def _array(tensor: Any) -> NDArray[np.float32]:
    return np.asarray(tensor.detach().numpy(), np.float32)
