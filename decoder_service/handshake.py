"""The door of a stream: its first message, and a line in the log for who is turned away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog

from decoder_service.conversation import AnyRequest
from ndsc.codec.errors import printable
from ndsc.service.authority import CallContext
from ndsc.service.errors import (
    PERMISSION_DENIED,
    SESSION_STATE,
    UNAUTHENTICATED,
    RefusedError,
    reason_name,
)
from ndsc.service.logs import RateLimitedLog
from ndsc.v1.types_pb2 import ErrorReason

RequestT = TypeVar("RequestT", bound=AnyRequest)


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


class Doorkeeper:
    """Opens calls for a servicer. Those that are refused at the door are logged, each reason not too often."""

    def __init__(self) -> None:
        self._log = structlog.get_logger(__name__)
        self._warnings: dict[ErrorReason, RateLimitedLog] = {}

    @asynccontextmanager
    async def opening(self, context: CallContext) -> AsyncIterator[None]:
        """Log what is refused in the body."""
        try:
            yield
        except RefusedError as error:
            # The authority has logged its own.
            if error.reason not in (UNAUTHENTICATED, PERMISSION_DENIED):
                warnings = self._warnings.setdefault(error.reason, RateLimitedLog(self._log))
                warnings.warning(
                    "call refused",
                    peer=context.peer(),
                    reason=reason_name(error.reason),
                    message=printable(str(error)),
                )
            raise
