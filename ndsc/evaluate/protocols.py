"""Evaluation protocols: what is done to a frame before it is coded and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image

from ndsc.codec.errors import GeometryError
from ndsc.codec.frames import Frame

Protocol = Callable[[Frame], Frame]

CROP_HEIGHT, CROP_WIDTH = 370, 740
KITTI128_HEIGHT, KITTI128_WIDTH = 128, 256


def kitti128(frame: Frame) -> Frame:
    """The KITTI protocol of the distributed-source-coding papers.

    Centre crop to 370 rows by 740 columns, then Pillow's bilinear resize, which is antialiased, to 128 rows
    by 256 columns.

    Args:
        frame: uint8 RGB [H, W, 3], at least 370 by 740.

    Returns:
        uint8 RGB [128, 256, 3].

    Raises:
        GeometryError: the frame is smaller than the crop.
    """
    height, width = frame.shape[:2]
    if height < CROP_HEIGHT or width < CROP_WIDTH:
        raise GeometryError(
            f"protocol kitti128 needs frames of at least {CROP_WIDTH}x{CROP_HEIGHT} (width x height), "
            f"not {width}x{height}; use protocol native"
        )
    top, left = (height - CROP_HEIGHT) // 2, (width - CROP_WIDTH) // 2
    crop = np.ascontiguousarray(frame[top : top + CROP_HEIGHT, left : left + CROP_WIDTH])
    small = Image.fromarray(crop).resize((KITTI128_WIDTH, KITTI128_HEIGHT), Image.Resampling.BILINEAR)
    return np.array(small, dtype=np.uint8)


def native(frame: Frame) -> Frame:
    """The frame as it is: uint8 RGB [H, W, 3] in, the same array out."""
    return frame


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({"kitti128": kitti128, "native": native})
"""Protocols by the name that a command or a report gives."""
