"""Channels to a service, with keepalive that the servers of this package accept (see `server.py`)."""

from __future__ import annotations

from typing import Final

import grpc
import grpc.aio

from ndsc.service.tls import Certificates
from ndsc.service.watched import KeyFileError

KEEPALIVE_TIME_MS: Final = 20_000
KEEPALIVE_TIMEOUT_MS: Final = 10_000
MIN_PING_INTERVAL_MS: Final = 10_000
"""Servers close connections that ping more often than this, so it stays below KEEPALIVE_TIME_MS."""
MAX_ANSWER_BYTES: Final = 64 << 20
"""Largest message that a client takes from the server it chose."""
HANDSHAKE_TIMEOUT_MS: Final = 10_000
"""Servers close connections that have not finished their handshakes by then."""

FLOW_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # Probes that widen HTTP/2's window cost 8 to 21 bytes for each small frame (measured). The window is no
    # back-pressure here, credit is; it only has to be wide enough for images.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
)
"""Of both ends of a connection."""

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    *FLOW_OPTIONS,
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_send_message_length", -1),  # the server's own limit decides
    # An http_proxy variable meant for the web would otherwise swallow calls to cameras and to localhost.
    ("grpc.enable_http_proxy", 0),
    # A node retries on its own schedule; the default backs off up to two minutes.
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


def open_channel(
    address: str, certificates: Certificates | None = None, token: str | None = None
) -> grpc.aio.Channel:
    """Asynchronous channel to "host:port". Connects with the first call.

    Without `certificates` it is plaintext. They stay what they were when the channel was made. Raises
    KeyFileError when the token would go without certificates, or beside one's own.
    """
    credentials = _credentials(certificates, token)
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=_OPTIONS)


def open_blocking_channel(
    address: str, certificates: Certificates | None = None, token: str | None = None
) -> grpc.Channel:
    """Synchronous channel to "host:port", else like `open_channel`."""
    credentials = _credentials(certificates, token)
    if credentials is None:
        return grpc.insecure_channel(address, options=_OPTIONS)
    return grpc.secure_channel(address, credentials, options=_OPTIONS)


def _credentials(certificates: Certificates | None, token: str | None) -> grpc.ChannelCredentials | None:
    if token is None:
        return None if certificates is None else certificates.channel_credentials()
    if certificates is None:
        raise KeyFileError("a token travels only over TLS: name the authority that the server is checked by")
    if certificates.own is not None:
        raise KeyFileError("give a token or a certificate, not both: servers take one of them")
    return grpc.composite_channel_credentials(
        certificates.channel_credentials(), grpc.access_token_call_credentials(token)
    )
