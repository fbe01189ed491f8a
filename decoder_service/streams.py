"""The open streams and the accounts of those that are open or were."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Protocol

from ndsc.service.errors import DRAINING, SESSION_LIMIT, SESSION_SUPERSEDED, RefusedError
from ndsc.v1 import types_pb2
from ndsc.v1.catalog_pb2 import StreamKind
from ndsc.v1.types_pb2 import Clock, Delivery

_MAX_CLOSED: Final = 256
"""Accounts kept of closed streams; strangers choose the names, so the number is bounded."""


@dataclass(frozen=True)
class StreamKey:
    """Names a stream: of each kind, a rig has at most one for each camera."""

    kind: StreamKind
    rig: str
    camera: str


@dataclass
class Account:
    """What became of the frames of a session, over all its calls.

    Received = decoded + failed + abandoned + waiting.
    """

    key: StreamKey
    session_id: bytes
    width: int
    height: int
    delivery: Delivery = types_pb2.DELIVERY_LIVE
    streams: tuple[str, ...] = ()
    """Cameras whose frames may serve as side information, best first."""
    clock: Clock = types_pb2.CLOCK_UNSPECIFIED
    open: bool = False
    done_sequence: int = 0
    """Everything up to here is decoded (LIVE), stored (ARCHIVE) or failed."""
    received: int = 0
    decoded: int = 0
    """Decoded (cameras) or held at some time (side information)."""
    failed: int = 0
    abandoned: int = 0
    """In flight when a call broke off: the node sends them again or drops them. Or stored already."""
    dropped: int = 0
    """As the node reported."""
    received_bytes: int = 0
    last_capture_time_us: int | None = None

    @property
    def clock_is_disciplined(self) -> bool:
        """Whether capture times can be compared with this machine's clock."""
        return self.clock in (types_pb2.CLOCK_NTP, types_pb2.CLOCK_PTP)

    @property
    def waiting(self) -> int:
        """Frames received (LIVE) or stored (ARCHIVE) that wait to be decoded."""
        return self.received - self.decoded - self.failed - self.abandoned


class Peer(Protocol):
    """The server's end of an open stream."""

    @property
    def frames_in_flight(self) -> int:
        """Frames received and not acknowledged yet."""

    def end(self, error: RefusedError) -> None:
        """Break the stream off, with this error."""

    def ask_to_drain(self) -> None:
        """Ask the other end to finish and close."""


@dataclass
class _Open:
    account: Account
    peer: Peer


@dataclass
class StreamRegistry:
    """Which streams are open. Every method belongs to the event loop."""

    max_open: int
    """Of each kind."""
    _open: dict[StreamKey, _Open] = field(default_factory=dict)
    _accounts: OrderedDict[StreamKey, Account] = field(default_factory=OrderedDict)
    _draining: bool = False
    _empty: asyncio.Event = field(default_factory=asyncio.Event)

    def resume(self, key: StreamKey, session_id: bytes) -> Account | None:
        """The account of a stream's latest session when that is this one, open or not."""
        account = self._accounts.get(key)
        return account if account is not None and account.session_id == session_id else None

    def remember(self, account: Account) -> Account:
        """Keep the account of a session that has no call, unless the stream has a newer one.

        Gives the session's account: another one when that is kept already.
        """
        kept = self._accounts.setdefault(account.key, account)
        return kept if kept.session_id == account.session_id else account

    def open(self, account: Account, peer: Peer) -> None:
        """Enter a stream's call; an open one of the same key is broken off (SESSION_SUPERSEDED).

        Raises RefusedError: DRAINING, or SESSION_LIMIT when `max_open` others are open.
        """
        self.check_accepting()
        key = account.key
        former = self._open.get(key)
        if former is not None:
            former.account.open = False
            former.peer.end(RefusedError(SESSION_SUPERSEDED, _superseded(former.account, account)))
        elif sum(other.kind == key.kind for other in self._open) >= self.max_open:
            raise RefusedError(SESSION_LIMIT, f"{self.max_open} streams are open; this server takes no more")
        account.open = True
        self._open[key] = _Open(account, peer)
        self._accounts[key] = account
        self._accounts.move_to_end(key)

    def close(self, account: Account, peer: Peer) -> None:
        """Take a call out. One that was superseded is out already."""
        current = self._open.get(account.key)
        if current is not None and current.peer is peer:
            account.open = False
            del self._open[account.key]
        closed = [key for key in self._accounts if key not in self._open]
        for key in closed[: max(0, len(closed) - _MAX_CLOSED)]:
            del self._accounts[key]
        if not self._open:
            self._empty.set()

    def known(self, key: StreamKey) -> bool:
        """Whether such a stream is open or was."""
        return key in self._accounts

    def serves_as_side_information(self, rig: str, camera: str) -> bool:
        """Whether a session, open or not, names this camera's frames as its side information."""
        return any(a.key.rig == rig and camera in a.streams for a in self._accounts.values())

    @property
    def frames_in_flight(self) -> int:
        """Frames of all open streams that are not acknowledged yet."""
        return sum(entry.peer.frames_in_flight for entry in self._open.values())

    def open_streams(self, kind: StreamKind) -> int:
        """Open streams of a kind."""
        return sum(key.kind == kind for key in self._open)

    def accounts(self, rig: str = "") -> list[Account]:
        """Accounts of a rig's streams, or of all, by rig, camera and kind."""
        chosen = [account for account in self._accounts.values() if not rig or account.key.rig == rig]
        return sorted(chosen, key=lambda account: (account.key.rig, account.key.camera, account.key.kind))

    def check_accepting(self) -> None:
        """Raise RefusedError (DRAINING) once the server shuts down."""
        if self._draining:
            raise RefusedError(DRAINING, "the server is shutting down; come back when it is up again")

    async def drain(self) -> None:
        """Take no more streams, ask all open ones to finish, and wait until they have."""
        self._draining = True
        if not self._open:
            return
        self._empty.clear()
        for entry in self._open.values():
            entry.peer.ask_to_drain()
        await self._empty.wait()

    def end_all(self) -> None:
        """Break off all streams (DRAINING)."""
        self._draining = True
        for entry in list(self._open.values()):
            entry.peer.end(RefusedError(DRAINING, "the server shut down before the stream was finished"))


def _superseded(former: Account, account: Account) -> str:
    key = account.key
    if former.session_id == account.session_id:
        return f"camera {key.camera!r} of rig {key.rig!r} opened its session again, in another call"
    return (
        f"another session of camera {key.camera!r} of rig {key.rig!r} took over; two nodes with one name cannot "
        f"both stream"
    )
