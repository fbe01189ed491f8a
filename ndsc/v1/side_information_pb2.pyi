import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ndsc.v1 import types_pb2 as _types_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StreamSideInformationRequest(_message.Message):
    __slots__ = ("open", "frame", "heartbeat")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    open: SideInformationOpen
    frame: SideInformationFrame
    heartbeat: _types_pb2.Heartbeat
    def __init__(self, open: _Optional[_Union[SideInformationOpen, _Mapping]] = ..., frame: _Optional[_Union[SideInformationFrame, _Mapping]] = ..., heartbeat: _Optional[_Union[_types_pb2.Heartbeat, _Mapping]] = ...) -> None: ...

class StreamSideInformationResponse(_message.Message):
    __slots__ = ("opened", "ack", "error", "drain", "heartbeat")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    opened: SideInformationOpened
    ack: SideInformationAck
    error: _types_pb2.FrameError
    drain: _types_pb2.Drain
    heartbeat: _types_pb2.Heartbeat
    def __init__(self, opened: _Optional[_Union[SideInformationOpened, _Mapping]] = ..., ack: _Optional[_Union[SideInformationAck, _Mapping]] = ..., error: _Optional[_Union[_types_pb2.FrameError, _Mapping]] = ..., drain: _Optional[_Union[_types_pb2.Drain, _Mapping]] = ..., heartbeat: _Optional[_Union[_types_pb2.Heartbeat, _Mapping]] = ...) -> None: ...

class SideInformationOpen(_message.Message):
    __slots__ = ("rig", "camera", "session_id", "geometry", "clock", "frame_id", "delivery", "next_sequence")
    RIG_FIELD_NUMBER: _ClassVar[int]
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    GEOMETRY_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    rig: str
    camera: str
    session_id: bytes
    geometry: _types_pb2.Geometry
    clock: _types_pb2.Clock
    frame_id: str
    delivery: _types_pb2.Delivery
    next_sequence: int
    def __init__(self, rig: _Optional[str] = ..., camera: _Optional[str] = ..., session_id: _Optional[bytes] = ..., geometry: _Optional[_Union[_types_pb2.Geometry, _Mapping]] = ..., clock: _Optional[_Union[_types_pb2.Clock, str]] = ..., frame_id: _Optional[str] = ..., delivery: _Optional[_Union[_types_pb2.Delivery, str]] = ..., next_sequence: _Optional[int] = ...) -> None: ...

class SideInformationFrame(_message.Message):
    __slots__ = ("sequence", "capture_time", "image", "dropped_before")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_TIME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    DROPPED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    capture_time: _timestamp_pb2.Timestamp
    image: _types_pb2.Image
    dropped_before: int
    def __init__(self, sequence: _Optional[int] = ..., capture_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., image: _Optional[_Union[_types_pb2.Image, _Mapping]] = ..., dropped_before: _Optional[int] = ...) -> None: ...

class SideInformationOpened(_message.Message):
    __slots__ = ("credit", "heartbeat_interval_ms", "next_sequence", "resumed")
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    credit: _types_pb2.Credit
    heartbeat_interval_ms: int
    next_sequence: int
    resumed: bool
    def __init__(self, credit: _Optional[_Union[_types_pb2.Credit, _Mapping]] = ..., heartbeat_interval_ms: _Optional[int] = ..., next_sequence: _Optional[int] = ..., resumed: _Optional[bool] = ...) -> None: ...

class SideInformationAck(_message.Message):
    __slots__ = ("up_to_sequence", "credit")
    UP_TO_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    up_to_sequence: int
    credit: _types_pb2.Credit
    def __init__(self, up_to_sequence: _Optional[int] = ..., credit: _Optional[_Union[_types_pb2.Credit, _Mapping]] = ...) -> None: ...
