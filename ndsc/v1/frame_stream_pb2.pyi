import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ndsc.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StreamFramesRequest(_message.Message):
    __slots__ = ("open", "frame", "heartbeat", "frames")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    open: Open
    frame: Frame
    heartbeat: _types_pb2.Heartbeat
    frames: FrameBatch
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ..., heartbeat: _Optional[_Union[_types_pb2.Heartbeat, _Mapping]] = ..., frames: _Optional[_Union[FrameBatch, _Mapping]] = ...) -> None: ...

class StreamFramesResponse(_message.Message):
    __slots__ = ("opened", "ack", "error", "drain", "heartbeat")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    ack: Ack
    error: _types_pb2.FrameError
    drain: _types_pb2.Drain
    heartbeat: _types_pb2.Heartbeat
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., error: _Optional[_Union[_types_pb2.FrameError, _Mapping]] = ..., drain: _Optional[_Union[_types_pb2.Drain, _Mapping]] = ..., heartbeat: _Optional[_Union[_types_pb2.Heartbeat, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("rig", "camera", "session_id", "bitstream_id", "delivery", "geometry", "clock", "frame_id", "side_information_streams", "capture_epoch", "next_sequence")
    RIG_FIELD_NUMBER: _ClassVar[int]
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    BITSTREAM_ID_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    GEOMETRY_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    SIDE_INFORMATION_STREAMS_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    rig: str
    camera: str
    session_id: bytes
    bitstream_id: bytes
    delivery: _types_pb2.Delivery
    geometry: _types_pb2.Geometry
    clock: _types_pb2.Clock
    frame_id: str
    side_information_streams: _containers.RepeatedScalarFieldContainer[str]
    capture_epoch: _timestamp_pb2.Timestamp
    next_sequence: int
    def __init__(self, rig: _Optional[str] = ..., camera: _Optional[str] = ..., session_id: _Optional[bytes] = ..., bitstream_id: _Optional[bytes] = ..., delivery: _Optional[_Union[_types_pb2.Delivery, str]] = ..., geometry: _Optional[_Union[_types_pb2.Geometry, _Mapping]] = ..., clock: _Optional[_Union[_types_pb2.Clock, str]] = ..., frame_id: _Optional[str] = ..., side_information_streams: _Optional[_Iterable[str]] = ..., capture_epoch: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., next_sequence: _Optional[int] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("sequence", "capture_delta_us", "rate_level", "payload", "dropped_before")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_DELTA_US_FIELD_NUMBER: _ClassVar[int]
    RATE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    DROPPED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    capture_delta_us: int
    rate_level: int
    payload: bytes
    dropped_before: int
    def __init__(self, sequence: _Optional[int] = ..., capture_delta_us: _Optional[int] = ..., rate_level: _Optional[int] = ..., payload: _Optional[bytes] = ..., dropped_before: _Optional[int] = ...) -> None: ...

class FrameBatch(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[Frame]
    def __init__(self, frames: _Optional[_Iterable[_Union[Frame, _Mapping]]] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("next_sequence", "credit", "heartbeat_interval_ms", "resumed", "preferred_bitstream_id")
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_BITSTREAM_ID_FIELD_NUMBER: _ClassVar[int]
    next_sequence: int
    credit: _types_pb2.Credit
    heartbeat_interval_ms: int
    resumed: bool
    preferred_bitstream_id: bytes
    def __init__(self, next_sequence: _Optional[int] = ..., credit: _Optional[_Union[_types_pb2.Credit, _Mapping]] = ..., heartbeat_interval_ms: _Optional[int] = ..., resumed: _Optional[bool] = ..., preferred_bitstream_id: _Optional[bytes] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("up_to_sequence", "credit")
    UP_TO_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    up_to_sequence: int
    credit: _types_pb2.Credit
    def __init__(self, up_to_sequence: _Optional[int] = ..., credit: _Optional[_Union[_types_pb2.Credit, _Mapping]] = ...) -> None: ...
