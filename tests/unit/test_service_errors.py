"""The table of reasons, and errors on their way out of a server and into a client."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from ndsc.codec import errors as codec_errors
from ndsc.codec.errors import NdscError
from ndsc.service import errors
from ndsc.service.errors import OUTCOMES, RefusedError, UnreachableError, describe, reason_of, service_error
from ndsc.v1.types_pb2 import ErrorReason


class AbortedError(Exception):
    """What the context under test raises."""


class Context:
    """Keeps the status that a call is aborted with."""

    status: grpc.Status

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        self.status = status
        raise AbortedError


async def sent(reason: ErrorReason) -> grpc.Status:
    context = Context()
    with pytest.raises(AbortedError):
        await errors.abort(context, reason, "what to do")
    return context.status


def received(status: grpc.Status) -> grpc.aio.AioRpcError:
    """What a client sees of a status."""
    trailing = grpc.aio.Metadata(*(status.trailing_metadata or ()))
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, details=status.details)


def test_the_table_knows_every_reason() -> None:
    assert set(OUTCOMES) == set(ErrorReason.values())
    assert all(outcome.code is not grpc.StatusCode.OK for outcome in OUTCOMES.values())


@pytest.mark.parametrize("reason", ErrorReason.values())
async def test_every_reason_arrives(reason: ErrorReason) -> None:
    error = received(await sent(reason))
    name = ErrorReason.Name(reason).removeprefix("ERROR_REASON_")
    assert describe(error) == (OUTCOMES[reason].code, name, "what to do")
    raised = service_error(error, "host:1")
    assert (raised.reason, raised.retryable, str(raised)) == (name, OUTCOMES[reason].retryable, "what to do")
    assert not isinstance(raised, UnreachableError)


async def test_draining_says_when_to_come_back() -> None:
    def retry_ms(status: grpc.Status) -> list[int]:
        rich = status_pb2.Status.FromString(dict(status.trailing_metadata or ())["grpc-status-details-bin"])
        info = error_details_pb2.RetryInfo()
        return [
            info.retry_delay.ToMilliseconds()
            for detail in rich.details
            if detail.Is(info.DESCRIPTOR) and detail.Unpack(info)
        ]

    assert retry_ms(await sent(errors.DRAINING)) == [errors.RETRY_AFTER_DRAIN_MS]
    assert retry_ms(await sent(errors.SESSION_LIMIT)) == []


def plain(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="core says so")


def test_errors_without_a_reason() -> None:
    gone = service_error(plain(grpc.StatusCode.UNAVAILABLE), "host:1")
    assert isinstance(gone, UnreachableError)
    assert "host:1" in str(gone)
    assert gone.retryable
    late = service_error(plain(grpc.StatusCode.DEADLINE_EXCEEDED), "host:1")
    assert (late.reason, late.retryable) == ("DEADLINE_EXCEEDED", True)
    odd = service_error(plain(grpc.StatusCode.UNIMPLEMENTED), "host:1")
    assert (odd.reason, odd.retryable) == ("UNIMPLEMENTED", False)
    assert describe(plain(grpc.StatusCode.UNKNOWN)) == (grpc.StatusCode.UNKNOWN, None, "core says so")


def test_a_foreign_error_info_is_not_ours() -> None:
    info = error_details_pb2.ErrorInfo(reason="QUOTA", domain="proxy.example")
    rich = status_pb2.Status(code=8, message="no")
    rich.details.add().Pack(info)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", rich.SerializeToString()))
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), trailing, details="no"
    )
    assert describe(error)[1] is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (codec_errors.PayloadSizeError, errors.PAYLOAD_SIZE),
        (codec_errors.PayloadCorruptError, errors.PAYLOAD_CORRUPT),
        (codec_errors.BitstreamMismatchError, errors.BITSTREAM_UNKNOWN),
        (codec_errors.RateLevelError, errors.RATE_LEVEL_UNKNOWN),
        (codec_errors.GeometryError, errors.GEOMETRY_UNSUPPORTED),
        (codec_errors.ImageError, errors.IMAGE_INVALID),
        (codec_errors.ProviderError, errors.DECODER_FAILED),
        (NdscError, errors.DECODER_FAILED),
    ],
)
def test_reasons_of_codec_errors(error: type[NdscError], reason: ErrorReason) -> None:
    assert reason_of(error("why")) == reason


def test_a_refusal_keeps_its_reason() -> None:
    assert reason_of(RefusedError(errors.SESSION_LIMIT, "full")) == errors.SESSION_LIMIT


def test_names_of_reasons() -> None:
    unknown: Any = 999
    assert errors.reason_name(errors.PAYLOAD_SIZE) == "PAYLOAD_SIZE"
    assert errors.reason_name(unknown) == "REASON_999"
