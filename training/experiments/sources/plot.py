"""MSE against the bits of one x, for the three modes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from training.experiments.recipe import Row
from training.paper.convolutional import Mode
from training.plotting import COLOURS, save_figure

TITLES = {
    "celeba": "CelebA-HQ",
    "mnist": "MNIST digits",
    "stereo": "street frames",
    "drive": "synthetic drives",
}
LABELS = {
    Mode.SEPARATE: "separate: y at neither end",
    Mode.DISTRIBUTED: "distributed: y at the decoder",
    Mode.JOINT: "joint: y at both ends",
}
MARKERS = {Mode.SEPARATE: "s", Mode.DISTRIBUTED: "o", Mode.JOINT: "^"}


def plot(rows: Sequence[Row], stem: Path) -> None:
    """One pair of axes for each data set; bars are one standard error over seeds."""
    names = list(dict.fromkeys(str(row["data"]) for row in rows))
    figure = Figure(figsize=(0.6 + 4.4 * len(names), 4.2), layout="constrained")
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        for colour, mode in zip(COLOURS, LABELS, strict=False):
            points = [row for row in rows if row["data"] == name and row["mode"] == mode]
            bits, mse, error = (
                [float(row[column] or 0) for row in points] for column in ("total_bits", "mse", "mse_se")
            )
            axes.errorbar(
                bits,
                mse,
                error,
                color=colour,
                marker=MARKERS[mode],
                markersize=5,
                capsize=3,
                label=LABELS[mode],
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(bits, [f"{b:.0f}" for b in bits])
        axes.minorticks_off()
        axes.set_xlabel("bits of one x (log scale)")
        axes.set_title(f"upper halves of {TITLES[name]}", fontsize=10)
        axes.grid(visible=True, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("mean squared error of x̂ (pixels from 0 to 1)")
    figure.axes[0].legend(fontsize=8)
    save_figure(figure, stem)
