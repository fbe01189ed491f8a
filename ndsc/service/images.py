"""ndsc.v1.Image ↔ uint8 frame [height, width, 3]. Stated sizes are checked before anything is decoded."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image as PillowImage

from ndsc.codec.errors import ImageError, OutputError
from ndsc.codec.frames import Frame, decode_image, encode_image, write_image
from ndsc.service.errors import FIELD_INVALID, IMAGE_INVALID, RefusedError
from ndsc.service.identity import is_name
from ndsc.v1 import types_pb2
from ndsc.v1.types_pb2 import Image, ImageFormat

_CODERS: Final[dict[ImageFormat, str]] = {
    types_pb2.IMAGE_FORMAT_PNG: "png",
    types_pb2.IMAGE_FORMAT_JPEG: "jpeg",
}


def frame_name(rig: str, camera: str, session_id: bytes, sequence: int) -> Path:
    """RIG/CAMERA/SESSION/SEQUENCE.png: where a decoded frame is written below a folder of the user's.

    Raises OutputError for a rig or camera that is no legal name, and could lead out of that folder.
    """
    for name in (rig, camera):
        if not is_name(name):
            raise OutputError(f"{name!r} is no name of a rig or camera, so its frames are not written")
    return Path(rig, camera, session_id.hex()[:8], f"{sequence:08d}.png")


def write_frame(path: Path, frame: Frame) -> None:
    """Write uint8 [height, width, 3] as PNG, folders made. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {path.parent}: {error.strerror or error}") from error
    write_image(path, frame)


def max_image_bytes(pixels: int) -> int:
    """Bytes that an Image of so many pixels may take: raw, plus what PNG and JPEG may add to noise."""
    return pixels * 3 * 5 // 4 + (64 << 10)


def answer_format(image_format: ImageFormat) -> ImageFormat:
    """Format of an answer: PNG when not stated. Raises RefusedError (FIELD_INVALID) for an unknown one."""
    if image_format == types_pb2.IMAGE_FORMAT_UNSPECIFIED:
        return types_pb2.IMAGE_FORMAT_PNG
    if image_format != types_pb2.IMAGE_FORMAT_RAW_RGB8 and image_format not in _CODERS:
        raise RefusedError(FIELD_INVALID, f"image format {image_format} is unknown; ask for raw, PNG or JPEG")
    return image_format


def from_image(image: Image, *, max_pixels: int) -> Frame:
    """Image message → uint8 [height, width, 3]. Blocks: call it off the event loop.

    Raises RefusedError: FIELD_INVALID for a format or size that is not stated, IMAGE_INVALID for more than
    `max_pixels` pixels, and for bytes that are no image of the stated format and size.
    """
    check_image(image, max_pixels=max_pixels)
    shape = (image.height, image.width, 3)
    if image.format == types_pb2.IMAGE_FORMAT_RAW_RGB8:
        return np.frombuffer(image.data, np.uint8).reshape(shape)
    coder = _CODERS[image.format]
    try:
        with PillowImage.open(io.BytesIO(image.data), formats=[coder]) as header:
            size = header.size
    except Exception as error:  # Pillow's parsers raise a dozen types on damaged input
        raise RefusedError(IMAGE_INVALID, f"the bytes are no {coder.upper()} image") from error
    if size != (image.width, image.height):
        raise RefusedError(
            IMAGE_INVALID,
            f"the image is {size[0]}x{size[1]} pixels, but {image.width}x{image.height} were stated",
        )
    try:
        frame = decode_image(image.data, max_pixels)
    except ImageError as error:
        raise RefusedError(IMAGE_INVALID, str(error)) from error
    if frame.shape != shape:  # orientation in EXIF swaps the sides
        raise RefusedError(
            IMAGE_INVALID,
            f"the image is {frame.shape[1]}x{frame.shape[0]} pixels upright, "
            f"but {image.width}x{image.height} were stated",
        )
    return frame


def check_image(image: Image, *, max_pixels: int) -> None:
    """The checks of `from_image` that need no decoding; cheap. Raises RefusedError."""
    if image.format != types_pb2.IMAGE_FORMAT_RAW_RGB8 and image.format not in _CODERS:
        raise RefusedError(FIELD_INVALID, f"image format {image.format} is unknown; send raw, PNG or JPEG")
    if image.width < 1 or image.height < 1:
        raise RefusedError(FIELD_INVALID, "an image must state its width and height")
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise RefusedError(
            IMAGE_INVALID,
            f"an image of {image.width}x{image.height} pixels is too large; "
            f"at most {max_pixels} pixels are taken",
        )
    size = len(image.data)
    if image.format == types_pb2.IMAGE_FORMAT_RAW_RGB8:
        if size != pixels * 3:
            raise RefusedError(
                IMAGE_INVALID,
                f"a raw image of {image.width}x{image.height} pixels has {pixels * 3} bytes, not {size}",
            )
    elif size > max_image_bytes(pixels):
        raise RefusedError(IMAGE_INVALID, f"{size} bytes are too many for an image of {pixels} pixels")


def to_image(frame: Frame, image_format: ImageFormat) -> Image:
    """uint8 [height, width, 3] → Image message; JPEG has quality 95. Blocks: call it off the event loop.

    Raises RefusedError (FIELD_INVALID) for an unknown format.
    """
    image_format = answer_format(image_format)
    if image_format == types_pb2.IMAGE_FORMAT_RAW_RGB8:
        data = np.ascontiguousarray(frame).tobytes()
    else:
        data = encode_image(frame, _CODERS[image_format])
    return Image(format=image_format, width=frame.shape[1], height=frame.shape[0], data=data)
