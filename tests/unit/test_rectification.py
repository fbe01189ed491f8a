"""The rectification check finds the vertical offset it is given and ignores disparity."""

from __future__ import annotations

import numpy as np
import pytest

from ndsc.evaluate.rectification import vertical_offset_rows
from ndsc.scene import SceneConfig, StereoScene


@pytest.mark.parametrize("offset", [-7, -1, 0, 3, 12])
def test_the_offset_is_found(offset: int) -> None:
    left, right = StereoScene(SceneConfig(seed=4, width=320, height=200)).pair(2.0)
    rows = slice(20, 180)
    moved = right[20 - offset : 180 - offset]
    assert vertical_offset_rows(left[rows], moved) == pytest.approx(offset, abs=0.6)


def test_views_that_cannot_be_compared_are_refused() -> None:
    frame = np.zeros((128, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="one size"):
        vertical_offset_rows(frame, frame[:, :32])
    with pytest.raises(ValueError, match="96 rows"):
        vertical_offset_rows(frame[:64], frame[:64])
    with pytest.raises(ValueError, match="flat"):
        vertical_offset_rows(frame, frame)
    noise = np.random.default_rng(0).integers(0, 256, (2, 200, 300, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="nothing in common"):
        vertical_offset_rows(noise[0], noise[1])
