"""The KITTI protocol of the literature, and none at all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ndsc.codec.errors import GeometryError
from ndsc.codec.frames import Frame
from ndsc.evaluate import PROTOCOLS, kitti128, native


def noise(height: int, width: int) -> Frame:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(375, 1242), (370, 1224), (376, 1241), (370, 740)])
def test_kitti128_is_a_centre_crop_and_pillows_resize(height: int, width: int) -> None:
    frame = noise(height, width)
    left, top = (width - 740) // 2, (height - 370) // 2
    # Pillow crops and resizes in one call here, the protocol in two steps.
    expected = Image.fromarray(frame).resize(
        (256, 128), Image.Resampling.BILINEAR, box=(left, top, left + 740, top + 370)
    )
    result = kitti128(frame)
    assert result.dtype == np.uint8
    assert result.shape == (128, 256, 3)
    # The box resize filters across the box's edge, so the outermost pixels may differ.
    inner = np.s_[2:-2, 2:-2]
    assert np.array_equal(result[inner], np.asarray(expected)[inner])


def test_kitti128_sees_nothing_outside_the_crop() -> None:
    frame = noise(375, 1242)
    outside = frame.copy()
    outside[:2] = outside[372:] = 0
    outside[:, :251] = outside[:, 991:] = 0
    assert np.array_equal(kitti128(frame), kitti128(outside))
    inside = frame.copy()
    inside[2, 251] = ~inside[2, 251]
    inside[371, 990] = ~inside[371, 990]
    changed = (kitti128(frame) != kitti128(inside)).any(axis=2)
    assert changed[0, 0]
    assert changed[127, 255]


def test_kitti128_is_antialiased() -> None:
    rows, columns = np.indices((370, 740))
    checkerboard = np.repeat((255 * ((rows + columns) % 2)).astype(np.uint8)[..., None], 3, axis=2)
    # Without a filter as wide as the scale (2.89) this aliases to black and white.
    assert np.abs(kitti128(checkerboard).astype(int) - 128).max() < 30


def test_kitti128_does_not_touch_its_input() -> None:
    frame = noise(375, 1242)
    frame.flags.writeable = False
    assert kitti128(frame).flags.writeable


@pytest.mark.parametrize(("height", "width"), [(369, 1242), (375, 739), (128, 256)])
def test_kitti128_refuses_smaller_frames_in_one_line(height: int, width: int) -> None:
    with pytest.raises(GeometryError, match=f"740x370.*not {width}x{height}") as caught:
        kitti128(noise(height, width))
    assert "\n" not in str(caught.value)


def test_native_is_the_frame_itself() -> None:
    frame = noise(9, 5)
    assert native(frame) is frame


def test_protocols_by_name() -> None:
    assert dict(PROTOCOLS) == {"kitti128": kitti128, "native": native}
