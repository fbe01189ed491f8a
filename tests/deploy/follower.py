"""Someone who follows a rig through the proxy, and comes back when the decoder goes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Final

from ndsc.client import Client, ServiceError, Subscription

_PAUSE_S: Final = 0.25


@dataclass(frozen=True)
class Seen:
    """A picture that came."""

    m_us: int
    """When: CLOCK_MONOTONIC, as in histories."""
    camera: str
    session: str
    sequence: int
    paired: bool


class Follower(Thread):
    """Subscribes to all cameras of a rig until it is stopped."""

    def __init__(self, rig: str, address: str, **credentials: Any) -> None:
        super().__init__(name=f"follower of {rig}", daemon=True)
        self._rig = rig
        self._address = address
        self._credentials = credentials
        self._subscription: Subscription | None = None
        self._stopped = Event()
        self.seen: list[Seen] = []
        self.breaks = 0
        """Subscriptions that ended without its doing."""

    def run(self) -> None:
        """Follow."""
        with Client(self._address, **self._credentials) as client:
            while not self._stopped.is_set():
                try:
                    with client.subscribe(self._rig) as self._subscription:
                        self._follow(self._subscription)
                except ServiceError:
                    self.breaks += bool(self._subscription)
                    self._subscription = None
                    self._stopped.wait(_PAUSE_S)

    def _follow(self, subscription: Subscription) -> None:
        for frame in subscription:
            self.seen.append(
                Seen(
                    time.monotonic_ns() // 1000,
                    frame.camera,
                    frame.session_id.hex(),
                    frame.sequence,
                    frame.side_information.outcome == "paired",
                )
            )
            if self._stopped.is_set():
                return

    def stop(self) -> None:
        """End, and wait for it."""
        self._stopped.set()
        subscription = self._subscription
        if subscription is not None:
            subscription.close()
        self.join(10)
