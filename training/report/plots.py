"""The report's plots: ours solid and thick, ordinary codecs dashed, published curves in black and grey."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from training.plotting import COLOURS, PUBLISHED, new_figure, save_figure
from training.published import PublishedTask
from training.report.measurement import Measurement, Point

PlottedMetric = Literal["psnr_db", "psnr_float_db", "ms_ssim", "lpips"]

AXIS_LABELS: Final[dict[PlottedMetric, str]] = {
    "psnr_db": "PSNR, 8-bit output (dB)",
    "psnr_float_db": "PSNR, float output (dB)",
    "ms_ssim": "MS-SSIM, window 7",
    "lpips": "LPIPS (AlexNet), less is better",
}
_BLUE, _VERMILLION, _GREEN, _PINK, _ORANGE, _SKY, _BLACK, _YELLOW = COLOURS
_OURS: Final = {"right": _BLUE, "none": _VERMILLION}
"""By what the decoder sees; a wrong view is in the tables alone."""
_ORDINARY: Final = {
    "JPEG": (_PINK, "v"),
    "WebP": (_ORANGE, "^"),
    "AVIF": (_SKY, "D"),
    "HEIC": (_BLACK, "s"),
    "JPEG 2000": (_GREEN, "P"),
    "JPEG XL": (_YELLOW, "X"),
    "x264 low delay": (_ORANGE, "^"),
    "x265 low delay": (_BLACK, "s"),
}
_MARKERS: Final = "osD^vPX<>"
_LEAST_PUBLISHED_POINTS: Final = 5
_BPP_TICKS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
_BYTES_TICKS: Final = (50, 100, 200, 500, 1000, 2000)


def _panels(titles: Sequence[str], *, share_y: bool) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(8.6, 3.7), layout="constrained")
    axes = list(figure.subplots(1, len(titles), squeeze=False, sharey=share_y)[0])
    for one, title in zip(axes, titles, strict=True):
        one.set_title(title, fontsize=10)
        one.grid(visible=True, alpha=0.25, linewidth=0.6)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _log_rate(axes: Axes, low_bpp: float, high_bpp: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low_bpp, high_bpp)
    axes.set_xticks([tick for tick in _BPP_TICKS if low_bpp <= tick <= high_bpp])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("rate (bits per pixel of x)")


def our_styles(ours: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of the curves that are drawn, by name: a marker for each bundle, a colour for what its decoder sees."""
    markers: dict[str, str] = {}
    styles = {}
    for codec in ours:
        bundle, _, side = codec.rpartition(", ")
        if side in _OURS:
            marker = markers.setdefault(bundle, _MARKERS[len(markers) % len(_MARKERS)])
            look = {"color": _OURS[side], "marker": marker, "markersize": 7, "linewidth": 2.4, "zorder": 3}
            styles[codec] = look
    return styles


def _ordinary_style(codec: str) -> dict[str, Any]:
    family, _, sampling = codec.partition(" 4:")
    colour, marker = _ORDINARY[family]
    half_colour = sampling == "2:0"
    return {
        "color": colour,
        "marker": marker,
        "markersize": 4,
        "markerfacecolor": "white" if half_colour else colour,
        "linewidth": 1.1,
        "linestyle": ":" if half_colour else "--",
    }


def _draw(
    axes: Axes, points: Sequence[Point], codec: str, metric: PlottedMetric, rate: str, style: Any
) -> None:
    own = sorted((getattr(p, rate), getattr(p, metric)) for p in points if p.codec == codec)
    axes.plot([x for x, _ in own], [y for _, y in own], label=codec, **style)


def _others(points: Sequence[Point], ours: Sequence[str]) -> list[str]:
    return [codec for codec in dict.fromkeys(p.codec for p in points) if codec not in ours]


def ordinary_codecs(points: Sequence[Point], ours: Sequence[str], metric: PlottedMetric, stem: Path) -> None:
    """Ours beside ordinary codecs, once without the cost of an empty file and once as whole files."""
    titles = ["ordinary codecs less their flat-picture floor", "ordinary codecs, whole files"]
    figure, panels = _panels(titles, share_y=True)
    for axes, rate in zip(panels, ("bpp_less_floor", "bpp"), strict=True):
        for codec in _others(points, ours):
            _draw(axes, points, codec, metric, rate, _ordinary_style(codec))
        for codec, style in our_styles(ours).items():
            _draw(axes, points, codec, metric, "bpp", style)
        _log_rate(axes, 0.02, 1.5)
    panels[0].set_ylabel(AXIS_LABELS[metric])
    # Below the panels: nine codecs and ours leave no empty corner.
    names = panels[0].get_legend_handles_labels()
    figure.legend(*names, fontsize=8, loc="outside lower center", ncols=6)
    save_figure(figure, stem)


def published_curves(
    points: Sequence[Point], ours: Sequence[str], task: PublishedTask, metric: PlottedMetric, stem: Path
) -> None:
    """Ours beside the published curves of at least five points, Neural DSC's among them."""
    figure, axes = new_figure(width=8.0, height=4.6)
    for codec, style in our_styles(ours).items():
        _draw(axes, points, codec, metric, "bpp", style)
    curves = [c for c in task.curves if len(c.points) >= _LEAST_PUBLISHED_POINTS]
    for number, curve in enumerate(curves):
        paper = curve.system.startswith("Neural DSC")
        axes.plot(
            [x for x, _ in curve.points],
            [y for _, y in curve.points],
            label=f"{curve.system} (published)",
            color=_BLACK if paper else PUBLISHED,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            linewidth=1.2,
            linestyle="-" if paper else ":",
        )
    _log_rate(axes, 0.01, 1)
    axes.set_xlabel("rate (bits per pixel of x); published rates are mostly estimates")
    axes.set_ylabel(AXIS_LABELS[metric])
    axes.legend(fontsize=8)
    save_figure(figure, stem)


def low_delay_video(
    points: Sequence[Point], measurements: Sequence[Measurement], ours: Sequence[str], stem: Path
) -> None:
    """Left: means over the frames. Right: bytes of each frame at the settings next to our lowest level's PSNR."""
    titles = [
        "means over all frames, the intra frame among them",
        "frame by frame, at the PSNR nearest to ours",
    ]
    figure, (curves, frames) = _panels(titles, share_y=False)
    for codec in _others(points, ours):
        _draw(curves, points, codec, "psnr_db", "bpp", _ordinary_style(codec))
    for codec, style in our_styles(ours).items():
        _draw(curves, points, codec, "psnr_db", "bpp", style)
    _log_rate(curves, 0.01, 1)
    curves.set_ylabel(AXIS_LABELS["psnr_db"])
    curves.legend(fontsize=8)

    lowest = min((p for p in points if p.codec == ours[0]), key=lambda p: p.bpp)
    _draw_frames(frames, lowest, measurements, our_styles(ours)[lowest.codec])
    for codec in _others(points, ours):
        own = [p for p in points if p.codec == codec]
        nearest = min(own, key=lambda p: abs(p.psnr_db - lowest.psnr_db))
        _draw_frames(frames, nearest, measurements, _ordinary_style(codec))
    frames.set_yscale("log")
    frames.set_yticks(_BYTES_TICKS)
    frames.yaxis.set_major_formatter(ScalarFormatter())
    frames.yaxis.set_minor_formatter(NullFormatter())
    frames.xaxis.set_major_locator(MaxNLocator(integer=True))
    frames.set_xlabel("frame")
    frames.set_ylabel("size of the frame (bytes)")
    frames.legend(fontsize=8)
    save_figure(figure, stem)


def _draw_frames(axes: Axes, point: Point, measurements: Sequence[Measurement], style: Any) -> None:
    sizes = [m.coded_bytes for m in measurements if (m.codec, m.setting) == (point.codec, point.setting)]
    label = f"{point.codec}, {point.setting}: {point.psnr_db:.2f} dB"
    axes.plot(range(1, len(sizes) + 1), sizes, label=label, **style)
