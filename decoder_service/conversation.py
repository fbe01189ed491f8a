"""The server's end of a node's stream: handshake, order, credit, acks, heartbeats and the end.

    node ──frames──→ reader ──≤ credit──→ worker ──acks, errors──→ writer ──→ node

The reader never waits for the worker, so a node that breaks its credit is seen at once, and so is a silent one.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

import structlog

from decoder_service.streams import Account, StreamRegistry
from ndsc.codec.errors import NdscError
from ndsc.service.errors import (
    CREDIT_EXCEEDED,
    DECODER_FAILED,
    FIELD_INVALID,
    RETRY_AFTER_DRAIN_MS,
    SEQUENCE_NOT_INCREASING,
    SESSION_STATE,
    RefusedError,
    reason_name,
    reason_of,
)
from ndsc.v1 import types_pb2
from ndsc.v1.frame_stream_pb2 import StreamFramesResponse
from ndsc.v1.side_information_pb2 import StreamSideInformationResponse
from ndsc.v1.types_pb2 import Credit, ErrorReason

_SILENT_INTERVALS: Final = 3


@dataclass(frozen=True)
class Terms:
    """What a node is held to."""

    credit_frames: int
    credit_bytes: int
    heartbeat_interval_ms: int

    def credit(self) -> Credit:
        """As it is sent."""
        return Credit(max_frames=self.credit_frames, max_bytes=self.credit_bytes)


class AnyFrame(Protocol):
    """What frames of both kinds of stream have in common."""

    @property
    def sequence(self) -> int:
        """Counts from 1 and increases."""


class AnyRequest(Protocol):
    """What requests of both kinds of stream have in common."""

    def WhichOneof(self, oneof_group: Literal["message"], /) -> str | None:  # noqa: N802 - protobuf's name
        """`open`, `frame`, `heartbeat` or None."""


RequestT = TypeVar("RequestT", bound=AnyRequest)
FrameT = TypeVar("FrameT", bound=AnyFrame)
AnswerT = TypeVar("AnswerT", StreamFramesResponse, StreamSideInformationResponse)


async def first_message(requests: AsyncIterator[RequestT], timeout_s: float) -> RequestT:
    """A stream's first message, which must be `open`. Raises RefusedError (SESSION_STATE)."""
    try:
        async with asyncio.timeout(timeout_s):
            request = await anext(requests, None)
    except TimeoutError:
        raise RefusedError(SESSION_STATE, f"no `open` came within {timeout_s:g} s") from None
    if request is None or request.WhichOneof("message") != "open":
        raise RefusedError(SESSION_STATE, "the first message of a stream must be `open`")
    return request


@dataclass(frozen=True)
class _Arrived(Generic[FrameT]):
    frame: FrameT
    size_bytes: int
    time: float


class Conversation(ABC, Generic[FrameT, AnswerT]):
    """One open stream. Subclasses say what to do with a frame."""

    def __init__(self, account: Account, terms: Terms, registry: StreamRegistry, answer: type[AnswerT]) -> None:
        self.account = account
        self.terms = terms
        self.log: Any = structlog.get_logger(__name__).bind(
            rig=account.key.rig, camera=account.key.camera, session=account.session_id.hex()[:8])
        self._registry = registry
        self._answer = answer
        self._waiting: asyncio.Queue[_Arrived[FrameT] | None] = asyncio.Queue()
        self._outbox: asyncio.Queue[AnswerT | None] = asyncio.Queue()
        self._frames_in_flight = 0
        self._bytes_in_flight = 0
        self._ended: asyncio.Future[RefusedError] = asyncio.get_running_loop().create_future()

    @abstractmethod
    def opened(self) -> AnswerT:
        """The answer to `open`."""

    @abstractmethod
    def ack(self, up_to_sequence: int) -> AnswerT:
        """The answer to frames that are done with."""

    @abstractmethod
    def size_bytes(self, frame: FrameT) -> int:
        """What a frame takes of the credit."""

    @abstractmethod
    async def take(self, frame: FrameT, arrived: float) -> None:
        """Do what the stream is for; `arrived` is in the event loop's time. Raises NdscError for a bad frame."""

    def end(self, error: RefusedError) -> None:
        """Break the stream off, with this error."""
        if not self._ended.done():
            self._ended.set_result(error)

    def ask_to_drain(self) -> None:
        """Ask the node to finish and close."""
        self._outbox.put_nowait(self._answer(drain=types_pb2.Drain(retry_after_ms=RETRY_AFTER_DRAIN_MS)))

    async def run(self, requests: AsyncIterator[Any], write: Callable[[AnswerT], Awaitable[None]]) -> None:
        """Hold the stream until the node has closed it and all its frames are answered.

        Raises RefusedError when the node breaks the rules, or another session takes over.
        """
        self._registry.open(self.account, self)
        self.log.info("stream opened", width=self.account.width, height=self.account.height)
        self._outbox.put_nowait(self.opened())
        ended = asyncio.create_task(self._wait_for_end())
        try:
            async with asyncio.TaskGroup() as group:
                work = group.create_task(self._read_and_work(requests))
                group.create_task(self._write(write))
                group.create_task(self._raise_end(ended, work))
        except* RefusedError as errors:
            raise _first(errors) from None
        finally:
            ended.cancel()
            account = self.account
            # What was under way when a stream broke off has no other end.
            account.failed = account.received - account.decoded
            self._registry.close(account)
            self.log.info("stream closed", received=account.received, decoded=account.decoded,
                          failed=account.failed, dropped=account.dropped)
