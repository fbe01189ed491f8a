import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ImageFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_FORMAT_UNSPECIFIED: _ClassVar[ImageFormat]
    IMAGE_FORMAT_RAW_RGB8: _ClassVar[ImageFormat]
    IMAGE_FORMAT_PNG: _ClassVar[ImageFormat]
    IMAGE_FORMAT_JPEG: _ClassVar[ImageFormat]

class Clock(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLOCK_UNSPECIFIED: _ClassVar[Clock]
    CLOCK_UNSYNCHRONIZED: _ClassVar[Clock]
    CLOCK_NTP: _ClassVar[Clock]
    CLOCK_PTP: _ClassVar[Clock]
    CLOCK_SYNTHETIC: _ClassVar[Clock]

class Delivery(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DELIVERY_UNSPECIFIED: _ClassVar[Delivery]
    DELIVERY_LIVE: _ClassVar[Delivery]
    DELIVERY_ARCHIVE: _ClassVar[Delivery]

class SideInformationOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIDE_INFORMATION_OUTCOME_UNSPECIFIED: _ClassVar[SideInformationOutcome]
    SIDE_INFORMATION_OUTCOME_PAIRED: _ClassVar[SideInformationOutcome]
    SIDE_INFORMATION_OUTCOME_ABSENT: _ClassVar[SideInformationOutcome]
    SIDE_INFORMATION_OUTCOME_NOT_REQUESTED: _ClassVar[SideInformationOutcome]
    SIDE_INFORMATION_OUTCOME_INLINE: _ClassVar[SideInformationOutcome]

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_FIELD_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_STATE: _ClassVar[ErrorReason]
    ERROR_REASON_BITSTREAM_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_GEOMETRY_UNSUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_RATE_LEVEL_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_DELIVERY_UNSUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_SEQUENCE_NOT_INCREASING: _ClassVar[ErrorReason]
    ERROR_REASON_CREDIT_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_PAYLOAD_SIZE: _ClassVar[ErrorReason]
    ERROR_REASON_PAYLOAD_CORRUPT: _ClassVar[ErrorReason]
    ERROR_REASON_IMAGE_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_SIDE_INFORMATION_GEOMETRY: _ClassVar[ErrorReason]
    ERROR_REASON_SIDE_INFORMATION_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_SUPERSEDED: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_LIMIT: _ClassVar[ErrorReason]
    ERROR_REASON_DRAINING: _ClassVar[ErrorReason]
    ERROR_REASON_STREAM_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_DECODER_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_PEER_SILENT: _ClassVar[ErrorReason]
    ERROR_REASON_OVERLOADED: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_PERMISSION_DENIED: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_READY: _ClassVar[ErrorReason]
    ERROR_REASON_SOURCE_NOT_FOUND: _ClassVar[ErrorReason]
IMAGE_FORMAT_UNSPECIFIED: ImageFormat
IMAGE_FORMAT_RAW_RGB8: ImageFormat
IMAGE_FORMAT_PNG: ImageFormat
IMAGE_FORMAT_JPEG: ImageFormat
CLOCK_UNSPECIFIED: Clock
CLOCK_UNSYNCHRONIZED: Clock
CLOCK_NTP: Clock
CLOCK_PTP: Clock
CLOCK_SYNTHETIC: Clock
DELIVERY_UNSPECIFIED: Delivery
DELIVERY_LIVE: Delivery
DELIVERY_ARCHIVE: Delivery
SIDE_INFORMATION_OUTCOME_UNSPECIFIED: SideInformationOutcome
SIDE_INFORMATION_OUTCOME_PAIRED: SideInformationOutcome
SIDE_INFORMATION_OUTCOME_ABSENT: SideInformationOutcome
SIDE_INFORMATION_OUTCOME_NOT_REQUESTED: SideInformationOutcome
SIDE_INFORMATION_OUTCOME_INLINE: SideInformationOutcome
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_FIELD_INVALID: ErrorReason
ERROR_REASON_SESSION_STATE: ErrorReason
ERROR_REASON_BITSTREAM_UNKNOWN: ErrorReason
ERROR_REASON_GEOMETRY_UNSUPPORTED: ErrorReason
ERROR_REASON_RATE_LEVEL_UNKNOWN: ErrorReason
ERROR_REASON_DELIVERY_UNSUPPORTED: ErrorReason
ERROR_REASON_SEQUENCE_NOT_INCREASING: ErrorReason
ERROR_REASON_CREDIT_EXCEEDED: ErrorReason
ERROR_REASON_PAYLOAD_SIZE: ErrorReason
ERROR_REASON_PAYLOAD_CORRUPT: ErrorReason
ERROR_REASON_IMAGE_INVALID: ErrorReason
ERROR_REASON_SIDE_INFORMATION_GEOMETRY: ErrorReason
ERROR_REASON_SIDE_INFORMATION_NOT_FOUND: ErrorReason
ERROR_REASON_SESSION_SUPERSEDED: ErrorReason
ERROR_REASON_SESSION_LIMIT: ErrorReason
ERROR_REASON_DRAINING: ErrorReason
ERROR_REASON_STREAM_UNKNOWN: ErrorReason
ERROR_REASON_DECODER_FAILED: ErrorReason
ERROR_REASON_PEER_SILENT: ErrorReason
ERROR_REASON_OVERLOADED: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_PERMISSION_DENIED: ErrorReason
ERROR_REASON_STORE_FULL: ErrorReason
ERROR_REASON_NOT_READY: ErrorReason
ERROR_REASON_SOURCE_NOT_FOUND: ErrorReason

class Image(_message.Message):
    __slots__ = ("format", "width", "height", "data")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    format: ImageFormat
    width: int
    height: int
    data: bytes
    def __init__(self, format: _Optional[_Union[ImageFormat, str]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Geometry(_message.Message):
    __slots__ = ("width", "height")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class Credit(_message.Message):
    __slots__ = ("max_frames", "max_bytes")
    MAX_FRAMES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_frames: int
    max_bytes: int
    def __init__(self, max_frames: _Optional[int] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class CompressedFrame(_message.Message):
    __slots__ = ("bitstream_id", "rate_level", "geometry", "payload")
    BITSTREAM_ID_FIELD_NUMBER: _ClassVar[int]
    RATE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    GEOMETRY_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    bitstream_id: bytes
    rate_level: int
    geometry: Geometry
    payload: bytes
    def __init__(self, bitstream_id: _Optional[bytes] = ..., rate_level: _Optional[int] = ..., geometry: _Optional[_Union[Geometry, _Mapping]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class SideInformationReference(_message.Message):
    __slots__ = ("rig", "stream", "capture_time")
    RIG_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_TIME_FIELD_NUMBER: _ClassVar[int]
    rig: str
    stream: str
    capture_time: _timestamp_pb2.Timestamp
    def __init__(self, rig: _Optional[str] = ..., stream: _Optional[str] = ..., capture_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class SideInformationUse(_message.Message):
    __slots__ = ("outcome", "stream", "capture_time", "offset_us")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_TIME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_US_FIELD_NUMBER: _ClassVar[int]
    outcome: SideInformationOutcome
    stream: str
    capture_time: _timestamp_pb2.Timestamp
    offset_us: int
    def __init__(self, outcome: _Optional[_Union[SideInformationOutcome, str]] = ..., stream: _Optional[str] = ..., capture_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., offset_us: _Optional[int] = ...) -> None: ...

class FrameError(_message.Message):
    __slots__ = ("sequence", "reason", "message")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    reason: ErrorReason
    message: str
    def __init__(self, sequence: _Optional[int] = ..., reason: _Optional[_Union[ErrorReason, str]] = ..., message: _Optional[str] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("retry_after_ms",)
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    retry_after_ms: int
    def __init__(self, retry_after_ms: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
