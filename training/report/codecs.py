"""Ordinary picture codecs through their own libraries: real files, and real decoding."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401  registers JPEG XL with Pillow
from PIL import Image, features

from ndsc.codec.frames import Frame

pillow_heif.register_heif_opener()

_FLAT_LEVELS: Final = (0, 128, 255)


@dataclass(frozen=True)
class PictureCodec:
    """One file format at settings that stay, over a ladder of qualities. No metadata is written."""

    name: str
    image_format: str
    """Pillow's name."""
    ladder: tuple[int, ...]
    """What is varied, from the lowest rate to the highest."""
    options: Callable[[int], dict[str, Any]]
    """A step of the ladder → the encoder's options."""
    setting: str
    """What a step of the ladder is called in tables."""
    about: str
    """Library and effort, for the reader."""

    def encode(self, frame: Frame, step: int) -> bytes:
        """uint8 RGB [H, W, 3] → a whole file."""
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, self.image_format, **self.options(step))
        return buffer.getvalue()

    def decode(self, data: bytes) -> Frame:
        """A whole file → uint8 RGB [H, W, 3]."""
        with Image.open(io.BytesIO(data), formats=[self.image_format]) as image:
            return np.array(image.convert("RGB"))

    def floor_bytes(self, height: int, width: int) -> int:
        """Smallest file for a flat picture of this size: black, grey and white at every step of the ladder."""
        flats = [np.full((height, width, 3), level, np.uint8) for level in _FLAT_LEVELS]
        return min(len(self.encode(flat, step)) for flat in flats for step in self.ladder)

    def label(self, step: int) -> str:
        """A step of the ladder in words."""
        return f"{self.setting} {step}"

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What its figures depend on, besides the pictures and the libraries."""
        return {"format": self.image_format, "options": [self.options(step) for step in self.ladder]}


def _heic(chroma: int) -> Callable[[int], dict[str, Any]]:
    # By libheif's quality a picture's QP ends near 48; x265's own options reach 51, the coarsest of HEVC.
    def options(qp: int) -> dict[str, Any]:
        x265 = {"tune": "psnr", "x265:qp": str(qp), "x265:ipratio": "1.0"}
        return {"quality": 50, "chroma": chroma, "enc_params": x265}

    return options


_QP_LADDER: Final = (51, 49, 46, 43, 40, 37, 34, 31, 28)


def _jpeg(subsampling: int) -> Callable[[int], dict[str, Any]]:
    return lambda quality: {"quality": quality, "subsampling": subsampling, "optimize": True}


def _avif(subsampling: str) -> Callable[[int], dict[str, Any]]:
    return lambda quality: {
        "quality": quality,
        "subsampling": subsampling,
        "speed": 4,
        "codec": "aom",
        "max_threads": 1,
        "advanced": {"tune": "psnr"},
    }


_JPEG_LADDER: Final = (1, 3, 5, 8, 12, 18, 25, 35, 50, 65)
_AVIF_LADDER: Final = (0, 5, 10, 15, 20, 27, 35, 42, 50, 60)

X265_INTRA: Final = "x265 intra"
SAMPLINGS: Final[Mapping[str, tuple[str, str]]] = {
    X265_INTRA: ("HEIC 4:4:4", "HEIC 4:2:0"),
    "AVIF": ("AVIF 4:4:4", "AVIF 4:2:0"),
    "JPEG": ("JPEG 4:4:4", "JPEG 4:2:0"),
}
"""Formats measured with full and with half colour: the better of the two is compared (`bd_rate.better_of`)."""
HEIC_444, HEIC_420 = SAMPLINGS[X265_INTRA]

PICTURE_CODECS: Final[Mapping[str, PictureCodec]] = {
    codec.name: codec
    for codec in (
        PictureCodec(
            "JPEG 4:4:4",
            "JPEG",
            _JPEG_LADDER,
            _jpeg(0),
            "quality",
            "libjpeg-turbo, 4:4:4, optimised Huffman tables",
        ),
        PictureCodec(
            "JPEG 4:2:0",
            "JPEG",
            _JPEG_LADDER,
            _jpeg(2),
            "quality",
            "libjpeg-turbo, 4:2:0, optimised Huffman tables",
        ),
        PictureCodec(
            "WebP",
            "WEBP",
            (0, 2, 5, 10, 18, 28, 40, 55, 70, 80),
            lambda quality: {"quality": quality, "method": 6},
            "quality",
            "libwebp, method 6; the format has 4:2:0 alone",
        ),
        PictureCodec(
            "AVIF 4:4:4",
            "AVIF",
            _AVIF_LADDER,
            _avif("4:4:4"),
            "quality",
            "libaom through libavif, 4:4:4, speed 4, tuned for PSNR",
        ),
        PictureCodec(
            "AVIF 4:2:0",
            "AVIF",
            _AVIF_LADDER,
            _avif("4:2:0"),
            "quality",
            "libaom through libavif, 4:2:0, speed 4, tuned for PSNR",
        ),
        PictureCodec(
            HEIC_444,
            "HEIF",
            _QP_LADDER,
            _heic(444),
            "QP",
            "x265 intra through libheif, 4:4:4, constant QP, preset slow, tuned for PSNR",
        ),
        PictureCodec(
            HEIC_420,
            "HEIF",
            _QP_LADDER,
            _heic(420),
            "QP",
            "x265 intra through libheif, 4:2:0, constant QP, preset slow, tuned for PSNR",
        ),
        PictureCodec(
            "JPEG 2000",
            "JPEG2000",
            (400, 300, 200, 140, 100, 72, 53, 38, 28, 20),
            lambda ratio: {
                "irreversible": True,
                "mct": 1,
                "quality_mode": "rates",
                "quality_layers": [ratio],
                "no_jp2": True,
            },
            "ratio",
            "OpenJPEG, 9/7 wavelet, 4:4:4, bare codestream",
        ),
        PictureCodec(
            "JPEG XL",
            "JXL",
            (1, 5, 10, 17, 25, 35, 45, 55, 65, 75),
            lambda quality: {"quality": quality, "effort": 9, "num_threads": 1},
            "quality",
            "libjxl, effort 9, bare codestream; the step in its curve near quality 20 is the library's own",
        ),
    )
}
"""By name."""


def library_versions() -> dict[str, str]:
    """Versions of the libraries behind the codecs."""
    versions = {
        package: metadata.version(package) for package in ("pillow", "pillow-heif", "pillow-jxl-plugin", "av")
    }
    for name, feature in (
        ("libjpeg-turbo", "libjpeg_turbo"),
        ("libwebp", "webp"),
        ("libavif", "avif"),
        ("OpenJPEG", "jpg_2000"),
    ):
        versions[name] = str(features.version(feature))
    heif = pillow_heif.libheif_info()
    return versions | {"libheif": heif["libheif"], "x265": heif["encoders"]["x265"].split()[3].strip("()")}
