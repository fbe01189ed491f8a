"""Clocks, disks, certificates, names and clients that are not as they should be."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import pairwise

from tests.robustness.clocks import SteppedClock
from tests.robustness.disks import small_disk
from tests.robustness.faults.evidence import (
    ARCHIVE,
    LIVE,
    VICTIMS,
    calls,
    must_reconnect,
    must_show,
)
from tests.robustness.rig import Rig
from tests.robustness.subscriber import subscribing


async def clock_stepped(rig: Rig) -> None:
    """The wall clocks of two nodes run 5 s ahead for a while."""
    clocks = {name: SteppedClock(rig.folder / f"{name}.clock") for name in VICTIMS}
    rig.environments = {name: clock.environment for name, clock in clocks.items()}
    rig.seconds = 16
    async with rig.traffic():
        await rig.stream(0.2)
        async with rig.fault(*VICTIMS):
            for clock in clocks.values():
                clock.step_to(5)
            await asyncio.sleep(3)
            for clock in clocks.values():
                clock.step_to(0)
            await asyncio.sleep(1)
    captured = [event.m_us for event in rig.history().of("node", "captured", camera=LIVE)]
    gaps_us = [later - earlier for earlier, later in pairwise(captured)]
    must_show(max(gaps_us) > 2_000_000, "a pause, after the clock went back")
    window = rig.windows[0]
    ahead = sum(window.start_us <= moment <= window.start_us + 3_000_000 for moment in captured)
    must_show(ahead > 1.3 * 3 * rig.fps, "frames due at once, after the clock went on")


async def spool_full(rig: Rig) -> None:
    """The link is down for so long that the node's disk is full; then it is made larger."""
    async with AsyncExitStack() as stack:
        disk = await stack.enter_async_context(small_disk(rig.folder / f"{ARCHIVE}.spool", 192))
        async with rig.traffic():
            await rig.stream(0.2)
            async with rig.fault(ARCHIVE):
                rig.proxies[ARCHIVE].cut()
                await rig.until_seen("node", "dropped", ARCHIVE, why="spool_full")
                await disk.resize(16_384)
                rig.proxies[ARCHIVE].mend()
    must_reconnect(rig.history(), ARCHIVE)


async def archive_full(rig: Rig) -> None:
    """The decoder's disk is full; then it is made larger."""
    async with AsyncExitStack() as stack:
        disk = await stack.enter_async_context(small_disk(rig.folder / "archive", 256))
        async with rig.traffic():
            await rig.stream(0.1)
            async with rig.fault(ARCHIVE):
                await rig.until_seen("node", "lost", ARCHIVE)
                await asyncio.sleep(1)
                await disk.resize(65_536)
    must_reconnect(rig.history(), ARCHIVE)


async def certificate_expired(rig: Rig) -> None:
    """A node's certificate ends, its link is cut, and two seconds later there is a new certificate."""
    rig.valid_s[LIVE] = 4
    async with rig.traffic():
        await rig.stream(0.5)
        async with rig.fault(LIVE):
            rig.proxies[LIVE].cut()
            rig.proxies[LIVE].mend()
            await asyncio.sleep(2.5)
            before = calls(rig.history(), LIVE)
            rig.credentials.node("camera", LIVE)
    must_show(before == 1, f"that {LIVE} was kept out with its old certificate")
    must_reconnect(rig.history(), LIVE)


async def name_taken(rig: Rig) -> None:
    """A second node of the same name takes over from the first."""
    async with rig.traffic():
        await rig.stream(0.4)
        async with rig.fault(LIVE):
            rig.meant_to_end.add(LIVE)
            await rig.start_twin(LIVE)
    sessions = {event.session for event in rig.history().of("decoder", "decoded", camera=LIVE)}
    must_show(len(sessions) == 2, "frames of two sessions of one name")


async def subscriber_slow(rig: Rig) -> None:
    """Someone subscribes to all pictures, and does not read them."""
    rig.decoder_flags = ("--subscriber-queue-frames", "4")
    async with rig.traffic(), subscribing(rig) as subscriber:
        await rig.stream(0.8)
        missed = await subscriber.missed()
    must_show(missed > 0, "pictures that the subscriber missed")
