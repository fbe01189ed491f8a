"""What is compared with what: the x265 anchor, and the table of BD-rates with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from training.report.bd_rate import BDRate, Curve, CurveError, bd_rate, better_of, bootstrap_bd_rate
from training.report.codecs import SAMPLINGS, X265_INTRA
from training.report.measurement import Measurement, Metric, curve

METRICS: Final[tuple[Metric, ...]] = ("psnr_db", "ms_ssim_db")
LESS_FLOOR: Final = "less floor"
WHOLE: Final = "whole files"


def anchor(
    measurements: Iterable[Measurement],
    name: str = X265_INTRA,
    *,
    metric: Metric = "psnr_db",
    less_floor: bool = True,
) -> Curve:
    """The curve of an ordinary codec: of its samplings (`SAMPLINGS`) the better at each setting (`better_of`).

    Less the flat-picture floor unless told otherwise: what the coded picture costs without the file around it,
    which a camera link would not send either. Raises CurveError when a sampling was not measured.
    """
    rows = list(measurements)
    titled = f"{name}, {LESS_FLOOR if less_floor else WHOLE}"
    if name not in SAMPLINGS:
        return curve(rows, name, metric=metric, less_floor=less_floor, name=titled)
    full, half = (curve(rows, one, metric=metric, less_floor=less_floor) for one in SAMPLINGS[name])
    return better_of(full, half, titled)


@dataclass(frozen=True)
class Comparison:
    """One BD-rate of the report, or why there is none."""

    metric: Metric
    test: str
    anchor: str
    result: BDRate | None
    interval: tuple[float, float] | None = None
    """95 %, over pictures; None for frames of one video, which are no sample."""
    reason: str = ""
    """Why there is no figure."""


def compare(
    metric: Metric, tests: Sequence[Curve], anchors: Sequence[Curve], *, intervals: bool = True
) -> list[Comparison]:
    """Every test against every anchor; curves without a common quality are told, not left out."""
    rows = []
    for test in tests:
        for anchor in anchors:
            try:
                if intervals:
                    drawn = bootstrap_bd_rate(anchor, test)
                    row = Comparison(metric, test.name, anchor.name, drawn.estimate, (drawn.low, drawn.high))
                else:
                    row = Comparison(metric, test.name, anchor.name, bd_rate(anchor, test))
            except CurveError as error:
                row = Comparison(metric, test.name, anchor.name, None, reason=str(error))
            rows.append(row)
    return rows


def compare_all(
    measurements: Sequence[Measurement],
    tests: Sequence[str],
    anchors: Sequence[str],
    ours: Sequence[tuple[str, str]] = (),
) -> list[Comparison]:
    """BD-rates by PSNR and, where every picture has it, MS-SSIM.

    Each of `tests` against each of `anchors`, less floor and in whole files; and `ours`, pairs of a test and an
    anchor that have no file around their payloads.
    """
    rows: list[Comparison] = []
    for metric in METRICS:
        if metric == "ms_ssim_db" and any(row.ms_ssim is None for row in measurements):
            continue
        others = []
        for less_floor in (True, False):
            others += [anchor(measurements, name, metric=metric, less_floor=less_floor) for name in anchors]
        rows += compare(metric, [curve(measurements, name, metric=metric) for name in tests], others)
        for pair in ours:
            test, reference = (curve(measurements, name, metric=metric) for name in pair)
            rows += compare(metric, [test], [reference])
    return rows
