import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ndsc.v1 import types_pb2 as _types_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetNodeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetNodeResponse(_message.Message):
    __slots__ = ("rig", "camera", "session_id", "delivery", "connected", "captured", "sent", "acknowledged", "failed", "dropped", "unknown", "waiting", "rate", "sent_kbps")
    RIG_FIELD_NUMBER: _ClassVar[int]
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    CAPTURED_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    SENT_KBPS_FIELD_NUMBER: _ClassVar[int]
    rig: str
    camera: str
    session_id: bytes
    delivery: _types_pb2.Delivery
    connected: bool
    captured: int
    sent: int
    acknowledged: int
    failed: int
    dropped: int
    unknown: int
    waiting: int
    rate: Rate
    sent_kbps: float
    def __init__(self, rig: _Optional[str] = ..., camera: _Optional[str] = ..., session_id: _Optional[bytes] = ..., delivery: _Optional[_Union[_types_pb2.Delivery, str]] = ..., connected: _Optional[bool] = ..., captured: _Optional[int] = ..., sent: _Optional[int] = ..., acknowledged: _Optional[int] = ..., failed: _Optional[int] = ..., dropped: _Optional[int] = ..., unknown: _Optional[int] = ..., waiting: _Optional[int] = ..., rate: _Optional[_Union[Rate, _Mapping]] = ..., sent_kbps: _Optional[float] = ...) -> None: ...

class SetRateRequest(_message.Message):
    __slots__ = ("rate",)
    RATE_FIELD_NUMBER: _ClassVar[int]
    rate: Rate
    def __init__(self, rate: _Optional[_Union[Rate, _Mapping]] = ...) -> None: ...

class SetRateResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSourceRequest(_message.Message):
    __slots__ = ("capture_time", "format")
    CAPTURE_TIME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    capture_time: _timestamp_pb2.Timestamp
    format: _types_pb2.ImageFormat
    def __init__(self, capture_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., format: _Optional[_Union[_types_pb2.ImageFormat, str]] = ...) -> None: ...

class GetSourceResponse(_message.Message):
    __slots__ = ("capture_time", "image")
    CAPTURE_TIME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    capture_time: _timestamp_pb2.Timestamp
    image: _types_pb2.Image
    def __init__(self, capture_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., image: _Optional[_Union[_types_pb2.Image, _Mapping]] = ...) -> None: ...

class Rate(_message.Message):
    __slots__ = ("rate_level", "target_kbps", "follow_link")
    RATE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    TARGET_KBPS_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_LINK_FIELD_NUMBER: _ClassVar[int]
    rate_level: int
    target_kbps: float
    follow_link: FollowLink
    def __init__(self, rate_level: _Optional[int] = ..., target_kbps: _Optional[float] = ..., follow_link: _Optional[_Union[FollowLink, _Mapping]] = ...) -> None: ...

class FollowLink(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
