"""The table and the plot of the codec's parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from training.experiments.codec.measured import Kind, excess
from training.experiments.codec.variants import SINGLE, WHOLE
from training.experiments.recipe import Row
from training.plotting import COLOURS, new_figure, save_figure
from training.report.bd_rate import Curve, CurveError, bootstrap_bd_rate

Curves = Mapping[tuple[str, Kind], Curve]


def table(curves: Curves, seconds: Mapping[str, float]) -> list[Row]:
    """A row for each variant.

    `bd_rate` is against the released recipe, by PSNR with the right y; `excess` is what the many-rate model needs
    beyond a model for one rate, at its PSNR; `y_is_worth` is the PSNR of right less none, mean of the levels.
    `_low` and `_high` are 95 % intervals over pictures. None: the curves have no quality in common.
    """
    rows: list[Row] = []
    for name in dict.fromkeys(name for name, _ in curves):
        right, none = curves[name, "right"], curves[name, "none"]
        rate, quality = right.mean()
        row: dict[str, str | float | int | bool | None] = {
            "variant": name,
            "lowest_bpp": float(rate.min()),
            "highest_bpp": float(rate.max()),
            "lowest_psnr_db": float(quality[rate.argmin()]),
            "highest_psnr_db": float(quality[rate.argmax()]),
            "y_is_worth_db": float((right.quality - none.quality).mean()),
            "seconds": seconds[name],
        }
        whole = curves[WHOLE, "right"]
        if name.startswith(SINGLE):
            row |= dict(zip(("excess", "excess_low", "excess_high"), excess(whole, right), strict=True))
        elif name != WHOLE:
            row |= _bd_rate(whole, right)
        rows.append(row)
    return rows


def _bd_rate(whole: Curve, right: Curve) -> Row:
    try:
        found = bootstrap_bd_rate(whole, right)
    except CurveError:
        return {"bd_rate": None, "bd_rate_low": None, "bd_rate_high": None}
    return {"bd_rate": found.estimate.percent, "bd_rate_low": found.low, "bd_rate_high": found.high}


def plot(curves: Curves, output: Path) -> None:
    """Mean PSNR with the right y against mean rate, a line for each variant."""
    figure, axes = new_figure(width=7.5)
    names = list(dict.fromkeys(name for name, _ in curves))
    for i, name in enumerate(names):
        rate, quality = curves[name, "right"].mean()
        order = np.argsort(rate)
        axes.plot(
            rate[order],
            quality[order],
            marker="*" if len(rate) == 1 else "o",
            markersize=11 if len(rate) == 1 else 4,
            color=COLOURS[i % len(COLOURS)],
            label=name,
        )
    axes.set_xlabel("payload, bits a pixel")
    axes.set_ylabel("PSNR, dB")
    axes.legend(fontsize=8)
    save_figure(figure, output)
