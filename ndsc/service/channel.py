"""Channels to a service, with keepalive that the servers of this package accept (see `server.py`)."""

from __future__ import annotations

from typing import Final

import grpc
import grpc.aio

KEEPALIVE_TIME_MS: Final = 20_000
KEEPALIVE_TIMEOUT_MS: Final = 10_000
MIN_PING_INTERVAL_MS: Final = 10_000
"""Servers close connections that ping more often than this, so it stays below KEEPALIVE_TIME_MS."""
MAX_ANSWER_BYTES: Final = 64 << 20
"""Largest message that a client takes from the server it chose."""

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_send_message_length", -1),  # the server's own limit decides
    # An http_proxy variable meant for the web would otherwise swallow calls to cameras and to localhost.
    ("grpc.enable_http_proxy", 0),
    # A node retries on its own schedule; the default backs off up to two minutes.
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


def open_channel(address: str) -> grpc.aio.Channel:
    """Asynchronous plaintext channel to "host:port". Connects with the first call."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


def open_blocking_channel(address: str) -> grpc.Channel:
    """Synchronous plaintext channel to "host:port". Connects with the first call."""
    return grpc.insecure_channel(address, options=_OPTIONS)
