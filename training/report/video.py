"""Ordinary video codecs at low delay: each frame coded when it comes, from itself and the frames before."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Literal

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace

from ndsc.codec.errors import NdscError
from ndsc.codec.frames import Frame

FRAME_RATE: Final = Fraction(10)
"""Hz; the quantizer is constant, so it changes nothing but timestamps."""
_START_CODE: Final = re.compile(rb"\x00\x00\x00?\x01")
_H264_SEI: Final = 6
_MATRIX: Final = Colorspace.ITU709
_RANGE: Final = ColorRange.JPEG
"""Full: 0 to 255."""


class VideoError(NdscError):
    """A video encoder did not do what low delay means."""


@dataclass(frozen=True)
class CodedVideo:
    """Bytes of each frame's packet and the frames that come out of them."""

    packet_bytes: tuple[int, ...]
    """Of the elementary stream; the first holds the parameter sets too."""
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class VideoCodec:
    """x264 or x265 at constant QP: one intra frame, then frames predicted from earlier ones, no B frames."""

    name: str
    encoder: str
    """FFmpeg's name."""
    decoder: str
    pixel_format: str
    parameters: str
    """The encoder's own options."""
    ladder: tuple[int, ...] = (51, 48, 45, 42, 39, 36, 33, 30, 27)
    """QP, from the lowest rate to the highest."""
    about: str = (
        "preset slow, tune zerolatency, tuned for PSNR by its switches, constant QP, full-range BT.709"
    )

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What its figures depend on, besides the frames and the libraries."""
        return {"parameters": self.parameters, "pixels": self.pixel_format, "qp": self.ladder}

    def code(self, frames: Sequence[Frame], qp: int) -> CodedVideo:
        """Encode uint8 RGB frames [H, W, 3] of one size, and decode the stream.

        Raises VideoError when a frame does not come out at once.
        """
        height, width = frames[0].shape[:2]
        encoder = _context(self.encoder, "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, self.pixel_format
        encoder.framerate, encoder.time_base = FRAME_RATE, 1 / FRAME_RATE
        encoder.thread_count = 1
        key = f"{self.encoder.removeprefix('lib')}-params"
        encoder.options = {
            "preset": "slow",
            "tune": "zerolatency",
            "qp": str(qp),
            key: f"qp={qp}:{self.parameters}",
        }
        decoder = _context(self.decoder, "r")
        sizes, outputs = [], []
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
                format=self.pixel_format, dst_colorspace=_MATRIX, dst_color_range=_RANGE
            )
            picture.pts = number
            packets = [bytes(packet) for packet in encoder.encode(picture)]
            if len(packets) != 1:
                raise VideoError(
                    f"{self.name}: {len(packets)} packets for frame {number}; low delay gives one"
                )
            stream = self._without_messages(packets[0])
            sizes.append(len(stream))
            outputs += decoder.decode(av.Packet(stream))
        outputs += decoder.decode(None)
        if list(encoder.encode(None)) or len(outputs) != len(frames):
            raise VideoError(f"{self.name}: {len(outputs)} frames came out of {len(frames)}")
        pictures = tuple(
            np.asarray(
                output.reformat(format="rgb24", src_colorspace=_MATRIX, src_color_range=_RANGE).to_ndarray(),
                np.uint8,
            )
            for output in outputs
        )
        return CodedVideo(tuple(sizes), pictures)

    def _without_messages(self, packet: bytes) -> bytes:
        # x264 writes its settings into the stream, 0.6 kB that decode to nothing; x265 is told not to.
        if self.decoder != "h264":
            return packet
        units = _START_CODE.split(packet)[1:]
        return b"".join(b"\x00\x00\x00\x01" + unit for unit in units if unit[0] & 0x1F != _H264_SEI)


def _context(name: str, mode: Literal["r", "w"]) -> VideoCodecContext:
    context = av.CodecContext.create(name, mode)
    assert isinstance(context, VideoCodecContext)
    return context


_X264: Final = "bframes=0:psy=0:aq-mode=0"
_X265: Final = "bframes=0:psy-rd=0:psy-rdoq=0:aq-mode=0:info=0:log-level=none:pools=none:frame-threads=1"

VIDEO_CODECS: Final = (
    (
        VideoCodec("x264 low delay 4:4:4", "libx264", "h264", "yuv444p", _X264),
        VideoCodec("x264 low delay 4:2:0", "libx264", "h264", "yuv420p", _X264),
    ),
    (
        VideoCodec("x265 low delay 4:4:4", "libx265", "hevc", "yuv444p", _X265),
        VideoCodec("x265 low delay 4:2:0", "libx265", "hevc", "yuv420p", _X265),
    ),
)
"""Each encoder with full and with halved colour."""
