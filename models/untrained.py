"""The network of a recipe before training, spiking or its twin."""

from __future__ import annotations

from models.network import SpikingConvNet
from models.recipe import Recipe
from models.twin import ConvNet

Network = SpikingConvNet | ConvNet


def make_network(recipe: Recipe) -> Network:
    """Return the untrained network of a recipe."""
    spec = recipe.network
    return ConvNet(spec) if spec.kind == "cnn" else SpikingConvNet(spec, recipe.encoder)
