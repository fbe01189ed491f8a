"""The report's plots: ours in colour and thick, ordinary codecs in colour, published curves in grey."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from training.plotting import COLOURS, PUBLISHED, new_figure, save_figure
from training.report.measurement import Measurement, Point
from training.report.published import PublishedTask

PlottedMetric = Literal["psnr_db", "ms_ssim", "lpips"]

AXIS_LABELS: Final[dict[PlottedMetric, str]] = {
    "psnr_db": "PSNR, 8-bit output (dB)",
    "ms_ssim": "MS-SSIM, window 7",
    "lpips": "LPIPS (AlexNet), less is better",
}
_RATE_LABEL: Final = "rate (bits per pixel of x)"
_MARKERS: Final = "osD^vPX<>"
_LEAST_PUBLISHED_POINTS: Final = 5
_LOWEST_BPP: Final = 0.02
# Ours take the first three colours of each plot.
_ORDINARY_COLOURS: Final = (*COLOURS[3:], *COLOURS[:3])


def _panels(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    axes = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for one, title in zip(axes, titles, strict=True):
        one.set_title(title, fontsize=10)
        one.grid(visible=True, alpha=0.25, linewidth=0.6)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _log_rate(axes: Axes, label: str = _RATE_LABEL) -> None:
    axes.set_xscale("log")
    axes.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)


def _draw(
    axes: Axes,
    points: Sequence[Point],
    codec: str,
    metric: PlottedMetric,
    less_floor: bool,
    number: int,
    ours: bool,
) -> None:
    own = [p for p in points if p.codec == codec]
    pairs = [
        (p.bpp_less_floor if less_floor else p.bpp, value)
        for p in own
        if (value := getattr(p, metric)) is not None
    ]
    shown = sorted(pair for pair in pairs if ours or pair[0] >= _LOWEST_BPP)
    axes.plot(
        [rate for rate, _ in shown],
        [value for _, value in shown],
        label=codec,
        color=COLOURS[number % 3] if ours else _ORDINARY_COLOURS[number % len(_ORDINARY_COLOURS)],
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=7 if ours else 3.5,
        linewidth=2.4 if ours else 1.1,
        linestyle="-" if ours else "--",
        zorder=3 if ours else 2,
    )


def ordinary_codecs(points: Sequence[Point], ours: Sequence[str], metric: PlottedMetric, stem: Path) -> None:
    """Ours beside ordinary codecs, once without the cost of an empty file and once as whole files."""
    others = [codec for codec in dict.fromkeys(p.codec for p in points) if codec not in ours]
    figure, panels = _panels(
        ["ordinary codecs less their flat-picture floor", "ordinary codecs, whole files"]
    )
    for axes, less_floor in zip(panels, (True, False), strict=True):
        for number, codec in enumerate(ours):
            _draw(axes, points, codec, metric, less_floor, number, ours=True)
        for number, codec in enumerate(others):
            _draw(axes, points, codec, metric, less_floor, number, ours=False)
        _log_rate(axes)
        axes.set_xlim(_LOWEST_BPP, 1.5)
        axes.set_ylabel(AXIS_LABELS[metric])
    panels[1].sharey(panels[0])
    panels[0].legend(fontsize=8, loc="best")
    save_figure(figure, stem)


def published_curves(
    points: Sequence[Point], ours: Sequence[str], task: PublishedTask, metric: PlottedMetric, stem: Path
) -> None:
    """Ours beside the published curves of at least five points, Neural DSC's among them."""
    figure, axes = new_figure(width=8.0, height=5.0)
    for number, codec in enumerate(ours):
        _draw(axes, points, codec, metric, False, number, ours=True)
    curves = [c for c in task.curves if len(c.points) >= _LEAST_PUBLISHED_POINTS]
    for number, curve in enumerate(curves):
        paper = curve.system.startswith("Neural DSC")
        axes.plot(
            [x for x, _ in curve.points],
            [y for _, y in curve.points],
            label=f"{curve.system} (published)",
            color="#000000" if paper else PUBLISHED,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            linewidth=1.2,
            linestyle="-" if paper else ":",
        )
    _log_rate(axes, "rate (bits per pixel of x); published: mostly estimated")
    axes.set_ylabel(AXIS_LABELS[metric])
    axes.legend(fontsize=8)
    save_figure(figure, stem)


def low_delay_video(
    points: Sequence[Point], measurements: Sequence[Measurement], ours: Sequence[str], stem: Path
) -> None:
    """Left: means over the frames. Right: bytes of each frame at the settings next to our lowest level's PSNR."""
    codecs = [codec for codec in dict.fromkeys(p.codec for p in points) if codec not in ours]
    figure, (curves, frames) = _panels(["mean over the frames, the intra frame among them", "frame by frame"])
    for number, codec in enumerate(ours):
        _draw(curves, points, codec, "psnr_db", False, number, ours=True)
    for number, codec in enumerate(codecs):
        _draw(curves, points, codec, "psnr_db", False, number, ours=False)
    _log_rate(curves)
    curves.set_ylabel(AXIS_LABELS["psnr_db"])
    curves.legend(fontsize=8)

    target = min((p for p in points if p.codec == ours[0]), key=lambda p: p.bpp)
    chosen = [target]
    for codec in codecs:
        chosen.append(
            min((p for p in points if p.codec == codec), key=lambda p: abs(p.psnr_db - target.psnr_db))
        )
    for number, point in enumerate(chosen):
        mine = number == 0
        sizes = [m.coded_bytes for m in measurements if (m.codec, m.setting) == (point.codec, point.setting)]
        frames.plot(
            range(1, len(sizes) + 1),
            sizes,
            label=f"{point.codec}, {point.setting}: {point.psnr_db:.2f} dB",
            color=COLOURS[0] if mine else _ORDINARY_COLOURS[(number - 1) % len(_ORDINARY_COLOURS)],
            marker=_MARKERS[number - 1 if number else 0],
            markersize=6 if mine else 3.5,
            linewidth=2.4 if mine else 1.1,
            linestyle="-" if mine else "--",
        )
    frames.set_yscale("log")
    frames.set_yticks([50, 100, 200, 500, 1000, 2000])
    frames.yaxis.set_major_formatter(ScalarFormatter())
    frames.yaxis.set_minor_formatter(NullFormatter())
    frames.set_xlabel("frame")
    frames.set_ylabel("bytes of the frame")
    frames.legend(fontsize=8)
    save_figure(figure, stem)
