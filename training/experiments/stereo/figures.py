"""The plots: rate against distortion, our measured bytes and the paper's curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from training.experiments.recipe import Row
from training.experiments.stereo.published import PUBLISHED
from training.plotting import COLOURS, new_figure, save_figure
from training.plotting import PUBLISHED as GREY

_MARKERS = {"8x": "o", "8x-first": "v", "4x": "s", "2x": "D"}


def plot(
    rows: Sequence[Row], figure_name: str, label: str, ours: str, stem: Path, *, published: bool = True
) -> None:
    """`figure_name` is `psnr_float_db` or `ms_ssim`; `label` names its axis, `ours` what our points are.

    `published` draws the paper's curve too, which is one of KITTI Stereo.
    """
    figure, axes = new_figure()
    if published:
        _plot_published(axes, figure_name)
    for index, family in enumerate(dict.fromkeys(str(row["family"]) for row in rows)):
        of_family = sorted(
            (row for row in rows if row["family"] == family), key=lambda row: float(row["fixed_bpp"] or 0)
        )
        colour, marker = COLOURS[index], _MARKERS[family]
        fixed, coded, values = (
            [float(row[name] or math.nan) for row in of_family]
            for name in ("fixed_bpp", "prior_bpp", figure_name)
        )
        axes.plot(fixed, values, "--", color=colour, marker=marker, markerfacecolor="white", linewidth=1)
        axes.plot(coded, values, "-", color=colour, marker=marker, label=f"{ours}, {family}")
    axes.plot(
        [], [], "o--", color="black", markerfacecolor="white", label="hollow: fixed length", linewidth=1
    )
    axes.plot([], [], "o-", color="black", label="filled: latent prior, real bytes")
    axes.set_xscale("log", base=2)
    axes.set_xticks(
        [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2], ["1/64", "1/32", "1/16", "1/8", "1/4", "1/2"]
    )
    axes.set_xlabel("rate of x / bit per pixel (log scale)")
    axes.set_ylabel(label)
    axes.legend(fontsize=8, loc="upper left")
    save_figure(figure, stem)


def _plot_published(axes: Axes, figure_name: str) -> None:
    entries = sorted(PUBLISHED.values(), key=lambda entry: entry.fixed_bpp)
    levels = [entry.ms_ssim if figure_name == "ms_ssim" else entry.psnr_db for entry in entries]
    for rates, style, name in (
        ([entry.fixed_bpp for entry in entries], "--", "the paper, KITTI's 790, fixed length"),
        ([entry.prior_bpp for entry in entries], "-", "the paper, KITTI's 790, latent prior (counted bits)"),
    ):
        axes.plot(rates, levels, style, color=GREY, marker=".", linewidth=1, label=name)
