"""The spiking network in snnTorch: data, training, evaluation, and the models that ship.

Importing this package loads no torch; ``models.network.csnn`` does.
"""

from pathlib import Path
from typing import Final

from detector.config.paths import set_plot_cache

set_plot_cache()  # snntorch imports matplotlib, too

RECIPES: Final = Path(__file__).parent / "recipes"
"""Folder of the recipes that ship."""
RESULTS: Final = Path(__file__).parent / "results"
"""Folder of kept results, from which RESULTS.md is written."""
DEMO_SCENE: Final = Path(__file__).parent / "demo" / "scene.flac"
"""The rendered scene that ships."""
