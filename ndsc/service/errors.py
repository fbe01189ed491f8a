"""Errors on the wire: one table of reasons, and the way in and out of google.rpc.Status.

NdscError
├── RefusedError       a server refuses a request or a frame, for one of the table's reasons
├── ServiceError       a client was refused: `reason`, `retryable`
│   └── UnreachableError   nothing answers at the address
├── ListenError        the server cannot take its address
├── KeyFileError       a certificate, key or token file cannot be used (`watched.py`)
└── IdentityError      no rig, role and name, or not legal ones (`identity.py`)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from ndsc.codec.errors import (
    BitstreamMismatchError,
    GeometryError,
    ImageError,
    NdscError,
    PayloadCorruptError,
    PayloadSizeError,
    RateLevelError,
)
from ndsc.v1 import types_pb2
from ndsc.v1.types_pb2 import ErrorReason

DOMAIN: Final = "ndsc"
RETRY_AFTER_DRAIN_MS: Final = 1_000
"""When a peer may come back after a server said that it shuts down."""

_PREFIX: Final = "ERROR_REASON_"

FIELD_INVALID: Final = types_pb2.ERROR_REASON_FIELD_INVALID
SESSION_STATE: Final = types_pb2.ERROR_REASON_SESSION_STATE
BITSTREAM_UNKNOWN: Final = types_pb2.ERROR_REASON_BITSTREAM_UNKNOWN
GEOMETRY_UNSUPPORTED: Final = types_pb2.ERROR_REASON_GEOMETRY_UNSUPPORTED
RATE_LEVEL_UNKNOWN: Final = types_pb2.ERROR_REASON_RATE_LEVEL_UNKNOWN
DELIVERY_UNSUPPORTED: Final = types_pb2.ERROR_REASON_DELIVERY_UNSUPPORTED
SEQUENCE_NOT_INCREASING: Final = types_pb2.ERROR_REASON_SEQUENCE_NOT_INCREASING
CREDIT_EXCEEDED: Final = types_pb2.ERROR_REASON_CREDIT_EXCEEDED
PAYLOAD_SIZE: Final = types_pb2.ERROR_REASON_PAYLOAD_SIZE
PAYLOAD_CORRUPT: Final = types_pb2.ERROR_REASON_PAYLOAD_CORRUPT
IMAGE_INVALID: Final = types_pb2.ERROR_REASON_IMAGE_INVALID
SIDE_INFORMATION_GEOMETRY: Final = types_pb2.ERROR_REASON_SIDE_INFORMATION_GEOMETRY
SIDE_INFORMATION_NOT_FOUND: Final = types_pb2.ERROR_REASON_SIDE_INFORMATION_NOT_FOUND
SESSION_SUPERSEDED: Final = types_pb2.ERROR_REASON_SESSION_SUPERSEDED
SESSION_LIMIT: Final = types_pb2.ERROR_REASON_SESSION_LIMIT
DRAINING: Final = types_pb2.ERROR_REASON_DRAINING
STREAM_UNKNOWN: Final = types_pb2.ERROR_REASON_STREAM_UNKNOWN
DECODER_FAILED: Final = types_pb2.ERROR_REASON_DECODER_FAILED
PEER_SILENT: Final = types_pb2.ERROR_REASON_PEER_SILENT
OVERLOADED: Final = types_pb2.ERROR_REASON_OVERLOADED
UNAUTHENTICATED: Final = types_pb2.ERROR_REASON_UNAUTHENTICATED
PERMISSION_DENIED: Final = types_pb2.ERROR_REASON_PERMISSION_DENIED
STORE_FULL: Final = types_pb2.ERROR_REASON_STORE_FULL
NOT_READY: Final = types_pb2.ERROR_REASON_NOT_READY
SOURCE_NOT_FOUND: Final = types_pb2.ERROR_REASON_SOURCE_NOT_FOUND


@dataclass(frozen=True)
class Outcome:
    """How a reason is told to a caller, and what a person does about it."""

    code: grpc.StatusCode
    retryable: bool
    """Whether the same request may succeed later, unchanged."""
    advice: str
    """What to do, in one line."""


_Code = grpc.StatusCode

OUTCOMES: Final[dict[ErrorReason, Outcome]] = {
    types_pb2.ERROR_REASON_UNSPECIFIED: Outcome(
        _Code.UNKNOWN, False, "Run one release at both ends; this one never sends it."
    ),
    FIELD_INVALID: Outcome(_Code.INVALID_ARGUMENT, False, "Correct the field that the message names."),
    SESSION_STATE: Outcome(
        _Code.FAILED_PRECONDITION,
        False,
        "Send `open` once, as the first message; behind a slow link, raise `--handshake-timeout-s`.",
    ),
    BITSTREAM_UNKNOWN: Outcome(
        _Code.FAILED_PRECONDITION,
        False,
        "Start the node with `--fetch-bundle` or a bundle that is served, or serve the node's with `--bundle`.",
    ),
    GEOMETRY_UNSUPPORTED: Outcome(
        _Code.INVALID_ARGUMENT,
        False,
        "Send smaller frames, or raise the decoder's `--max-pixels` up to what its bundle codes.",
    ),
    RATE_LEVEL_UNKNOWN: Outcome(
        _Code.INVALID_ARGUMENT, False, "Ask for one of the bundle's levels; ListBundles says how many it has."
    ),
    DELIVERY_UNSUPPORTED: Outcome(
        _Code.FAILED_PRECONDITION,
        False,
        "Start the decoder with `--archive`, or the node with `--delivery live`.",
    ),
    SEQUENCE_NOT_INCREASING: Outcome(
        _Code.INVALID_ARGUMENT,
        False,
        "Number frames upwards from where `opened` says; a node that does not has a fault.",
    ),
    CREDIT_EXCEEDED: Outcome(
        _Code.RESOURCE_EXHAUSTED,
        False,
        "Send no more frames than the last credit allows; a node that does has a fault.",
    ),
    PAYLOAD_SIZE: Outcome(
        _Code.DATA_LOSS,
        False,
        "Get the frame again; these bytes never decode. Look for what cut or padded them.",
    ),
    PAYLOAD_CORRUPT: Outcome(
        _Code.DATA_LOSS,
        False,
        "Get the frame again; these bytes never decode. If it goes on, test memory and disks.",
    ),
    IMAGE_INVALID: Outcome(
        _Code.INVALID_ARGUMENT, False, "Send a JPEG, PNG or raw image of the size and format that it states."
    ),
    SIDE_INFORMATION_GEOMETRY: Outcome(
        _Code.INVALID_ARGUMENT, False, "Scale the side image to the frame's size."
    ),
    SIDE_INFORMATION_NOT_FOUND: Outcome(
        _Code.NOT_FOUND,
        True,
        "Check that the side camera streams and that its clock agrees, or raise `--pair-tolerance-ms`.",
    ),
    SESSION_SUPERSEDED: Outcome(
        _Code.ABORTED, False, "Give each node a `--camera` name of its own: two stream under one."
    ),
    SESSION_LIMIT: Outcome(
        _Code.RESOURCE_EXHAUSTED, True, "Try again when others have left, or raise `--max-sessions`."
    ),
    DRAINING: Outcome(
        _Code.UNAVAILABLE, True, "Come back after the time in RetryInfo; nodes do so by themselves."
    ),
    STREAM_UNKNOWN: Outcome(
        _Code.NOT_FOUND,
        True,
        "Start that camera, or check the names of rig and camera; ListStreams shows those known.",
    ),
    DECODER_FAILED: Outcome(
        _Code.INTERNAL, False, "Read the decoder's log: its bundle or its execution provider is at fault."
    ),
    PEER_SILENT: Outcome(
        _Code.DEADLINE_EXCEEDED,
        True,
        "Open another call; check the link, or raise `--heartbeat-interval-ms` where it stalls for long.",
    ),
    OVERLOADED: Outcome(
        _Code.RESOURCE_EXHAUSTED, True, "Try again a little later, or raise `--max-decodes`."
    ),
    UNAUTHENTICATED: Outcome(
        _Code.UNAUTHENTICATED,
        False,
        "Show a certificate (`ndsc certificates`) or a token (`ndsc token`) that the decoder's keys vouch for.",
    ),
    PERMISSION_DENIED: Outcome(
        _Code.PERMISSION_DENIED, False, "Use a certificate or token made for this rig, role and name."
    ),
    STORE_FULL: Outcome(
        _Code.RESOURCE_EXHAUSTED,
        True,
        "Make room on the decoder's disk, or raise `--archive-capacity-mbytes`; the node keeps its frames.",
    ),
    NOT_READY: Outcome(
        _Code.UNAVAILABLE, True, "Wait until health says SERVING; if it does not, the decoder's log says why."
    ),
    SOURCE_NOT_FOUND: Outcome(
        _Code.NOT_FOUND,
        False,
        "Start the node with `--offer-sources`, as many frames as lie between capture and question.",
    ),
}


class RefusedError(NdscError):
    """A server refuses a request or a frame, for one of the table's reasons."""

    def __init__(self, reason: ErrorReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ServiceError(NdscError):
    """A service refused a call, or broke off."""

    def __init__(self, message: str, *, reason: str, retryable: bool) -> None:
        super().__init__(message)
        self.reason = reason
        """Name from the table, such as "PAYLOAD_CORRUPT"; else the name of the gRPC status code."""
        self.retryable = retryable
        """Whether the same request may succeed later, unchanged."""


class UnreachableError(ServiceError):
    """Nothing answers at the address."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="UNAVAILABLE", retryable=True)


class ListenError(NdscError):
    """The server cannot take its address."""


def reason_name(reason: ErrorReason) -> str:
    """Name of a reason without its prefix; "REASON_<number>" for one of a later version of the contract."""
    if reason not in ErrorReason.values():
        return f"REASON_{reason}"
    return ErrorReason.Name(reason).removeprefix(_PREFIX)


_REASONS: Final[tuple[tuple[type[NdscError], ErrorReason], ...]] = (
    (PayloadSizeError, PAYLOAD_SIZE),
    (PayloadCorruptError, PAYLOAD_CORRUPT),
    (BitstreamMismatchError, BITSTREAM_UNKNOWN),
    (RateLevelError, RATE_LEVEL_UNKNOWN),
    (GeometryError, GEOMETRY_UNSUPPORTED),
    (ImageError, IMAGE_INVALID),
)


def reason_of(error: NdscError) -> ErrorReason:
    """Reason under which a server reports an error of the codec."""
    if isinstance(error, RefusedError):
        return error.reason
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), DECODER_FAILED)


class AbortableContext(Protocol):
    """The part of a grpc.aio servicer context that ends a call."""

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a rich status."""


async def abort(context: AbortableContext, reason: ErrorReason, message: str) -> NoReturn:
    """End a call with the reason's code, ErrorInfo, and RetryInfo while draining."""
    outcome = OUTCOMES[reason]
    details = [
        error_details_pb2.ErrorInfo(
            reason=reason_name(reason),
            domain=DOMAIN,
            metadata={"retryable": "true" if outcome.retryable else "false"},
        )
    ]
    packed = [_pack(detail) for detail in details]
    if reason == DRAINING:
        packed.append(
            _pack(
                error_details_pb2.RetryInfo(
                    retry_delay=duration_pb2.Duration(
                        nanos=RETRY_AFTER_DRAIN_MS % 1000 * 1_000_000, seconds=RETRY_AFTER_DRAIN_MS // 1000
                    )
                )
            )
        )
    status = status_pb2.Status(code=outcome.code.value[0], message=message, details=packed)
    await context.abort_with_status(rpc_status.to_status(status))


def _pack(detail: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def describe(error: grpc.RpcError) -> tuple[grpc.StatusCode, str | None, str]:
    """(code, reason from ErrorInfo or None, message) of a failed call, synchronous or grpc.aio."""
    code, message, status = _parts(error)
    info = _error_info(status)
    return code, None if info is None else info.reason, message


def is_retryable(error: grpc.RpcError) -> bool:
    """Whether the service said that the same request may succeed later, unchanged."""
    info = _error_info(_parts(error)[2])
    return info is not None and info.metadata.get("retryable") == "true"


def service_error(error: grpc.RpcError, address: str) -> ServiceError:
    """A failed call → the error a client raises; `address` is where it was sent."""
    code, message, status = _parts(error)
    info = _error_info(status)
    if info is not None:
        return ServiceError(message, reason=info.reason, retryable=info.metadata.get("retryable") == "true")
    if code is grpc.StatusCode.UNAVAILABLE:
        return unreachable(address)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServiceError(f"{address} did not answer in time", reason=code.name, retryable=True)
    return ServiceError(f"{address} answered {code.name}: {message}", reason=code.name, retryable=False)


def unreachable(address: str, diagnosis: str | None = None) -> UnreachableError:
    """The error for an address where no service answers; `diagnosis` says why, when that is known."""
    return UnreachableError(
        diagnosis
        or f"no service answers at {address}: start it with `ndsc serve decoder` or "
        f"`ndsc serve encoder`, or check the address"
    )


def _parts(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, status_pb2.Status | None]:
    # AioRpcError and the blocking stubs' error share these methods, but no class.
    call: Any = error
    if not hasattr(call, "trailing_metadata"):
        return grpc.StatusCode.UNKNOWN, str(error), None
    code, message = call.code(), call.details() or ""
    for key, value in call.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return code, message, status_pb2.Status.FromString(value)
    return code, message, None


def _error_info(status: status_pb2.Status | None) -> error_details_pb2.ErrorInfo | None:
    if status is None:
        return None
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == DOMAIN:
            return info
    return None
