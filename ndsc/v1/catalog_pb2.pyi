import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ndsc.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StreamKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_KIND_UNSPECIFIED: _ClassVar[StreamKind]
    STREAM_KIND_CAMERA: _ClassVar[StreamKind]
    STREAM_KIND_SIDE_INFORMATION: _ClassVar[StreamKind]
STREAM_KIND_UNSPECIFIED: StreamKind
STREAM_KIND_CAMERA: StreamKind
STREAM_KIND_SIDE_INFORMATION: StreamKind

class ListBundlesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListBundlesResponse(_message.Message):
    __slots__ = ("bundles",)
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    bundles: _containers.RepeatedCompositeFieldContainer[BundleInfo]
    def __init__(self, bundles: _Optional[_Iterable[_Union[BundleInfo, _Mapping]]] = ...) -> None: ...

class BundleInfo(_message.Message):
    __slots__ = ("name", "bundle_id", "bitstream_id", "rate_levels", "max_side", "max_pixels", "provider")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    BITSTREAM_ID_FIELD_NUMBER: _ClassVar[int]
    RATE_LEVELS_FIELD_NUMBER: _ClassVar[int]
    MAX_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    name: str
    bundle_id: bytes
    bitstream_id: bytes
    rate_levels: int
    max_side: int
    max_pixels: int
    provider: str
    def __init__(self, name: _Optional[str] = ..., bundle_id: _Optional[bytes] = ..., bitstream_id: _Optional[bytes] = ..., rate_levels: _Optional[int] = ..., max_side: _Optional[int] = ..., max_pixels: _Optional[int] = ..., provider: _Optional[str] = ...) -> None: ...

class GetBundleRequest(_message.Message):
    __slots__ = ("bitstream_id",)
    BITSTREAM_ID_FIELD_NUMBER: _ClassVar[int]
    bitstream_id: bytes
    def __init__(self, bitstream_id: _Optional[bytes] = ...) -> None: ...

class GetBundleResponse(_message.Message):
    __slots__ = ("manifest", "piece")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    piece: BundlePiece
    def __init__(self, manifest: _Optional[bytes] = ..., piece: _Optional[_Union[BundlePiece, _Mapping]] = ...) -> None: ...

class BundlePiece(_message.Message):
    __slots__ = ("name", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: bytes
    def __init__(self, name: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class ListStreamsRequest(_message.Message):
    __slots__ = ("rig",)
    RIG_FIELD_NUMBER: _ClassVar[int]
    rig: str
    def __init__(self, rig: _Optional[str] = ...) -> None: ...

class ListStreamsResponse(_message.Message):
    __slots__ = ("streams",)
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    streams: _containers.RepeatedCompositeFieldContainer[StreamInfo]
    def __init__(self, streams: _Optional[_Iterable[_Union[StreamInfo, _Mapping]]] = ...) -> None: ...

class StreamInfo(_message.Message):
    __slots__ = ("kind", "rig", "camera", "session_id", "geometry", "open", "received", "decoded", "failed", "dropped", "last_capture_time", "received_bytes", "delivery", "abandoned", "waiting")
    KIND_FIELD_NUMBER: _ClassVar[int]
    RIG_FIELD_NUMBER: _ClassVar[int]
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    GEOMETRY_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    DECODED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    LAST_CAPTURE_TIME_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    ABANDONED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    kind: StreamKind
    rig: str
    camera: str
    session_id: bytes
    geometry: _types_pb2.Geometry
    open: bool
    received: int
    decoded: int
    failed: int
    dropped: int
    last_capture_time: _timestamp_pb2.Timestamp
    received_bytes: int
    delivery: _types_pb2.Delivery
    abandoned: int
    waiting: int
    def __init__(self, kind: _Optional[_Union[StreamKind, str]] = ..., rig: _Optional[str] = ..., camera: _Optional[str] = ..., session_id: _Optional[bytes] = ..., geometry: _Optional[_Union[_types_pb2.Geometry, _Mapping]] = ..., open: _Optional[bool] = ..., received: _Optional[int] = ..., decoded: _Optional[int] = ..., failed: _Optional[int] = ..., dropped: _Optional[int] = ..., last_capture_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., received_bytes: _Optional[int] = ..., delivery: _Optional[_Union[_types_pb2.Delivery, str]] = ..., abandoned: _Optional[int] = ..., waiting: _Optional[int] = ...) -> None: ...
