"""Structured logs on standard error: standard output belongs to the lines that programs read."""

from __future__ import annotations

import asyncio
import logging
import sys

import structlog
from structlog.typing import Processor


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
        last = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
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
