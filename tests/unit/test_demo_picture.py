"""The demo's yardstick is fair: the best ordinary file of about the same size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import features

from ndsc.demo.picture import Panel, compose, mended, ordinary
from ndsc.evaluate.metrics import psnr
from ndsc.scene import SceneConfig, StereoScene


def test_the_ordinary_picture_uses_the_bytes_it_may() -> None:
    frame = StereoScene(SceneConfig(seed=2)).render(1.0, "left")
    picture = ordinary(frame, 3000)
    assert 2400 < picture.size_bytes <= 3300
    assert picture.frame.shape == frame.shape


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_the_yardstick_is_no_straw_man() -> None:
    """AVIF is the best of the three at low rates; without it the picture would flatter."""
    frame = StereoScene(SceneConfig(seed=2)).render(1.0, "left")
    best = ordinary(frame, 2000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "check", lambda name: False)
        other = ordinary(frame, 2000)
    assert best.codec == "AVIF"
    assert psnr(frame, best.frame) > psnr(frame, other.frame) + 0.5


def test_a_least_size_is_told() -> None:
    frame = StereoScene(SceneConfig(seed=2)).render(1.0, "left")
    assert 10 < ordinary(frame, 10).size_bytes < 1500


@pytest.mark.parametrize("count", [1, 2, 6])
def test_panels_stand_in_a_grid(count: int) -> None:
    panel = Panel(np.full((128, 256, 3), 200, np.uint8), "title", "line")
    sheet = compose([panel] * count, "all")
    assert sheet.dtype == np.uint8
    assert sheet.shape[0] >= -(-count // 2) * 256
    assert (sheet == 200).all(axis=2).sum() >= count * 512 * 256


def test_mended_is_bright_where_side_information_helped() -> None:
    source = np.full((4, 4, 3), 100, np.uint8)
    without = source + 10
    better = without.copy()
    better[0] = 100
    gain = mended(source, better, without)
    assert gain[0].min() > 0
    assert gain[1:].max() == 0
