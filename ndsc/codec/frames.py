"""Frames: uint8 RGB arrays [height, width, 3], their sizes, padding, and image files.

The codec works on whole strides. A frame of any size is padded at the bottom and right by repeating its
last row and column, and cropped back after decoding.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ndsc.codec.errors import GeometryError, ImageError
from ndsc.codec.files import write_whole

Frame = NDArray[np.uint8]
"""uint8 RGB [height, width, 3]."""

MAX_IMAGE_PIXELS: Final = 1 << 26
"""Images that declare more pixels are refused before any of them is decompressed."""

# Few, well-trodden formats: every further one is more C code that parses strangers' bytes.
_READABLE: Final = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF")

IMAGE_SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff"}
)
"""Names of image files in a folder end so, in either case: the usual suffixes of what `read_image` reads."""

_WRITABLE: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "jpg": ("JPEG", {"quality": 95}),
    "jpeg": ("JPEG", {"quality": 95}),
}


@dataclass(frozen=True)
class Grid:
    """Size of the index grid: one position covers stride × stride pixels."""

    height: int
    width: int

    @property
    def positions(self) -> int:
        """Indices in one residual stage."""
        return self.height * self.width


@dataclass(frozen=True)
class Geometry:
    """Which frame sizes a bundle codes: from 1 × 1 up to both limits, counted before padding."""

    stride: int
    """Pixels of a frame to one position of the index grid, each way."""
    max_side: int
    max_pixels: int

    def check(self, width: int, height: int) -> None:
        """Raise GeometryError unless a frame of width × height pixels can be coded."""
        if width < 1 or height < 1:
            raise GeometryError(f"a frame of {width}x{height} pixels is empty")
        if width > self.max_side or height > self.max_side or width * height > self.max_pixels:
            raise GeometryError(
                f"a frame of {width}x{height} pixels is too large (this bundle: {self.max_side} a side "
                f"and {self.max_pixels} pixels); scale it down"
            )

    def grid(self, width: int, height: int) -> Grid:
        """Index grid of a frame of width × height pixels. Raises GeometryError like `check`."""
        self.check(width, height)
        return Grid(height=-(-height // self.stride), width=-(-width // self.stride))

    def padded(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels after padding to whole strides. Raises GeometryError like `check`."""
        grid = self.grid(width, height)
        return grid.width * self.stride, grid.height * self.stride


def check_frame(frame: object, name: str = "frame") -> Frame:
    """`frame` itself when it is uint8 [height, width, 3] with at least one pixel, else GeometryError."""
    if not isinstance(frame, np.ndarray):
        raise GeometryError(
            f"{name} must be a uint8 RGB array [height, width, 3], not {type(frame).__name__}"
        )
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise GeometryError(
            f"{name} must be a uint8 RGB array [height, width, 3], not {frame.dtype} {list(frame.shape)}"
        )
    return frame


def pad(frame: Frame, stride: int) -> Frame:
    """Repeat the last row and column until both sides are multiples of `stride`."""
    height, width = frame.shape[:2]
    if height % stride == 0 and width % stride == 0:
        return frame
    return np.pad(frame, ((0, -height % stride), (0, -width % stride), (0, 0)), mode="edge")


def to_float(frame: Frame) -> NDArray[np.float32]:
    """uint8 [H, W, 3] → float32 [3, H, W] in [0, 1]."""
    return np.ascontiguousarray(frame.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def to_uint8(pixels: NDArray[np.float32]) -> Frame:
    """float [3, H, W] → uint8 [H, W, 3]: clipped to [0, 1], scaled by 255, halves rounded up."""
    levels = np.clip(pixels, 0, 1)
    levels *= 255
    levels += 0.5
    # Nothing is negative here, so the cast, which truncates, rounds down.
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))


def decode_image(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS, name: str = "image data") -> Frame:
    """PNG, JPEG, WebP, BMP, PPM or TIFF bytes → uint8 [H, W, 3].

    Grey and palette images become RGB, 16-bit grey is scaled to 8 bits, alpha is dropped (the colours under
    it stay), and EXIF orientation is applied, as viewers do. Raises ImageError, whose message starts with
    `name`, when the bytes are not such an image, are cut short, or declare more than `max_pixels` pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_READABLE) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    f"{name}: {width}x{height} pixels are too many, at most {max_pixels} are read"
                )
            return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Exception as error:  # Pillow's parsers raise a dozen types on damaged input
        if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
            raise ImageError(f"{name}: too many pixels, at most {max_pixels} are read") from error
        raise ImageError(f"{name}: not a readable PNG, JPEG, WebP, BMP, PPM or TIFF image") from error


def _to_rgb(image: Image.Image) -> Frame:
    if image.mode.startswith("I"):
        # Pillow's own conversion of 16-bit grey clips at 255 instead of scaling.
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("grey values beyond 16 bits")
        eight_bit = ((grey + 128) // 257).astype(np.uint8)
        return np.repeat(eight_bit[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed scale")
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB, Pillow warns of transparent palette entries
    return np.array(image.convert("RGB"))


def read_image(path: str | Path, max_pixels: int = MAX_IMAGE_PIXELS) -> Frame:
    """Image file → uint8 [H, W, 3], converted as `decode_image` says. Raises ImageError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    return decode_image(data, max_pixels, name=str(path))


def encode_image(frame: Frame, image_format: str) -> bytes:
    """uint8 [H, W, 3] → image bytes; `image_format` is png, webp (lossless), jpg or jpeg (quality 95).

    Raises ImageError for another format or a frame the format cannot hold, GeometryError when `frame` is no
    frame.
    """
    check_frame(frame)
    known = _WRITABLE.get(image_format.lower())
    if known is None:
        raise ImageError(f"cannot write images as {image_format!r}; use one of {', '.join(_WRITABLE)}")
    buffer = io.BytesIO()
    try:
        Image.fromarray(frame).save(buffer, known[0], **known[1])
    except (OSError, ValueError) as error:
        height, width = frame.shape[:2]
        raise ImageError(f"cannot write {width}x{height} pixels as {known[0]}: {error}") from error
    return buffer.getvalue()


def write_image(path: str | Path, frame: Frame) -> None:
    """Write uint8 [H, W, 3] in the format of the suffix: .png, .webp (lossless), .jpg or .jpeg (quality 95).

    The file appears whole or not at all. Raises ImageError for another suffix, OutputError when the place
    cannot be written.
    """
    suffix = Path(path).suffix.lstrip(".").lower()
    if suffix not in _WRITABLE:
        allowed = ", ".join(f".{s}" for s in _WRITABLE)
        raise ImageError(f"{path}: cannot write this kind of file; use one of {allowed}")
    write_whole(path, encode_image(frame, suffix))
