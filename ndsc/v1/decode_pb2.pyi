import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ndsc.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DecodeRequest(_message.Message):
    __slots__ = ("frame", "side_image", "side_reference", "format")
    FRAME_FIELD_NUMBER: _ClassVar[int]
    SIDE_IMAGE_FIELD_NUMBER: _ClassVar[int]
    SIDE_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    frame: _types_pb2.CompressedFrame
    side_image: _types_pb2.Image
    side_reference: _types_pb2.SideInformationReference
    format: _types_pb2.ImageFormat
    def __init__(self, frame: _Optional[_Union[_types_pb2.CompressedFrame, _Mapping]] = ..., side_image: _Optional[_Union[_types_pb2.Image, _Mapping]] = ..., side_reference: _Optional[_Union[_types_pb2.SideInformationReference, _Mapping]] = ..., format: _Optional[_Union[_types_pb2.ImageFormat, str]] = ...) -> None: ...

class DecodeResponse(_message.Message):
    __slots__ = ("image", "side_information", "bundle_id")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SIDE_INFORMATION_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    image: _types_pb2.Image
    side_information: _types_pb2.SideInformationUse
    bundle_id: bytes
    def __init__(self, image: _Optional[_Union[_types_pb2.Image, _Mapping]] = ..., side_information: _Optional[_Union[_types_pb2.SideInformationUse, _Mapping]] = ..., bundle_id: _Optional[bytes] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("rig", "cameras", "format", "include_compressed", "include_side_information")
    RIG_FIELD_NUMBER: _ClassVar[int]
    CAMERAS_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_COMPRESSED_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_SIDE_INFORMATION_FIELD_NUMBER: _ClassVar[int]
    rig: str
    cameras: _containers.RepeatedScalarFieldContainer[str]
    format: _types_pb2.ImageFormat
    include_compressed: bool
    include_side_information: bool
    def __init__(self, rig: _Optional[str] = ..., cameras: _Optional[_Iterable[str]] = ..., format: _Optional[_Union[_types_pb2.ImageFormat, str]] = ..., include_compressed: _Optional[bool] = ..., include_side_information: _Optional[bool] = ...) -> None: ...

class SubscribeResponse(_message.Message):
    __slots__ = ("subscribed", "frame", "missed", "side_information")
    SUBSCRIBED_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    SIDE_INFORMATION_FIELD_NUMBER: _ClassVar[int]
    subscribed: Subscribed
    frame: DecodedFrame
    missed: Missed
    side_information: HeldSideInformation
    def __init__(self, subscribed: _Optional[_Union[Subscribed, _Mapping]] = ..., frame: _Optional[_Union[DecodedFrame, _Mapping]] = ..., missed: _Optional[_Union[Missed, _Mapping]] = ..., side_information: _Optional[_Union[HeldSideInformation, _Mapping]] = ...) -> None: ...

class Subscribed(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HeldSideInformation(_message.Message):
    __slots__ = ("rig", "stream", "capture_time", "image")
    RIG_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_TIME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    rig: str
    stream: str
    capture_time: _timestamp_pb2.Timestamp
    image: _types_pb2.Image
    def __init__(self, rig: _Optional[str] = ..., stream: _Optional[str] = ..., capture_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., image: _Optional[_Union[_types_pb2.Image, _Mapping]] = ...) -> None: ...

class Missed(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: int
    def __init__(self, frames: _Optional[int] = ...) -> None: ...

class DecodedFrame(_message.Message):
    __slots__ = ("rig", "camera", "session_id", "sequence", "capture_time", "image", "side_information", "rate_level", "payload_bytes", "frame_bytes", "decode_us", "compressed", "bundle_id")
    RIG_FIELD_NUMBER: _ClassVar[int]
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_TIME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SIDE_INFORMATION_FIELD_NUMBER: _ClassVar[int]
    RATE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    DECODE_US_FIELD_NUMBER: _ClassVar[int]
    COMPRESSED_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    rig: str
    camera: str
    session_id: bytes
    sequence: int
    capture_time: _timestamp_pb2.Timestamp
    image: _types_pb2.Image
    side_information: _types_pb2.SideInformationUse
    rate_level: int
    payload_bytes: int
    frame_bytes: int
    decode_us: int
    compressed: _types_pb2.CompressedFrame
    bundle_id: bytes
    def __init__(self, rig: _Optional[str] = ..., camera: _Optional[str] = ..., session_id: _Optional[bytes] = ..., sequence: _Optional[int] = ..., capture_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., image: _Optional[_Union[_types_pb2.Image, _Mapping]] = ..., side_information: _Optional[_Union[_types_pb2.SideInformationUse, _Mapping]] = ..., rate_level: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., frame_bytes: _Optional[int] = ..., decode_us: _Optional[int] = ..., compressed: _Optional[_Union[_types_pb2.CompressedFrame, _Mapping]] = ..., bundle_id: _Optional[bytes] = ...) -> None: ...
