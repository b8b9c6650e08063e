"""Warm start: the initial weights of a run from a finished run or from a model file, and what they take for a class.

A model file holds a finished network, whose batch norms are folded into the weights (``models.network.csnn.finished``).
They are restored so that the network can be trained as any other. Let x = W s be the current of an output of a layer,
with mean m and variance v over examples, and b its folded offset. The norm (x - m) / sqrt(v + eps) * g + c with
g = sqrt(v + eps) and c = m + b gives x + b, the same network up to rounding. W is scaled to the size of untrained
weights, since an optimiser's steps have the same size for all weights; behind a norm, the scale has no effect.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.manifest import Manifest, TrainingRecord
from detector.messages import Samples
from detector.network import load_model
from models.console import Progress
from models.data.datasets import folds_left_out
from models.network.csnn import SpikingConvNet, SpikingUnit
from models.network.twin import Network
from models.recipe import Recipe
from models.training.frontend import FrontEnd
from models.training.runs import RunFolder, load_run

_SHARED: Final = ("kind", "classes", "features", "encoder", "network")
"""Tables of a recipe that must be the same for a warm start."""
_TRANSFERRED: Final = ("kind", "features", "encoder")
"""Those that must be for one from a network of other classes, whose network may differ in their number alone."""
_APART: Final = "kinds"
"""The layout whose recordings no other data set has, so that its folds are not theirs."""
_READOUT: Final = "readout"
"""What the names of the read-out's parameters begin with."""
_HARD_SCORE: Final = 0.8
"""A clip is hard where a class's score, averaged over ``_SMOOTHING`` frames, reaches this at a peak of ``_PEAK``."""
_SMOOTHING: Final = 4
_PEAK: Final = 0.2
_HARD_BATCH: Final = 32


def weights_of(path: Path, recipe: Recipe, leave_out: int | None) -> dict[str, Tensor]:
    """Return the network's state at the end of the run in the folder ``path``, or that of the model file ``path``.

    The batch norms of a model file still have to be restored (``restore_norms``). A run on the kinds of sounds of
    ``recordings`` gives the state of all layers but the read-out. Raises ConfigError where ``path`` is neither, its
    network, front end or classes differ from the recipe's, or it was trained on a fold that the new run leaves out;
    ManifestError where a file is no model.
    """
    if path.is_file():
        loaded, manifest = read_model(path, recipe)
        _check_folds(path, manifest.training, recipe, leave_out)
        return loaded.state_dict()
    net, first, record = load_run(path)
    is_transfer = first.data.layout == _APART != recipe.data.layout
    others = [
        name for name in (_TRANSFERRED if is_transfer else _SHARED) if getattr(first, name) != getattr(recipe, name)
    ]
    if is_transfer and dataclasses.replace(first.network, classes=recipe.network.classes) != recipe.network:
        others.append("network")
    if others:
        raise ConfigError(f"{path}: {recipe.name} cannot start from it, since they differ in {', '.join(others)}")
    if is_transfer:
        return {name: values for name, values in net.state_dict().items() if not name.startswith(_READOUT)}
    _check_folds(path, record, recipe, leave_out)
    return net.state_dict()


def auxiliary_heads_of(path: Path) -> dict[str, Tensor] | None:
    """Return the state of the auxiliary heads at the end of a run, if it had any; a model file has none."""
    saved = None if path.is_file() else RunFolder(path).load()
    return None if saved is None else saved.get("auxiliary_heads")


def record_of(path: Path) -> TrainingRecord:
    """Return the training record of a finished run's folder or of a model file."""
    return load_model(path).manifest.training if path.is_file() else load_run(path)[2]


def read_model(path: Path, recipe: Recipe) -> tuple[SpikingConvNet, Manifest]:
    """Return the network of a model file, with each layer's offset in its batch norm, and the manifest.

    Raises ConfigError where its classes, front end or shapes differ from the recipe's, ManifestError where the file
    is no model.
    """
    import onnx
    from onnx import numpy_helper

    if recipe.network.kind == "cnn":
        raise ConfigError(f"{path}: {recipe.name} has a network without spikes; start it from the folder of a run")
    manifest = load_model(path).manifest
    found = {"classes": manifest.labels, "features": manifest.features, "encoder": manifest.encoder}
    expected = {"classes": recipe.labels, "features": recipe.features, "encoder": recipe.encoder}
    if others := [key for key, value in expected.items() if found[key] != value]:
        raise ConfigError(f"{path}: {recipe.name} cannot start from it, since they differ in {', '.join(others)}")
    arrays = {w.name: numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer}
    net = SpikingConvNet(recipe.network, recipe.encoder)
    with torch.no_grad():
        for name, layer, unit in _layers(net):
            _read_layer(arrays, name, layer, unit, path)
        _copy(net.readout.weight, arrays, "readout_weight", path)
        _copy(net.readout.bias, arrays, "readout_bias", path)
        net.readout_beta_logit.copy_(_logit(arrays, "readout_beta", net.readout_beta_logit, path))
    return net, manifest


@torch.no_grad()
def restore_norms(net: SpikingConvNet, batches: Iterable[Tensor]) -> None:
    """Give the batch norms of a network from ``read_model`` the statistics of batches of spikes, in place.

    A batch is (examples, frames, planes, n_mfcc). The network's scores stay the same up to rounding.
    """
    moments = {name: _Moments() for name, _, _ in _layers(net)}
    hooks = [
        _norm(unit).register_forward_pre_hook(lambda _, given, own=moments[name]: own.add(given[0]))
        for name, _, unit in _layers(net)
    ]
    was_training = net.training
    net.eval()
    for batch in batches:
        net(batch.float())
    for hook in hooks:
        hook.remove()
    for name, layer, unit in _layers(net):
        _set_norm(layer, _norm(unit), *moments[name].mean_and_variance())
    net.train(was_training)


class _Moments:
    """Mean and variance per channel of values (examples, channels, values), over several batches."""

    def __init__(self) -> None:
        self._count = 0
        self._sum, self._square = (torch.zeros((), dtype=torch.float64) for _ in range(2))

    def add(self, current: Tensor) -> None:
        """Count the values of one batch."""
        values = current.double()
        self._count += values.shape[0] * values.shape[2]
        self._sum = self._sum + values.sum((0, 2))
        self._square = self._square + values.square().sum((0, 2))

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        """Return both, (channels,) each."""
        mean = self._sum / self._count
        return mean.float(), (self._square / self._count - mean**2).clamp(min=0).float()


def hard_clips(net: Network, recipe: Recipe, waves: Sequence[Samples], numbers: Sequence[int]) -> list[int]:
    """Return the hard negatives: those of the clips ``numbers`` of ``waves`` that the network takes for a class.

    A. Shrivastava, A. Gupta and R. Girshick, "Training region-based object detectors with online hard example mining"
    (CVPR 2016), find them in every step; here they are found once.
    """
    net.eval()
    front, found = FrontEnd(recipe), list[int]()
    by_length = sorted(numbers, key=lambda number: waves[number].size)
    with Progress("hard negatives", len(by_length), "clips") as bar, torch.no_grad():
        for batch in _batches(by_length):
            highest = _highest_scores(net, [front.encode_clip(_levelled(waves[number])) for number in batch])
            found += [number for number, score in zip(batch, highest, strict=True) if score >= _HARD_SCORE]
            bar.advance(len(batch))
    return sorted(found)


def _check_folds(path: Path, record: TrainingRecord, recipe: Recipe, leave_out: int | None) -> None:
    if seen := sorted(set(folds_left_out(recipe, leave_out)) - set(record.folds_left_out)):
        raise ConfigError(f"{path}: was trained on fold {', '.join(map(str, seen))}, which this run leaves out")


def _layers(net: SpikingConvNet) -> list[tuple[str, nn.Conv2d | nn.Linear, SpikingUnit]]:
    convs = [(f"conv{i}", conv, unit) for i, (conv, unit) in enumerate(net.conv_layers, 1)]
    return [*convs, ("dense", net.dense, net.dense_unit)]


def _set_norm(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor) -> None:
    """Scale a layer's weights to the size of untrained ones; let the norm undo that and keep the mean."""
    fan_in = layer.weight[0].numel()
    size = layer.weight.square().mean(tuple(range(1, layer.weight.ndim))).sqrt().clamp(min=1e-12)
    scale = 1 / (math.sqrt(3 * fan_in) * size)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    assert norm.running_mean is not None  # noqa: S101 - for mypy
    assert norm.running_var is not None  # noqa: S101 - for mypy
    norm.running_mean.copy_(mean * scale)
    norm.running_var.copy_(variance * scale**2)
    norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps) / scale)
    norm.bias.add_(mean)


def _read_layer(arrays: dict[str, Any], name: str, layer: nn.Conv2d | nn.Linear, unit: SpikingUnit, path: Path) -> None:
    _copy(layer.weight, arrays, f"{name}_weight", path)
    norm = _norm(unit)
    assert norm.running_var is not None  # noqa: S101 - for mypy
    norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))
    _copy(norm.bias, arrays, f"{name}_bias", path)
    if layer.bias is not None:
        layer.bias.zero_()
    unit.beta_logit.copy_(_logit(arrays, f"{name}_beta", unit.beta_logit, path))
    if unit.alpha_logit is not None:
        unit.alpha_logit.copy_(_logit(arrays, f"{name}_alpha", unit.alpha_logit, path))


def _norm(unit: SpikingUnit) -> nn.BatchNorm1d:
    assert isinstance(unit.norm, nn.BatchNorm1d)  # noqa: S101 - for mypy
    return unit.norm


def _logit(arrays: dict[str, Any], name: str, like: Tensor, path: Path) -> Tensor:
    return torch.logit(_array(arrays, name, like, path).double().clamp(1e-6, 1 - 1e-6)).float()


def _copy(tensor: Tensor, arrays: dict[str, Any], name: str, path: Path) -> None:
    tensor.copy_(_array(arrays, name, tensor, path))


def _array(arrays: dict[str, Any], name: str, like: Tensor, path: Path) -> Tensor:
    """Return an array in the shape of a tensor; of one value per neuron, one per channel is taken.

    Raises ConfigError where the file has no array of that name and shape.
    """
    values = arrays.get(name)
    if values is not None and like.ndim == 1 and values.ndim > 1:
        values = values.reshape(values.shape[1], -1)[:, 0]
    if values is None or values.shape != tuple(like.shape):
        found = "missing" if values is None else f"{values.shape}"
        raise ConfigError(f"{path}: {name} is {found}, but the recipe's network has {tuple(like.shape)}")
    return torch.from_numpy(np.array(values, np.float32))


def _batches(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(numbers), _HARD_BATCH):
        yield numbers[first : first + _HARD_BATCH]


def _levelled(wave: Samples) -> Samples:
    return np.asarray(wave * (_PEAK / max(float(np.abs(wave).max()), 1e-6)), np.float32)


def _highest_scores(net: Network, spikes: Sequence[NDArray[Any]]) -> list[float]:
    """Return each clip's highest smoothed score of any class."""
    frames = max(_SMOOTHING, *(len(s) for s in spikes))
    padded = np.stack([np.pad(s, [(0, frames - len(s)), *[(0, 0)] * (s.ndim - 1)]) for s in spikes])
    logits, _ = net(torch.from_numpy(padded).float(), None, {})
    scores = torch.sigmoid(logits).unfold(1, _SMOOTHING, 1).mean(3).amax(2)
    return [float(row[: max(1, len(s) - _SMOOTHING + 1)].max()) for row, s in zip(scores, spikes, strict=True)]
