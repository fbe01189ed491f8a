"""Who calls, and whether they may: read from a call's certificate or token, for every servicer alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NoReturn, Protocol

import structlog
from cryptography import x509

from ndsc.codec.errors import printable
from ndsc.service.errors import PERMISSION_DENIED, UNAUTHENTICATED, RefusedError, reason_name
from ndsc.service.identity import Credential, IdentityError, Role
from ndsc.service.logs import RateLimitedLog
from ndsc.service.tls import credential_of
from ndsc.service.tokens import TokenVerifier
from ndsc.v1.types_pb2 import ErrorReason

_EXPIRED: Final = "the caller's certificate or token has expired: issue a new one"
_MAX_LOGS: Final = 1024
_SCHEME: Final = "bearer "

_log = structlog.get_logger(__name__)


class CallContext(Protocol):
    """The part of a grpc.aio.ServicerContext that tells who calls."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What the connection's handshake proved."""

    def invocation_metadata(self) -> Any:
        """(key, value) pairs that the caller sent along."""

    def peer(self) -> str:
        """The caller's address, such as "ipv4:127.0.0.1:44052"."""


@dataclass(frozen=True)
class Peer:
    """Who calls. On a plaintext server everyone is let in, and nobody is known."""

    address: str
    credential: Credential | None = None
    """None: plaintext."""

    @property
    def rig(self) -> str:
        """The rig that the peer belongs to; "" when it is not known."""
        identity = None if self.credential is None else self.credential.identity
        return "" if identity is None else identity.rig

    def check_current(self) -> None:
        """Raise RefusedError (UNAUTHENTICATED) when the certificate or token has expired."""
        if self.credential is not None and self.credential.expires_s <= time.time():
            raise RefusedError(UNAUTHENTICATED, _EXPIRED)

    @asynccontextmanager
    async def while_current(self) -> AsyncIterator[None]:
        """Break off what is in the block, with RefusedError (UNAUTHENTICATED), when the peer's time is up."""
        left_s = None if self.credential is None else self.credential.expires_s - time.time()
        try:
            async with asyncio.timeout(left_s) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            _log.warning(
                "call refused", peer=self.address, reason=reason_name(UNAUTHENTICATED), message=_EXPIRED
            )
            raise RefusedError(UNAUTHENTICATED, _EXPIRED) from None


class Authority:
    """Decides who may call what. Refusals are logged, the same one of the same peer at most every 10 s."""

    def __init__(self, tokens: TokenVerifier | None = None) -> None:
        """Without `tokens`, certificates alone are taken."""
        self._tokens = tokens
        self._logs: dict[tuple[str, str], RateLimitedLog] = {}

    def authenticate(self, context: CallContext) -> Peer:
        """Who calls, whatever the role. Raises RefusedError (UNAUTHENTICATED)."""
        try:
            peer = Peer(context.peer(), self._credential(context))
            peer.check_current()
        except RefusedError as error:
            self._refuse(context, error.reason, str(error))
        return peer

    def check(
        self,
        context: CallContext,
        *,
        role: Role | tuple[Role, ...],
        rig: str | None = None,
        name: str | None = None,
    ) -> Peer:
        """Who calls, when it has one of the roles, in `rig` and as `name` where they are given.

        Raises RefusedError: UNAUTHENTICATED without a valid certificate or token, PERMISSION_DENIED with one
        for another role, rig or name.
        """
        peer = self.authenticate(context)
        if peer.credential is None:
            return peer
        roles = (role,) if isinstance(role, str) else role
        identity = peer.credential.identity
        if (
            identity is None
            or identity.role not in roles
            or rig not in (None, identity.rig)
            or name not in (None, identity.name)
        ):
            allowed = " or ".join(
                f"{role} {'(any rig)' if rig is None else rig}/{'(any name)' if name is None else name}"
                for role in roles
            )
            shown = "names no rig, role and name" if identity is None else f"is for {identity}"
            self._refuse(
                context,
                PERMISSION_DENIED,
                printable(f"this is for {allowed}; what the caller showed {shown}"),
            )
        return peer

    def _credential(self, context: CallContext) -> Credential | None:
        proved = context.auth_context()
        certificates = list(proved.get("x509_pem_cert", ()))
        token = _bearer_token(context)
        if b"ssl" not in proved.get("transport_security_type", ()):
            if token is not None:
                raise RefusedError(
                    UNAUTHENTICATED, "tokens are taken over TLS alone: this one must be taken for stolen"
                )
            return None
        if certificates and token is not None:
            raise RefusedError(
                UNAUTHENTICATED, "the caller showed a certificate and a token: show one of them"
            )
        if certificates:
            try:
                return _read_certificate(certificates[0])
            except (IdentityError, ValueError) as error:
                raise RefusedError(
                    UNAUTHENTICATED, f"the caller's certificate is not usable: {error}"
                ) from error
        if token is None:
            raise RefusedError(UNAUTHENTICATED, "the caller showed neither a certificate nor a token")
        if self._tokens is None:
            raise RefusedError(UNAUTHENTICATED, "this server takes no tokens: show a certificate")
        return self._tokens.verify(token)

    def _refuse(self, context: CallContext, reason: ErrorReason, message: str) -> NoReturn:
        host, _, _ = context.peer().rpartition(":")
        if (host, message) not in self._logs:
            if len(self._logs) >= _MAX_LOGS:
                self._logs.clear()
            self._logs[host, message] = RateLimitedLog(_log)
        self._logs[host, message].warning(
            "call refused", peer=context.peer(), reason=reason_name(reason), message=message
        )
        raise RefusedError(reason, message)


@lru_cache(maxsize=1024)
def _read_certificate(pem: bytes) -> Credential:
    return credential_of(x509.load_pem_x509_certificate(pem))


def _bearer_token(context: CallContext) -> str | None:
    """The token that the call carries, "" for an authorization of another kind."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            text = value if isinstance(value, str) else value.decode("latin-1")
            return text[len(_SCHEME) :].strip() if text[: len(_SCHEME)].lower() == _SCHEME else ""
    return None
