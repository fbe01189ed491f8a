"""The table and the plots of the gradient experiment."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter
from torch import Tensor

from training.experiments.gradients.comparison import Curves, Heldout
from training.experiments.recipe import Row
from training.experiments.seeds import Estimate, estimate, paired
from training.plotting import COLOURS, new_figure, save_figure

WHOLE: Final = "uncompressed"
"""Sends x whole."""
ALONE: Final = "y alone"
"""Sends nothing."""
REFERENCES: Final = {
    "separate": "separate",
    "separate, corrected": "separate_corrected",
    WHOLE: "uncompressed",
    ALONE: "y_alone",
}
"""What others are compared with, and its name in a column."""
_COLOURS: Final = dict(
    zip(
        ("joint", "distributed", "separate", "top-k", "random-k", "QSGD", WHOLE, "norm sampling", ALONE),
        (*COLOURS, COLOURS[6]),
        strict=True,
    )
)
_LINES: Final = {"": "-", "corrected": "--", "filled": "--", "memory": ":"}


def _list(values: Tensor) -> list[float]:
    return [float(value) for value in values]


def _bars(name: str, of: Estimate) -> Row:
    return {name: of.mean, f"{name}_95": of.half_width}


def _difference(name: str, values: Tensor, reference: Tensor) -> Row:
    """`values` [R] less `reference` [R]; None for the reference itself."""
    if values is reference:
        return {name: None, f"{name}_95": None}
    return _bars(name, paired(_list(values), _list(reference)))


def table(curves: Mapping[str, Curves], errors: Mapping[str, Heldout]) -> list[Row]:
    """One row for each compressor: means over runs, and half of the 95 % interval beside each (`_95`).

    `loss` is the training loss over all steps, `early_loss` over a first fifth, `final_loss` over the last tenth.
    `_less_…` are differences from the compressors in `REFERENCES`, run by run. `heldout_…`: see `Heldout`.
    """
    rows: list[Row] = []
    losses = {name: run.losses.mean(1) for name, run in curves.items()}
    early = {name: run.losses[:, : run.losses.shape[1] // 5].mean(1) for name, run in curves.items()}
    for name, run in curves.items():
        tenth = max(1, run.losses.shape[1] // 10)
        row: dict[str, str | float | int | bool | None] = {"method": name, "bits_per_step": run.bits}
        row |= _bars("loss", estimate(_list(losses[name])))
        for reference, short in REFERENCES.items():
            row |= _difference(f"loss_less_{short}", losses[name], losses[reference])
        row |= _difference("early_loss_less_separate", early[name], early["separate"])
        row |= _bars("final_loss", estimate(_list(run.losses[:, -tenth:].mean(1))))
        row |= _bars("test_accuracy", estimate(_list(run.accuracies[:, -1])))
        if name in errors:
            found = errors[name]
            row |= _bars("heldout_error", estimate(_list(found.error)))
            row |= _difference("heldout_error_less_separate", found.error, errors["separate"].error)
            row |= {
                "heldout_loud_error": float(found.loud_error.mean()),
                "heldout_quiet_error": float(found.quiet_error.mean()),
            }
        rows.append(row)
    return rows


def by_code(curves: Mapping[str, Curves], modes: list[str], codes: int) -> list[Row]:
    """Training loss of each fitted code alone, and its differences as in `table`, over the runs that used it."""
    losses = {name: run.losses.mean(1) for name, run in curves.items()}
    rows: list[Row] = []
    for name, values in losses.items():
        if name.partition(", ")[0] not in modes:
            continue
        for code in range(codes):
            mine = slice(code, None, codes)
            row: dict[str, str | float | int | bool | None] = {"method": name, "code": code}
            row |= {"runs": len(values[mine]), "loss": float(values[mine].mean())}
            for reference, short in REFERENCES.items():
                row[f"loss_less_{short}"] = float((values - losses[reference])[mine].mean())
            rows.append(row)
    return rows


def _windows(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Steps [W] and means [R, W] of [R, steps] in `count` windows, each half as long again as the one before."""
    steps = values.shape[1]
    edges = np.unique(np.geomspace(max(4, steps // 100), steps, count + 1).round().astype(int))
    edges = np.concatenate([[0], edges])
    means = [values[:, a:b].mean(1) for a, b in itertools.pairwise(edges)]
    return torch.from_numpy((edges[:-1] + edges[1:]) / 2), torch.stack(means, 1)


def _draw(axes: Axes, curves: Mapping[str, Tensor], *, bars: bool) -> None:
    """Curves [R, W] over windows of steps; bars are 95 % intervals over seeds."""
    for i, (name, values) in enumerate(curves.items()):
        steps, means = _windows(values, 10)
        estimates = [estimate(_list(column)) for column in means.unbind(1)]
        kind, _, variant = name.partition(", ")
        line = ":" if name == ALONE else _LINES[variant]
        style: dict[str, Any] = {"color": _COLOURS[kind], "linestyle": line, "label": name}
        style |= {"linewidth": 1.6, "marker": "o", "markersize": 3}
        middle = [e.mean for e in estimates]
        if bars:
            # Moved apart a little, so that bars of one window do not hide one another.
            moved = (steps * (1 + 0.012 * (i - len(curves) / 2))).tolist()
            half = [e.half_width for e in estimates]
            axes.errorbar(moved, middle, half, elinewidth=1, capsize=2, **style)
        else:
            axes.plot(steps.tolist(), middle, **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training step")


def plots(curves: Mapping[str, Curves], learned: list[str], folder: Path) -> list[Path]:
    """Training loss, its paired difference from uncompressed training, and the error of x̂: PNG and SVG of each."""
    seeds = len(next(iter(curves.values())).losses)
    made: list[Path] = []

    figure, axes = new_figure(width=7.5)
    _draw(axes, {name: run.losses for name, run in curves.items()}, bars=False)
    axes.set_yscale("log")
    axes.set_ylabel(f"training loss (nats), mean of {seeds} seeds")
    axes.legend(fontsize=8, handlelength=3.5)
    made += save_figure(figure, folder / "loss")

    figure, axes = new_figure(width=7.5)
    shown = [name for name in curves if name.partition(", ")[0] in learned or name in ("top-k", ALONE)]
    _draw(axes, {name: curves[name].losses - curves[WHOLE].losses for name in shown}, bars=True)
    axes.axhline(0, color=_COLOURS[WHOLE], linewidth=0.8)
    axes.set_ylabel("training loss above uncompressed (nats),\npaired by seed, 95 % intervals")
    axes.legend(fontsize=8, handlelength=3.5)
    made += save_figure(figure, folder / "plot")

    figure, axes = new_figure(width=7.5)
    _draw(axes, {name: curves[name].errors for name in learned}, bars=True)
    axes.set_ylabel("|x̂ − x|² / |x|² along its own run,\n95 % intervals over seeds")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, handlelength=3.5)
    made += save_figure(figure, folder / "error")
    return made
