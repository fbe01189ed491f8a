"""Size of a compressed frame as the protobuf message that travels. Needs protobuf, not gRPC.

Apart from the rest of the package, so that training, which imports the rest, brings no protobuf.
"""

from __future__ import annotations

from typing import Final

from ndsc.codec.bitstream import CompressedFrame
from ndsc.v1.frame_stream_pb2 import Frame

# A camera of 10 Hz; from 8.2 ms to 1.05 s between frames the size is the same.
_CAPTURE_DELTA_US: Final = 100_000


def frame_message_bytes(frame: CompressedFrame) -> int:
    """Bytes of the message `ndsc.v1.Frame` that carries `frame` in the course of a session at 10 Hz."""
    message = Frame(
        capture_delta_us=_CAPTURE_DELTA_US,
        rate_level=frame.rate_level,
        payload=frame.payload,
    )
    return message.ByteSize()
