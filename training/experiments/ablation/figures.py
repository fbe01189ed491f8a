"""The plot of the figures, and the picture: what each y makes of one frame of the synthetic scene."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ndsc.codec.frames import Frame, to_uint8
from ndsc.evaluate.metrics import psnr
from training.experiments.ablation.codes import Code
from training.experiments.ablation.sides import Samples, Side
from training.experiments.recipe import Row
from training.plotting import COLOURS, new_figure, save_figure

_MARKERS = {Side.RIGHT: "o", Side.WRONG: "s", Side.RANDOM: "^", Side.NONE: "D"}
_LABELS = {Side.RIGHT: "right y", Side.WRONG: "wrong y", Side.RANDOM: "random y", Side.NONE: "no y"}


def plot(rows: Sequence[Row], stem: Path) -> None:
    """Mean PSNR of each code under each y, with 95 % bootstrap bars over pairs."""
    codes = list(dict.fromkeys(str(row["code"]) for row in rows))
    figure, axes = new_figure(width=max(5.0, 1.1 * len(codes) + 1.5))
    for number, (kind, marker) in enumerate(_MARKERS.items()):
        of_kind = [row for row in rows if row["side_information"] == kind.value]
        if not of_kind:
            continue
        mean, low, high = (
            np.array([row[name] for row in of_kind], np.float64)
            for name in ("psnr_float_db", "low_db", "high_db")
        )
        axes.errorbar(
            [codes.index(str(row["code"])) + 0.14 * (number - 1.5) for row in of_kind],
            mean,
            yerr=[mean - low, high - mean],
            fmt=marker,
            color=COLOURS[number],
            capsize=3,
            label=_LABELS[kind],
        )
    bpp = {str(row["code"]): row["bpp"] for row in rows}
    axes.set_xticks(
        range(len(codes)), [f"{code.replace(', ', chr(10))}\n{bpp[code]:.3f} bpp" for code in codes]
    )
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel("PSNR / dB (float output), 95 % interval over pairs")
    axes.legend(fontsize=8)
    save_figure(figure, stem)


def picture(code: Code, samples: Samples, path: Path) -> None:
    """The first sample decoded under each kind of y, with the y that the decoder saw below.

    Only for pictures that may be passed on: the synthetic scene's.
    """
    source, kinds = samples.sources[0], [Side(kind) for kind in code.kinds]
    figure = Figure(figsize=(2.56 * (1 + len(kinds)), 3.1), dpi=100, layout="constrained")
    axes = figure.subplots(2, 1 + len(kinds), squeeze=False)
    _show(axes[0, 0], source, "source x")
    axes[1, 0].axis("off")
    for column, kind in enumerate(kinds, 1):
        decoded = code.decode(samples, kind)
        output = to_uint8(decoded.outputs[0].transpose(2, 0, 1))
        _show(axes[0, column], output, f"{_LABELS[kind]}: {psnr(source, output):.1f} dB")
        side = samples.seen(kind)[0]
        if side is None:
            axes[1, column].axis("off")
        else:
            _show(axes[1, column], side, _LABELS[kind])
        axes[1, 0].text(0, 0.6, f"{code.name}\n{decoded.bpp:.3f} bpp, real bytes", fontsize=9)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    # A palette holds the file small: noise does not compress.
    Image.open(drawn).convert("RGB").quantize(128).save(path, optimize=True)


def _show(axes: Axes, frame: Frame, title: str) -> None:
    axes.imshow(frame)
    axes.set_title(title, fontsize=9)
    axes.axis("off")
