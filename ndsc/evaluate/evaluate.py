"""Rate and distortion of a bundle on stereo pairs, every figure from real bytes.

left ─→ protocol ─→ FrameEncoder ─→ .ndsc bytes ─→ FrameDecoder ─→ output ─→ PSNR, MS-SSIM against left
right ─→ protocol ─────────────────────────────────────┘
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any, Final, Literal, Self, get_args

import numpy as np

from ndsc.codec.bitstream import CompressedFrame, from_bytes, to_bytes
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.errors import GeometryError
from ndsc.codec.frames import Frame, read_image, to_uint8
from ndsc.codec.runtime import RuntimeOptions
from ndsc.evaluate.metrics import ms_ssim, ms_ssim_min_side, psnr, psnr_float
from ndsc.evaluate.pairs import PairPaths, PairsError, list_pairs
from ndsc.evaluate.protocols import PROTOCOLS, Protocol

SideInformation = Literal["right", "none", "wrong", "black"]
"""What the decoder sees: the pair's right frame, nothing, the right frame of another pair, or a black one."""

_DEFAULT_OPTIONS: Final = RuntimeOptions()


@dataclass(frozen=True)
class ImageResult:
    """One source frame, coded at one rate level and decoded again."""

    name: str
    rate: int
    """Rate level, 0 the lowest."""
    payload_bpp: float
    """Bits of the payload (checksum included) to one pixel of the source after the protocol."""
    frame_bpp: float
    """Bits of the protobuf message `ndsc.v1.Frame` to one pixel."""
    psnr: float
    """dB, 8-bit output against the 8-bit source."""
    psnr_float: float
    """dB, output before rounding, in [0, 1], against source / 255."""
    ms_ssim: float | None
    """Window 7, 8-bit output; None for a frame too small to measure (`ms_ssim_min_side`)."""
    encode_ms: float
    """From frame to payload."""
    decode_ms: float
    """From payload to 8-bit frame."""


@dataclass(frozen=True)
class RatePoint:
    """One rate level: the means of its images' figures."""

    rate: int
    payload_bpp: float
    frame_bpp: float
    psnr: float
    psnr_float: float
    ms_ssim: float | None
    """None as soon as one image has none: a mean over some of the images is comparable to nothing."""
    encode_ms: float
    decode_ms: float
    images: tuple[ImageResult, ...]

    @classmethod
    def of(cls, images: Sequence[ImageResult]) -> Self:
        """The point of at least one image, all of one rate level."""
        similarities = [image.ms_ssim for image in images if image.ms_ssim is not None]
        return cls(
            rate=images[0].rate,
            payload_bpp=fmean(image.payload_bpp for image in images),
            frame_bpp=fmean(image.frame_bpp for image in images),
            psnr=fmean(image.psnr for image in images),
            psnr_float=fmean(image.psnr_float for image in images),
            ms_ssim=fmean(similarities) if len(similarities) == len(images) else None,
            encode_ms=fmean(image.encode_ms for image in images),
            decode_ms=fmean(image.decode_ms for image in images),
            images=tuple(images),
        )


@dataclass(frozen=True)
class Evaluation:
    """All rate levels of one bundle on one list of pairs."""

    pairs: int
    """How many pairs were measured."""
    protocol: str
    side_information: SideInformation
    late: int
    """By how many pairs the side information was late."""
    rows: int
    """By how many rows it was moved down."""
    bundle_id: str
    bitstream_id: str
    """Hexadecimal, like the bundle id."""
    points: tuple[RatePoint, ...]
    """One for each rate level, lowest first."""

    def to_json(self) -> dict[str, Any]:
        """The same fields as a JSON object; figures that JSON cannot hold (infinite PSNR) become null."""
        plain: dict[str, Any] = _json_value(asdict(self))
        return plain


def evaluate(
    bundle: Bundle,
    directories: Sequence[Path],
    *,
    frame_bytes: Callable[[CompressedFrame], int],
    protocol: str = "native",
    side_information: SideInformation = "right",
    late: int = 0,
    rows: int = 0,
    options: RuntimeOptions = _DEFAULT_OPTIONS,
    progress: Callable[[int, int], None] | None = None,
    outputs: Callable[[Frame, Frame], None] | None = None,
) -> Evaluation:
    """Encode every left frame at every rate level to the bytes of a `.ndsc` file, decode those, and measure.

    Args:
        bundle: the models and the prior to measure.
        directories: folders of pairs, as `list_pairs` reads them; their pairs are concatenated in order.
        frame_bytes: size in bytes of the protobuf message that carries a compressed frame
            (`ndsc.evaluate.wire.frame_message_bytes`); a parameter so that training needs no protobuf.
        protocol: a name in `PROTOCOLS`; both frames of a pair go through it.
        side_information: "right" decodes with the pair's right frame, "none" without any. "wrong" decodes
            image i of n with side image (i + n // 2) mod n, cropped, or padded by repeating its last row and
            column, at the bottom and right to the size of the source where the two differ. "black" is a camera
            that sees nothing.
        late: the side information is that of so many pairs before, for folders whose pairs follow in time: a
            camera that hangs. The first `late` pairs of each folder are not measured; nor are they with "none",
            so that the two compare.
        rows: the side information is moved down by so many rows after the protocol, up where it is negative, and
            its edge row repeated: a rig that is not rectified.
        options: where the networks run.
        progress: called as progress(done, total) after each coded frame.
        outputs: called as outputs(source, decoded), both uint8, for each pair and its rate levels in order: for
            metrics that this package has not.

    Encode and decode times come after one warm-up of both networks at the size of the first frame.

    Raises:
        PairsError: no folder, a folder without complete pairs or with no more than `late`, "wrong" with a
            single pair, or `late` or `rows` with a kind that they change nothing of.
        GeometryError: a frame too small for the protocol or too large for the bundle, or a right frame of
            another size than its left one; the message names the file.
        ImageError: a file is not a readable image.
        ValueError: no such protocol or kind of side information, or `late` below 0.
        BundleError, ProviderError: the bundle cannot run (see `FrameEncoder`).
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol {protocol!r}; there is {', '.join(PROTOCOLS)}")
    if side_information not in get_args(SideInformation):
        raise ValueError(f"no side information {side_information!r}; there is right, none, wrong, black")
    if late < 0:
        raise ValueError(f"side information cannot be {late} pairs late")
    if (late and side_information in ("wrong", "black")) or (rows and side_information in ("none", "black")):
        raise PairsError(
            f"side information that is {side_information} cannot be {'late' if late else 'moved'}; leave it out"
        )
    folders = [list_pairs(directory) for directory in directories]
    pairs = [pair for folder in folders for pair in folder]
    if not pairs:
        raise PairsError("no folder of pairs to evaluate; give at least one")
    if side_information == "wrong" and len(pairs) < 2:
        raise PairsError("wrong side information comes from another pair; give at least two pairs")
    if any(len(folder) <= late for folder in folders):
        raise PairsError(
            f"side information of {late} pairs before needs more than {late} pairs in each folder"
        )

    bench = _Bench(FrameEncoder(bundle, options), FrameDecoder(bundle, options), frame_bytes)
    levels = range(bundle.rate_level_count)
    results: list[list[ImageResult]] = [[] for _ in levels]
    measured = [
        (pair, earlier) for folder in folders for pair, earlier in zip(folder[late:], folder, strict=False)
    ]
    for i, (pair, earlier) in enumerate(measured):
        source = _load(pair.left, PROTOCOLS[protocol])
        if side_information == "wrong":
            earlier = pairs[(i + len(pairs) // 2) % len(pairs)]
        side = _load_side(earlier, source, side_information, PROTOCOLS[protocol])
        side = side if side is None else _moved(side, rows)
        try:
            if i == 0:
                bench.measure(pair.name, source, side, levels[-1])
            for level in levels:
                result, output = bench.measure(pair.name, source, side, level)
                results[level].append(result)
                if outputs is not None:
                    outputs(source, output)
                if progress is not None:
                    progress(i * len(levels) + level + 1, len(measured) * len(levels))
        except GeometryError as error:
            raise GeometryError(f"{pair.left}: {error}") from error
    return Evaluation(
        pairs=len(measured),
        protocol=protocol,
        side_information=side_information,
        late=late,
        rows=rows,
        bundle_id=bundle.bundle_id,
        bitstream_id=bundle.bitstream_id.hex(),
        points=tuple(RatePoint.of(images) for images in results),
    )


@dataclass(frozen=True)
class _Bench:
    encoder: FrameEncoder
    decoder: FrameDecoder
    frame_bytes: Callable[[CompressedFrame], int]

    def measure(self, name: str, source: Frame, side: Frame | None, level: int) -> tuple[ImageResult, Frame]:
        """The figures, and the 8-bit output they are of."""
        started = perf_counter()
        compressed = self.encoder.encode(source, level)
        encode_ms = 1000 * (perf_counter() - started)

        received = from_bytes(to_bytes(compressed))

        started = perf_counter()
        output_float = self.decoder.decode_float(received, side)
        # The rounding that FrameDecoder.decode does: one run of the network gives both outputs.
        output = to_uint8(output_float.transpose(2, 0, 1))
        decode_ms = 1000 * (perf_counter() - started)

        height, width = source.shape[:2]
        measurable = min(height, width) >= ms_ssim_min_side()
        result = ImageResult(
            name=name,
            rate=level,
            payload_bpp=received.payload_bpp,
            frame_bpp=8 * self.frame_bytes(received) / (width * height),
            psnr=psnr(source, output),
            psnr_float=psnr_float(source / 255, output_float),
            ms_ssim=ms_ssim(source, output) if measurable else None,
            encode_ms=encode_ms,
            decode_ms=decode_ms,
        )
        return result, output


def _load(path: Path, protocol: Protocol) -> Frame:
    try:
        return protocol(read_image(path))
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error


def _load_side(pair: PairPaths, source: Frame, mode: SideInformation, protocol: Protocol) -> Frame | None:
    """What the decoder sees: the right frame of `pair`, at the size of `source`."""
    if mode == "none":
        return None
    if mode == "black":
        return np.zeros_like(source)
    side = _load(pair.right, protocol)
    # The pair's own is as it is: if it has another size, the decoder says so.
    return _fit(side, source) if mode == "wrong" else side


def _moved(side: Frame, rows: int) -> Frame:
    """`side` moved down by `rows`, its first row repeated; up where they are negative."""
    height = len(side)
    moved: Frame = side[np.clip(np.arange(height) - rows, 0, height - 1)]
    return moved


def _fit(side: Frame, source: Frame) -> Frame:
    """`side` cropped or edge-padded at the bottom and right to the size of `source`."""
    height, width = source.shape[:2]
    side = side[:height, :width]
    missing = (0, height - side.shape[0]), (0, width - side.shape[1]), (0, 0)
    return np.pad(side, missing, mode="edge")


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
