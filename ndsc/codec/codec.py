"""Frames to compressed frames and back: what the services, the client, the command and the evaluation use.

FrameEncoder   frame x → pad → encoder.onnx → indices → the stages sent at a rate level → payload
FrameDecoder   payload → indices (all checks, CPU only) → decoder.onnx with y → crop → frame x̂
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ndsc.codec.bitstream import CompressedFrame, decode_payload, encode_payload
from ndsc.codec.bundle import Bundle
from ndsc.codec.errors import BundleError, GeometryError, PayloadCorruptError, RateLevelError
from ndsc.codec.frames import Frame, check_frame, pad, to_float, to_uint8
from ndsc.codec.runtime import DecoderSession, EncoderSession, RuntimeOptions

_DEFAULT_OPTIONS: Final = RuntimeOptions()


@dataclass(frozen=True, eq=False)
class Indices:
    """One frame's indices: made by `FrameEncoder.analyze`, or out of a payload by `FrameDecoder.unpack`."""

    bitstream_id: bytes
    rate_level: int
    """The level that the stages make up, or the only one that they are for."""
    width: int
    """Pixels of the frame before padding."""
    height: int
    stages: NDArray[np.int32]
    """int32 [stages sent, h, w]."""


class FrameEncoder:
    """Compresses frames, seeing nothing but the frame. Safe to call from several threads.

    Raises BundleError when the golden vectors do not come out or the graph cannot be loaded, ProviderError
    when the provider asked for is not there.
    """

    def __init__(self, bundle: Bundle, options: RuntimeOptions = _DEFAULT_OPTIONS) -> None:
        bundle.check_golden()
        self.bundle = bundle
        self._by_level = bundle.prior.rate_levels is not None
        self._session = EncoderSession(bundle.encoder_onnx, options, by_level=self._by_level)
        self._threads = options.threads or len(os.sched_getaffinity(0))

    @property
    def provider(self) -> str:
        """The execution provider in use, by onnxruntime's name."""
        return self._session.provider

    def encode(self, frame: Frame, rate_level: int | None = None) -> CompressedFrame:
        """uint8 RGB [H, W, 3] → compressed frame at `rate_level` (the bundle's default when None).

        Raises RateLevelError, and GeometryError for a frame of another kind or size than the bundle codes.
        """
        level = self.bundle.default_rate_level if rate_level is None else operator.index(rate_level)
        self.bundle.stages_sent(level)
        return self.pack(self.analyze(frame, level), level)

    def analyze(self, frame: Frame, rate_level: int | None = None) -> Indices:
        """uint8 RGB [H, W, 3] → indices. The network runs here.

        They are those of all stages that any rate level sends, for every level; or, where levels have indices of
        their own, those of `rate_level` (the bundle's default when None), for that level alone.

        Raises RateLevelError, and GeometryError for a frame of another kind or size than the bundle codes.
        """
        level = self.bundle.default_rate_level if rate_level is None else operator.index(rate_level)
        self.bundle.stages_sent(level)
        if not self._by_level:
            level = self.bundle.rate_level_count - 1
        height, width = check_frame(frame).shape[:2]
        grid = self.bundle.geometry.grid(width, height)
        padded = to_float(pad(frame, self.bundle.geometry.stride))
        sent = self.bundle.stages_sent(level)
        indices = self._session.run(padded[None], np.array([level], np.int64))
        sizes = self.bundle.prior.codebook_sizes
        if indices.shape != (1, len(sizes), grid.height, grid.width) or indices.dtype != np.int32:
            raise BundleError(
                f"encoder.onnx made {indices.dtype} {list(indices.shape)} for a frame of "
                f"{width}x{height}; the bundle was exported wrongly"
            )
        return Indices(self.bundle.bitstream_id, level, width, height, indices[0, :sent])

    def pack(self, indices: Indices, rate_level: int) -> CompressedFrame:
        """Indices → compressed frame at `rate_level`; stages of one frame can be packed at several levels.

        Raises RateLevelError for a level that the bundle lacks, or the indices, which are of a lower one or of
        another that has its own; BitstreamMismatchError for indices of another bitstream.
        """
        bitstream = self.bundle.bitstream
        bitstream.check_id(indices.bitstream_id)
        stages = bitstream.stages_sent(rate_level)
        if len(indices.stages) < stages or (self._by_level and indices.rate_level != rate_level):
            raise RateLevelError(
                f"indices of rate level {indices.rate_level} do not suffice for {rate_level}; analyze the frame"
            )
        try:
            payload = encode_payload(indices.stages[:stages], rate_level, bitstream, threads=self._threads)
        except ValueError as error:
            raise BundleError(f"encoder.onnx does not fit the prior: {error}") from error
        return CompressedFrame(bitstream.bitstream_id, rate_level, indices.width, indices.height, payload)

    def warm_up(self, width: int = 256, height: int = 128) -> None:
        """Encode one black frame of at most this size, so that the first real one is not slow."""
        self.encode(_black(self.bundle, width, height))


class FrameDecoder:
    """Reconstructs frames from payloads, with side information or without. Safe to call from several threads.

    Raises like FrameEncoder when made.
    """

    def __init__(self, bundle: Bundle, options: RuntimeOptions = _DEFAULT_OPTIONS) -> None:
        bundle.check_golden()
        self.bundle = bundle
        self._session = DecoderSession(bundle.decoder_onnx, options)

    @property
    def provider(self) -> str:
        """The execution provider in use, by onnxruntime's name."""
        return self._session.provider

    def unpack(self, frame: CompressedFrame) -> Indices:
        """Payload → indices with every check, cheapest first; no network runs.

        Raises BitstreamMismatchError, RateLevelError, GeometryError, PayloadSizeError or
        PayloadCorruptError.
        """
        bitstream = self.bundle.bitstream
        bitstream.check_id(frame.bitstream_id)
        bitstream.stages_sent(frame.rate_level)
        grid = bitstream.geometry.grid(frame.width, frame.height)
        stages = decode_payload(frame.payload, grid, frame.rate_level, bitstream)
        return Indices(frame.bitstream_id, frame.rate_level, frame.width, frame.height, stages)

    def decode(self, frame: CompressedFrame, side_information: Frame | None = None) -> Frame:
        """Compressed frame, and y uint8 [H, W, 3] or None → uint8 [H, W, 3].

        Raises like `unpack`, and GeometryError when y is not a frame of the same size.
        """
        return self.decode_batch([self.unpack(frame)], [side_information])[0]

    def decode_float(
        self, frame: CompressedFrame, side_information: Frame | None = None
    ) -> NDArray[np.float32]:
        """Like `decode`, before rounding: float32 [H, W, 3] in [0, 1]."""
        pixels = self._reconstruct([self.unpack(frame)], [side_information])[0]
        return np.ascontiguousarray(np.clip(pixels, 0, 1).transpose(1, 2, 0))

    def decode_batch(
        self, unpacked: Sequence[Indices], side_information: Sequence[Frame | None]
    ) -> list[Frame]:
        """Decode frames of one size in one run of the network; levels may differ, y may be missing for some.

        Raises GeometryError when sizes differ within the batch or from their y, BitstreamMismatchError for
        indices of another bitstream, PayloadCorruptError for indices outside the codebooks, ValueError when
        the two sequences differ in length.
        """
        if not unpacked:
            return []
        return [to_uint8(pixels) for pixels in self._reconstruct(unpacked, side_information)]

    def warm_up(self, width: int = 256, height: int = 128) -> None:
        """Decode one black frame of at most this size, so that the first real one is not slow."""
        black = _black(self.bundle, width, height)
        height, width = black.shape[:2]
        grid = self.bundle.geometry.grid(width, height)
        level = self.bundle.rate_level_count - 1
        zeros = np.zeros((self.bundle.stages_sent(level), grid.height, grid.width), np.int32)
        self.decode_batch([Indices(self.bundle.bitstream_id, level, width, height, zeros)], [black])

    def _reconstruct(
        self, unpacked: Sequence[Indices], side_information: Sequence[Frame | None]
    ) -> NDArray[np.float32]:
        """float32 [B, 3, H, W], cropped and not clipped."""
        width, height = unpacked[0].width, unpacked[0].height
        padded_width, padded_height = self.bundle.geometry.padded(width, height)
        grid = self.bundle.geometry.grid(width, height)
        batch, sizes = len(unpacked), self.bundle.prior.codebook_sizes
        indices = np.zeros((batch, len(sizes), grid.height, grid.width), np.int32)
        side = np.zeros((batch, 3, padded_height, padded_width), np.float32)
        present = np.zeros(batch, np.float32)
        for i, (sample, y) in enumerate(zip(unpacked, side_information, strict=True)):
            if (sample.width, sample.height) != (width, height):
                raise GeometryError(
                    f"one batch holds frames of one size, not {width}x{height} and "
                    f"{sample.width}x{sample.height}"
                )
            sent = indices[i, : self.bundle.stages_sent(sample.rate_level)]
            self._check_indices(sample, sent.shape)
            sent[:] = sample.stages
            if y is not None:
                _check_side_information(y, width, height)
                side[i] = to_float(pad(y, self.bundle.geometry.stride))
                present[i] = 1
        levels = np.array([sample.rate_level for sample in unpacked], np.int64)
        pixels = self._session.run(indices, levels, side, present)
        if pixels.shape != side.shape or pixels.dtype != np.float32:
            raise BundleError(
                f"decoder.onnx made {pixels.dtype} {list(pixels.shape)} where float32 "
                f"{list(side.shape)} belongs; the bundle was exported wrongly"
            )
        pixels = pixels[:, :, :height, :width]
        if not np.isfinite(pixels).all():
            raise BundleError("decoder.onnx made pixels that are not finite; the bundle is not sound")
        return pixels

    def _check_indices(self, sample: Indices, shape: tuple[int, ...]) -> None:
        """What `unpack` makes passes; the graph must not look up an index beyond its codebooks."""
        self.bundle.bitstream.check_id(sample.bitstream_id)
        sizes = self.bundle.prior.codebook_sizes
        if sample.stages.shape != shape or any(
            stage.min() < 0 or stage.max() >= size for stage, size in zip(sample.stages, sizes, strict=False)
        ):
            raise PayloadCorruptError("indices that no payload of this bundle can hold; unpack them anew")


def _check_side_information(y: Frame, width: int, height: int) -> None:
    y_height, y_width = check_frame(y, "side information").shape[:2]
    if (y_width, y_height) != (width, height):
        raise GeometryError(
            f"side information of {y_width}x{y_height} pixels does not fit a frame of "
            f"{width}x{height}; scale it to the frame's size"
        )


def _black(bundle: Bundle, width: int, height: int) -> Frame:
    geometry = bundle.geometry
    width = min(width, geometry.max_side, geometry.max_pixels)
    height = min(height, geometry.max_side, geometry.max_pixels // width)
    return np.zeros((height, width, 3), np.uint8)
