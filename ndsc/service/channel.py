"""Channels to a service, with keepalive that the servers of this package accept (see `server.py`)."""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import grpc
import grpc.aio

from ndsc.service.identity import is_name
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
RIG_HEADER: Final = "ndsc-rig"
"""Metadata of every call about one rig: proxies keep a rig on one decoder by it. Servers do not look at it."""

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
    address: str,
    certificates: Certificates | None = None,
    token: str | None = None,
    *,
    name: str | None = None,
    rig: str | None = None,
) -> grpc.aio.Channel:
    """Asynchronous channel to "host:port". Connects with the first call.

    Without `certificates` it is plaintext. They stay what they were when the channel was made. Raises
    KeyFileError when the token would go without certificates, or beside one's own.

    Args:
        address: "host:port".
        certificates: what the connection is encrypted with.
        token: bearer token of the caller.
        name: that the server's certificate must be for, and that is asked for; the host without.
        rig: that all calls are about.
    """
    credentials, options = _credentials(certificates, token), _options(name)
    if credentials is None:
        channel = grpc.aio.insecure_channel(address, options=options)
    else:
        channel = grpc.aio.secure_channel(address, credentials, options=options)
    return channel if rig is None else _RigChannel(channel, rig)


def open_blocking_channel(
    address: str,
    certificates: Certificates | None = None,
    token: str | None = None,
    *,
    name: str | None = None,
) -> grpc.Channel:
    """Synchronous channel to "host:port", else like `open_channel`."""
    credentials, options = _credentials(certificates, token), _options(name)
    if credentials is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, credentials, options=options)


def rig_metadata(rig: str | None) -> tuple[tuple[str, str], ...]:
    """What a call about a rig carries beside its request; nothing when it is about none."""
    # What is no name is for the server to refuse: gRPC takes printable ASCII alone.
    return ((RIG_HEADER, rig),) if rig and is_name(rig) else ()


class _RigChannel(grpc.aio.Channel):
    """A channel whose calls are all about one rig, and say so.

    Interceptors would do that too, but grpc.aio puts a queue between `write` and an intercepted call.
    """

    def __init__(self, channel: grpc.aio.Channel, rig: str) -> None:
        self._channel = channel
        self._metadata = rig_metadata(rig)

    async def __aenter__(self) -> Self:
        await self._channel.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.__aexit__(kind, error, trace)

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        return self._about_the_rig(self._channel.unary_unary(*arguments, **named))

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        return self._about_the_rig(self._channel.unary_stream(*arguments, **named))

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        return self._about_the_rig(self._channel.stream_unary(*arguments, **named))

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        return self._about_the_rig(self._channel.stream_stream(*arguments, **named))

    def _about_the_rig(self, call: Any) -> Any:
        return partial(call, metadata=self._metadata)


def _options(name: str | None) -> tuple[tuple[str, int | str], ...]:
    if name is None:
        return _OPTIONS
    # The first is what TLS asks for and what the certificate is checked by, the second what the calls say.
    return (*_OPTIONS, ("grpc.ssl_target_name_override", name), ("grpc.default_authority", name))


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
