"""Size of a compressed frame as the protobuf message that travels. Needs protobuf, not gRPC.

Apart from the rest of the package, so that training, which imports the rest, brings no protobuf.
"""

from __future__ import annotations

from typing import Final

from ndsc.codec.bitstream import CompressedFrame
from ndsc.v1.frame_stream_pb2 import Frame

# Sequence and capture time take more bytes as a session goes on. These stand for a camera of 10 Hz after one
# hour; from 27 minutes to 9.5 hours into the session the size is the same.
_SEQUENCE: Final = 36_000
_CAPTURE_OFFSET_US: Final = 3_600_000_000


def frame_message_bytes(frame: CompressedFrame) -> int:
    """Bytes of the message `ndsc.v1.Frame` that carries `frame`, one hour into a session at 10 Hz."""
    message = Frame(
        sequence=_SEQUENCE,
        capture_offset_us=_CAPTURE_OFFSET_US,
        rate_level=frame.rate_level,
        payload=frame.payload,
    )
    return message.ByteSize()
