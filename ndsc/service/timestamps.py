"""google.protobuf.Timestamp ↔ integer microseconds since the Unix epoch, as all code holds times."""

from __future__ import annotations

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from ndsc.service.errors import FIELD_INVALID, RefusedError

MAX_TIME_US: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999, the latest that Timestamp holds."""


def to_timestamp(time_us: int) -> Timestamp:
    """Microseconds since the Unix epoch → Timestamp. RefusedError (FIELD_INVALID) outside 1970 … 9999."""
    if not 0 <= time_us <= MAX_TIME_US:
        raise RefusedError(FIELD_INVALID, f"time {time_us} us lies outside the years 1970 to 9999")
    return Timestamp(seconds=time_us // 1_000_000, nanos=time_us % 1_000_000 * 1_000)


def from_timestamp(timestamp: Timestamp) -> int:
    """Timestamp → microseconds since the Unix epoch, nanoseconds cut off.

    Raises RefusedError (FIELD_INVALID) for no legal Timestamp, or one outside the years 1970 to 9999.
    """
    if not 0 <= timestamp.nanos < 1_000_000_000:
        raise RefusedError(FIELD_INVALID, f"a time with {timestamp.nanos} nanoseconds is not legal")
    time_us = timestamp.seconds * 1_000_000 + timestamp.nanos // 1_000
    if not 0 <= time_us <= MAX_TIME_US:
        raise RefusedError(FIELD_INVALID, f"time {time_us} us lies outside the years 1970 to 9999")
    return time_us
