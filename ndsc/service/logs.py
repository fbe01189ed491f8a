"""Structured logs on standard error: standard output belongs to the lines that programs read."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from structlog.typing import Processor

REPEAT_INTERVAL_S: Final = 10.0
"""How often a warning that comes again and again is logged."""


def configure_logs(*, level: str, json_lines: bool) -> None:
    """Send structlog's and the standard library's records to stderr, from `level` (such as "info") upwards.

    `json_lines` gives one JSON object a line, else text for people.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor]
    if json_lines:
        # Without local variables, among which there may be tokens and keys.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        last = [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
    else:
        # Pretty tracebacks take most of a second to draw, on the event loop.
        last = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_cancellation)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Refuse the traceback that grpc.aio logs for every call that is still open when a server stops."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


class RateLimitedLog:
    """Warnings that may come with every frame: each event at most once in an interval.

    The next one that is logged says how many were not, as `suppressed`. Events are names out of the code, not text
    from strangers, so the memory of them is bounded.
    """

    def __init__(
        self,
        log: Any,
        *,
        interval_s: float = REPEAT_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`log` is a structlog logger; `clock` gives seconds."""
        self._log = log
        self._interval_s = interval_s
        self._clock = clock
        self._logged: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def warning(self, event: str, **facts: object) -> None:
        """Log an event with its facts, unless the same event was logged less than an interval ago."""
        now = self._clock()
        if now - self._logged.get(event, -math.inf) < self._interval_s:
            self._suppressed[event] = self._suppressed.get(event, 0) + 1
            return
        self._logged[event] = now
        suppressed = self._suppressed.pop(event, 0)
        self._log.warning(event, **facts, **({"suppressed": suppressed} if suppressed else {}))
