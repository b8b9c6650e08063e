"""The ONNX graph of a finished network over a fixed number of frames, with the state as inputs and outputs.

The graph is built node by node rather than traced: it has as few nodes as the equations need, since the cost of a
call on a small board is mostly its number of nodes, and every weight keeps a name that other exports can find
(``names``). The operations and their order are those of ``SpikingConvNet.step``.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from detector.engine import names
from detector.engine.names import LayerNames
from models.network.csnn import THRESHOLD, Bias, SpikingConvNet, SpikingUnit, state_shapes

OPSET: Final = 18
IR_VERSION: Final = 9


def build_graph(net: SpikingConvNet, frames: int) -> onnx.ModelProto:
    """Return the graph from ``spikes`` and states to ``scores`` and new states.

    ``spikes`` is (1, planes, frames, n_mfcc), ``scores`` (frames, classes), states are as in ``graph_state_shapes``
    with a batch axis of 1. ``net`` must be finished (``models.network.csnn.finished``). With one frame, the graph
    has each layer's spikes as outputs, too, named by ``spike_outputs``; onnxruntime computes them at no extra cost.
    """
    return _Builder(net, frames).build()


def spike_outputs(net: SpikingConvNet) -> dict[str, str]:
    """Return, by the layer's name, the output of the one-frame graph that holds the layer's spikes.

    Where the next convolution reads one frame of the past, a layer's spikes are that convolution's new past.
    """
    outputs = {layer: LayerNames(layer).spikes for layer in names.spiking_layers(len(net.convs))}
    for i, conv in enumerate(net.spec.convs[1:], 2):
        if conv.past == 1:
            outputs[names.conv(i - 1)] = names.after_step(LayerNames(names.conv(i)).past)
    return outputs


def graph_state_shapes(net: SpikingConvNet) -> dict[str, tuple[int, ...]]:
    """Return the shape of every state tensor by name, without the batch axis.

    States of convolutions keep the frame axis and those of dense layers have no width, as their operators need.
    """
    shapes = {}
    for name, shape in state_shapes(net.spec).items():
        if not names.is_of_conv(name):
            shapes[name] = shape[:1]
        elif names.is_past(name):
            shapes[name] = shape
        else:
            shapes[name] = (shape[0], 1, shape[1])
    return shapes


class _Builder:
    def __init__(self, net: SpikingConvNet, frames: int) -> None:
        self._net, self._frames = net, frames
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._spike_outputs = spike_outputs(net)
        if THRESHOLD != 1:
            raise ValueError("the reset below subtracts the spikes themselves, which needs a threshold of 1")
        self._constant("threshold", np.float32(THRESHOLD))

    def build(self) -> onnx.ModelProto:
        net, t = self._net, self._frames
        x = self._node("MatMul", [names.SPIKES, self._constant(names.TO_BANDS, net.to_bands.numpy())], "bands")
        for i, (conv, unit) in enumerate(net.conv_layers, 1):
            layer = LayerNames(names.conv(i))
            x = self._neurons(self._convolution(x, conv, layer), unit, layer, axis=2)
        if t > 1:
            x = self._node("Transpose", [x], "flat_planes", perm=[0, 2, 1, 3])
        x = self._node("Reshape", [x, self._indices("flat_shape", [t, -1])], "flat")
        layer = LayerNames(names.DENSE)
        x = self._neurons(self._dense(x, net.dense, layer), net.dense_unit, layer, axis=0)
        self._readout(self._dense(x, net.readout, LayerNames(names.READOUT)))
        return self._model()

    def _convolution(self, x: str, conv: Any, layer: LayerNames) -> str:
        past = (conv.kernel_size[0] - 1) * conv.dilation[0]
        if not past:
            return self._convolve(x, conv, layer)
        new_past = names.after_step(layer.past)
        window = self._node("Concat", [layer.past, x], f"{layer.layer}_window", axis=2)
        if x != new_past:  # else the layer before already writes its spikes there
            ends = [self._indices(f"last_{past}", [-past]), self._indices("end", [np.iinfo(np.int64).max])]
            self._node("Slice", [window, *ends, self._indices("axis_2", [2])], new_past)
        return self._convolve(window, conv, layer)

    def _convolve(self, x: str, conv: Any, layer: LayerNames) -> str:
        half = conv.padding[1]
        return self._node(
            "Conv",
            [x, *self._weight_and_bias(conv, layer)],
            layer.current,
            kernel_shape=list(conv.kernel_size),
            strides=list(conv.stride),
            dilations=list(conv.dilation),
            pads=[0, half, 0, half],
        )

    def _dense(self, x: str, dense: Any, layer: LayerNames) -> str:
        return self._node("Gemm", [x, *self._weight_and_bias(dense, layer)], layer.current, transB=1)

    def _weight_and_bias(self, module: Any, layer: LayerNames) -> list[str]:
        return [
            self._constant(name, _array(values))
            for name, values in ((layer.weight, module.weight), (layer.bias, module.bias))
            if values is not None
        ]

    def _neurons(self, current: str, unit: SpikingUnit, layer: LayerNames, axis: int) -> str:
        """Add synapses and neurons, frame after frame, and return their spikes over all frames."""
        beta = self._per_neuron(layer.beta, unit.beta, layer)
        alpha = None if unit.alpha is None else self._per_neuron(layer.alpha, unit.alpha, layer)
        bias = self._per_neuron(layer.bias, unit.norm.bias, layer) if isinstance(unit.norm, Bias) else None
        synapse, mem, spikes = layer.synapse, layer.membrane, []
        for t, value in enumerate(self._split(current, axis)):
            if alpha is not None:
                synapse = self._leak(alpha, synapse, value, layer.synapse, t)
                value = synapse if bias is None else self._node("Add", [synapse, bias], f"{layer.layer}_input_{t}")  # noqa: PLW2901 - the current
            u = self._leak(beta, mem, value, f"{layer.layer}_u", t, state=False)
            fired = self._node("Greater", [u, "threshold"], f"{layer.layer}_fired_{t}")
            sent = self._spike_outputs[layer.layer] if self._frames == 1 else f"{layer.spikes}_{t}"
            spikes.append(self._node("Cast", [fired], sent, to=TensorProto.FLOAT))
            # The threshold is 1, so the reset subtracts the spikes themselves.
            mem = self._node("Sub", [u, spikes[-1]], self._name(layer.membrane, t, state=True))
        return self._join(spikes, layer.spikes, axis)

    def _per_neuron(self, name: str, values: Any, layer: LayerNames) -> str:
        """Store a value per channel as one per neuron: operators are fastest on equal shapes."""
        channels, *rest = graph_state_shapes(self._net)[layer.membrane]
        column = _array(values).reshape(1, channels, *[1] * len(rest))
        return self._constant(name, np.ascontiguousarray(np.broadcast_to(column, (1, channels, *rest))))

    def _readout(self, current: str) -> None:
        layer = LayerNames(names.READOUT)
        beta = self._constant(layer.beta, _array(self._net.readout_beta))
        mem, scores = layer.membrane, []
        for t, value in enumerate(self._split(current, 0)):
            mem = self._leak(beta, mem, value, layer.membrane, t)
            scores.append(self._node("Sigmoid", [mem], self._name(names.SCORES, t)))
        self._join(scores, names.SCORES, 0)

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
        """Name a frame's tensor: the last frame's state is the graph's output, a single frame needs no number."""
        if state and t == self._frames - 1:
            return names.after_step(name)
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
        inputs = {names.SPIKES: [1, spec.planes, t, spec.n_mfcc], **shapes}
        outputs: dict[str, Any] = {names.SCORES: [t, spec.classes]}
        outputs |= {names.after_step(name): shape for name, shape in shapes.items()}
        if t == 1:
            outputs |= {output: shapes[LayerNames(layer).membrane] for layer, output in self._spike_outputs.items()}
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


def _array(tensor: Any) -> NDArray[np.float32]:
    return np.asarray(tensor.detach().numpy(), np.float32)
