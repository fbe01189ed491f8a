"""The demo's picture: panels side by side, each with what it is and what it cost."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from ndsc.codec.frames import Frame
from ndsc.evaluate.metrics import psnr

_MARGIN = 12
_CAPTION = 52
_INK, _FAINT, _PAPER = (28, 30, 34), (96, 100, 108), (250, 250, 248)
_MIN_PANEL_WIDTH = 512


@dataclass(frozen=True)
class Panel:
    """A picture [height, width, 3] with a title and a line below it."""

    frame: Frame
    title: str
    line: str


@dataclass(frozen=True)
class OrdinaryPicture:
    """What an ordinary codec makes of a frame with a given number of bytes."""

    codec: str
    size_bytes: int
    frame: Frame


def ordinary(frame: Frame, target_bytes: int) -> OrdinaryPicture:
    """The best AVIF, WebP or JPEG file of `frame` with about `target_bytes` bytes: at most a tenth more.

    Every codec has a least size; where all are above the target, the best of their smallest files comes back, with
    its real size. Builds of Pillow without AVIF do without.
    """
    image = Image.fromarray(frame)
    fitting: list[OrdinaryPicture] = []
    smallest: list[OrdinaryPicture] = []
    # Pillow takes JPEG quality 0 for "not given".
    codecs: list[tuple[str, int, dict[str, int]]] = [("WebP", 0, {"method": 4}), ("JPEG", 1, {"optimize": 1})]
    if features.check("avif"):
        codecs.append(("AVIF", 0, {"speed": 6}))
    for codec, least, options in codecs:
        for quality in range(least, 96):
            buffer = io.BytesIO()
            image.save(buffer, codec, quality=quality, **options)
            decoded = np.asarray(Image.open(buffer).convert("RGB"))
            picture = OrdinaryPicture(codec, buffer.getbuffer().nbytes, decoded)
            if quality == least:
                smallest.append(picture)
            if picture.size_bytes > 1.1 * target_bytes:
                break  # sizes only grow from here
            fitting.append(picture)
    return max(fitting or smallest, key=lambda picture: psnr(frame, picture.frame))


def mended(source: Frame, with_y: Frame, without_y: Frame, gain: float = 8.0) -> Frame:
    """Grey picture of how much smaller the error of `with_y` is than that of `without_y`, pixel by pixel."""

    def error(frame: Frame) -> NDArray[np.float64]:
        difference: NDArray[np.float64] = np.abs(frame.astype(np.float64) - source)
        mean: NDArray[np.float64] = difference.mean(axis=2)
        return mean

    brightness = np.clip(gain * (error(without_y) - error(with_y)), 0, 255).astype(np.uint8)
    return np.repeat(brightness[..., None], 3, axis=2)


def compose(panels: Sequence[Panel], title: str, columns: int = 2) -> Frame:
    """All panels in a grid under a title; uint8 [height, width, 3]. Panels share one size."""
    height, width = panels[0].frame.shape[:2]
    scale = max(1, -(-_MIN_PANEL_WIDTH // width))
    panel_width, panel_height = width * scale, height * scale
    rows = -(-len(panels) // columns)
    big, small = ImageFont.load_default(20), ImageFont.load_default(16)
    sheet = Image.new(
        "RGB",
        (columns * (panel_width + _MARGIN) + _MARGIN, 48 + rows * (panel_height + _CAPTION + _MARGIN)),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 14), title, fill=_INK, font=big)
    for index, panel in enumerate(panels):
        left = _MARGIN + (index % columns) * (panel_width + _MARGIN)
        top = 48 + (index // columns) * (panel_height + _CAPTION + _MARGIN)
        image = Image.fromarray(panel.frame).resize((panel_width, panel_height), Image.Resampling.BICUBIC)
        sheet.paste(image, (left, top))
        draw.text((left, top + panel_height + 6), panel.title, fill=_INK, font=small)
        draw.text((left, top + panel_height + 27), panel.line, fill=_FAINT, font=small)
    return np.asarray(sheet)
