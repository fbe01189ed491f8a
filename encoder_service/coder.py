"""Codes captured frames in a thread, at the levels that the rate controller chooses."""

from __future__ import annotations

import asyncio
import time

from encoder_service.account import Account
from encoder_service.frames import Captured, Coded
from encoder_service.offered import OfferedSources
from encoder_service.rate_control import RateController
from encoder_service.role import Role


class Coder:
    """The coding half of a node; the sending half tells `rate` what became of the bytes."""

    def __init__(
        self, role: Role, rate: RateController, account: Account, offered: OfferedSources, *, epoch_us: int
    ) -> None:
        """`epoch_us`: no frame was captured before this."""
        self.rate = rate
        self.epoch_us = epoch_us
        self._role = role
        self._account = account
        self._offered = offered
        self._last_ordinal = 0

    @property
    def opening(self) -> bytes:
        """What frames coded now are sent under."""
        return self._role.opening

    async def code(self, captured: Captured, *, behind: bool = False) -> Coded | None:
        """Code one frame; None: it is left out to hold the rate, and counted as dropped.

        `behind`: frames wait for the link, and none may be lost.
        """
        missed = captured.ordinal - self._last_ordinal - 1
        self._last_ordinal = captured.ordinal
        level = self.rate.choose(
            time.monotonic(), captured.frame.capture_time_us / 1e6, missed=missed, behind=behind
        )
        if level is None:
            self._account.drop("rate")
            return None
        self._offered.put(captured.frame)
        start_s = time.perf_counter()
        try:
            coded = await asyncio.to_thread(self._role.code, captured.frame, level)
        except BaseException:  # the node ends, with this frame in hand
            self._account.drop("stop")
            raise
        self._account.code(time.perf_counter() - start_s)
        # The bundle may have changed meanwhile, for one of fewer levels.
        level = min(coded.rate_level, self._role.rate_levels - 1)
        self.rate.coded(level, len(coded.data) + MESSAGE_BYTES)
        return coded


MESSAGE_BYTES = 12
"""What a Frame message has around its payload, give or take; the contract holds it to 16."""
