"""The table and the plot of the codec's parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from training.experiments.codec.measured import Kind, excess, gain_db
from training.experiments.codec.paper import PAPER
from training.experiments.codec.variants import LONGER, WHOLE
from training.experiments.recipe import Row
from training.plotting import COLOURS, new_figure, save_figure
from training.report.bd_rate import Curve, CurveError, bootstrap_bd_rate

Curves = Mapping[tuple[str, Kind], Curve]


def table(curves: Curves, seconds: Mapping[str, float]) -> list[Row]:
    """A row for each variant.

    `blind_db` is how far above `WHOLE` without y it is without y, at equal rate. `bd_rate` is against `WHOLE`, by
    PSNR with the right y, over the qualities from `overlap_low_db` to `overlap_high_db`; `bd_rate_paper` is the
    same of `WHOLE` and `LONGER` against the paper's codes. `excess` is what `WHOLE` needs beyond a model for one
    rate or beyond one code of the paper's, at its PSNR, and `excess_paper` what the paper's codes need, read off
    their curve; `right_gains_db` and `wrong_gains_db` are PSNR less that without y, mean of the levels. `_low` and
    `_high` are 95 % intervals over pictures; they know nothing of another training run. None: no quality in
    common. `seconds` are those of all seeds' training, the paper's without its priors.
    """
    rows: list[Row] = []
    whole = curves[WHOLE, "right"]
    for name in dict.fromkeys(name for name, _ in curves):
        right, none, wrong = (curves[name, kind] for kind in ("right", "none", "wrong"))
        rate, quality = right.mean()
        row: dict[str, str | float | int | bool | None] = {
            "variant": name,
            "lowest_bpp": float(rate.min()),
            "highest_bpp": float(rate.max()),
            "lowest_psnr_db": float(quality[rate.argmin()]),
            "highest_psnr_db": float(quality[rate.argmax()]),
            "right_gains_db": float((right.quality - none.quality).mean()),
            "wrong_gains_db": float((wrong.quality - none.quality).mean()),
            "blind_db": gain_db(curves[WHOLE, "none"], none),
            "seconds": seconds[name],
        }
        if len(rate) == 1:
            row |= _excess(whole, right, "excess")
            if name != PAPER and (PAPER, "right") in curves:
                row |= _excess(curves[PAPER, "right"], right, "excess_paper")
        elif name != WHOLE:
            row |= _bd_rate(whole, right, "")
        if name in (WHOLE, LONGER) and (PAPER, "right") in curves:
            row |= _bd_rate(curves[PAPER, "right"], right, "_paper")
        rows.append(row)
    return rows


def _excess(many: Curve, one: Curve, name: str) -> Row:
    found = excess(many, one) or (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))


def _bd_rate(reference: Curve, right: Curve, of: str) -> Row:
    parts = ("bd_rate{}", "bd_rate{}_low", "bd_rate{}_high", "overlap{}_low_db", "overlap{}_high_db")
    names = [part.format(of) for part in parts]
    try:
        found = bootstrap_bd_rate(reference, right)
    except CurveError:
        return dict.fromkeys(names)
    figures = (found.estimate.percent, found.low, found.high, *found.estimate.overlap)
    return dict(zip(names, figures, strict=True))


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
