"""How plots look: colours that colour-blind readers tell apart, PNG and SVG of each."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito's eight, the most useful first, yellow last."""

PUBLISHED: Final = "#7F7F7F"
"""Grey, for figures that others published."""


def new_figure(*, width: float = 7.0, height: float = 4.6) -> tuple[Figure, Axes]:
    """One pair of axes, `width` by `height` inches, with a light grid."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write STEM.png (150 dpi) and STEM.svg, the same bytes for the same figure. Returns both paths."""
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    figure.savefig(png, dpi=150, metadata={"Software": None})
    with matplotlib.rc_context({"svg.hashsalt": "ndsc", "svg.fonttype": "none"}):
        figure.savefig(svg, metadata={"Date": None})
    return png, svg
