"""Errors on the wire: one table of reasons, and the way in and out of google.rpc.Status.

NdscError
├── RefusedError       a server refuses a request or a frame, for one of the table's reasons
├── ServiceError       a client was refused: `reason`, `retryable`
│   └── UnreachableError   nothing answers at the address
└── ListenError        the server cannot take its address
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


@dataclass(frozen=True)
class Outcome:
    """How a reason is told to a caller."""

    code: grpc.StatusCode
    retryable: bool
    """Whether the same request may succeed later, unchanged."""


OUTCOMES: Final[dict[ErrorReason, Outcome]] = {
    types_pb2.ERROR_REASON_UNSPECIFIED: Outcome(grpc.StatusCode.UNKNOWN, False),
    FIELD_INVALID: Outcome(grpc.StatusCode.INVALID_ARGUMENT, False),
    SESSION_STATE: Outcome(grpc.StatusCode.FAILED_PRECONDITION, False),
    BITSTREAM_UNKNOWN: Outcome(grpc.StatusCode.FAILED_PRECONDITION, False),
    GEOMETRY_UNSUPPORTED: Outcome(grpc.StatusCode.INVALID_ARGUMENT, False),
    RATE_LEVEL_UNKNOWN: Outcome(grpc.StatusCode.INVALID_ARGUMENT, False),
    DELIVERY_UNSUPPORTED: Outcome(grpc.StatusCode.FAILED_PRECONDITION, False),
    SEQUENCE_NOT_INCREASING: Outcome(grpc.StatusCode.INVALID_ARGUMENT, False),
    CREDIT_EXCEEDED: Outcome(grpc.StatusCode.RESOURCE_EXHAUSTED, False),
    PAYLOAD_SIZE: Outcome(grpc.StatusCode.DATA_LOSS, False),
    PAYLOAD_CORRUPT: Outcome(grpc.StatusCode.DATA_LOSS, False),
    IMAGE_INVALID: Outcome(grpc.StatusCode.INVALID_ARGUMENT, False),
    SIDE_INFORMATION_GEOMETRY: Outcome(grpc.StatusCode.INVALID_ARGUMENT, False),
    SIDE_INFORMATION_NOT_FOUND: Outcome(grpc.StatusCode.NOT_FOUND, True),
    SESSION_SUPERSEDED: Outcome(grpc.StatusCode.ABORTED, False),
    SESSION_LIMIT: Outcome(grpc.StatusCode.RESOURCE_EXHAUSTED, True),
    DRAINING: Outcome(grpc.StatusCode.UNAVAILABLE, True),
    STREAM_UNKNOWN: Outcome(grpc.StatusCode.NOT_FOUND, True),
    DECODER_FAILED: Outcome(grpc.StatusCode.INTERNAL, False),
    PEER_SILENT: Outcome(grpc.StatusCode.DEADLINE_EXCEEDED, True),
    OVERLOADED: Outcome(grpc.StatusCode.RESOURCE_EXHAUSTED, True),
    UNAUTHENTICATED: Outcome(grpc.StatusCode.UNAUTHENTICATED, False),
    PERMISSION_DENIED: Outcome(grpc.StatusCode.PERMISSION_DENIED, False),
    STORE_FULL: Outcome(grpc.StatusCode.RESOURCE_EXHAUSTED, True),
    NOT_READY: Outcome(grpc.StatusCode.UNAVAILABLE, True),
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


def unreachable(address: str) -> UnreachableError:
    """The error for an address where no service answers."""
    return UnreachableError(
        f"no service answers at {address}: start it with `ndsc serve decoder` or "
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
