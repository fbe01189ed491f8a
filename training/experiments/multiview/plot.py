"""PSNR of each arrangement of side views, at equal bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from training.experiments.recipe import Row
from training.plotting import COLOURS, save_figure

TITLES = {"stereo": "street frames, the right view in kinds", "drive": "synthetic drives, two views"}


def plot(rows: Sequence[Row], stem: Path) -> None:
    """One pair of axes for each data set; bars are 95 % intervals of the paired gain over no side view."""
    names = list(dict.fromkeys(str(row["data"]) for row in rows))
    figure = Figure(figsize=(0.8 + 4.4 * len(names), 3.4), layout="constrained")
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        shown = [row for row in rows if row["data"] == name and row["views"] != "none"]
        places = range(len(shown))
        gains, bars, wrong = (
            [float(row[column] or 0) for row in shown]
            for column in ("gain_over_none_db", "gain_ci95_db", "wrong_last_view_gain_db")
        )
        axes.errorbar(
            gains, places, xerr=bars, fmt="o", color=COLOURS[0], capsize=3, label="the right view or views"
        )
        axes.plot(wrong, places, "x", color=COLOURS[1], label="last view swapped for another scene's")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(places, [str(row["views"]) for row in shown])
        axes.invert_yaxis()
        axes.set_xlabel("PSNR gain over no side view / dB")
        axes.set_title(f"{TITLES[name]}, {shown[0]['total_bits']} bits", fontsize=10)
        axes.grid(visible=True, axis="x", alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8
    )
    save_figure(figure, stem)
