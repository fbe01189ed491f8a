"""Are two views rectified? A scene point must lie on the same row of both."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ndsc.codec.frames import Frame

MAX_OFFSET_ROWS: Final = 24
"""Offsets up to this are found."""
MAX_RECTIFIED_ROWS: Final = 1.5
"""A pair whose views differ by less counts as rectified: under a fifth of the codec's stride."""
_MIN_CORRELATION: Final = 0.5


def vertical_offset_rows(left: Frame, right: Frame) -> float:
    """How many rows lower the right view shows the scene than the left one; near 0 when they are rectified.

    Each row of both views, uint8 [height, width, 3] of one size, is reduced to how much the picture changes from
    it to the next. A horizontal disparity leaves that profile as it is, a vertical offset shifts it; the shift of
    best correlation, refined by a parabola, is the answer. It tells an offset, not a rotation.

    Raises ValueError when the sizes differ, the views are lower than four times the largest offset, one is flat,
    or they have nothing in common.
    """
    if left.shape != right.shape or left.shape[0] < 4 * MAX_OFFSET_ROWS:
        raise ValueError(f"views of one size and at least {4 * MAX_OFFSET_ROWS} rows are needed")
    one, other = _profile(left), _profile(right)
    rows = len(one)
    shifts = np.arange(-MAX_OFFSET_ROWS, MAX_OFFSET_ROWS + 1)
    inside = slice(MAX_OFFSET_ROWS, rows - MAX_OFFSET_ROWS)
    scores = np.array(
        [np.corrcoef(one[inside], np.roll(other, -shift)[inside])[0, 1] for shift in shifts], np.float64
    )
    best = int(scores.argmax())
    if scores[best] < _MIN_CORRELATION:
        raise ValueError("the views show nothing in common: are they of one moment and one rig?")
    if not 0 < best < len(shifts) - 1:
        return float(shifts[best])
    before, at, after = scores[best - 1 : best + 2]
    curvature = before - 2 * at + after
    return float(shifts[best] + (0.5 * (before - after) / curvature if curvature else 0.0))


def _profile(frame: Frame) -> NDArray[np.float64]:
    grey = frame.astype(np.float64).mean(axis=2)
    change: NDArray[np.float64] = np.abs(np.diff(grey, axis=0)).mean(axis=1)
    if change.std() < 1e-6:
        raise ValueError("a flat view tells nothing")
    return change
