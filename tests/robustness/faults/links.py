"""Links that break, lie, are slow, late or lossy."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from tests.robustness.faults.evidence import (
    LIVE,
    VICTIMS,
    must_reconnect,
    must_show,
)
from tests.robustness.netns import linked_hosts
from tests.robustness.rig import SIDE, Rig
from tests.robustness.spoiler import NAME, send_spoilt


async def link_cut(rig: Rig) -> None:
    """Connections are reset, and refused for three seconds."""
    async with rig.traffic():
        await rig.stream(0.3)
        async with rig.fault(*VICTIMS):
            for name in VICTIMS:
                rig.proxies[name].cut()
            await asyncio.sleep(3)
            for name in VICTIMS:
                rig.proxies[name].mend()
    must_reconnect(rig.history(), *VICTIMS)


async def link_half_open(rig: Rig) -> None:
    """Bytes of the present connections vanish, and no end is told."""
    async with rig.traffic():
        await rig.stream(0.3)
        async with rig.fault(*VICTIMS, recovery_s=5):
            for name in VICTIMS:
                rig.proxies[name].half_open()
    must_reconnect(rig.history(), *VICTIMS)


async def link_late(rig: Rig) -> None:
    """150 ms of delay each way, and 100 ms of jitter."""
    async with rig.traffic():
        await rig.stream(0.3)
        async with rig.fault(*VICTIMS):
            for name in VICTIMS:
                rig.proxies[name].delay_ms, rig.proxies[name].jitter_ms = 150, 100
            await asyncio.sleep(4)
            for name in VICTIMS:
                rig.proxies[name].delay_ms = rig.proxies[name].jitter_ms = 0
    sent = {event.key: event.m_us for event in rig.history().of("node", "sent", camera=LIVE)}
    received = rig.history().of("decoder", "received", camera=LIVE)
    late = [event for event in received if event.m_us - sent.get(event.key, event.m_us) > 100_000]
    must_show(len(late) >= 10, f"frames of {LIVE} that took 100 ms and more")


async def bits_flipped(rig: Rig) -> None:
    """One bit changed in six chunks of a connection's TLS records."""
    async with rig.traffic():
        await rig.stream(0.2)
        async with rig.fault(*VICTIMS):
            for _ in range(6):
                for name in VICTIMS:
                    rig.proxies[name].flip()
                await asyncio.sleep(0.7)
    must_show(all(rig.proxies[name].flipped >= 4 for name in VICTIMS), "four flipped bits")
    must_reconnect(rig.history(), *VICTIMS)


async def frames_bad(rig: Rig) -> None:
    """A further camera sends frames of which every other one has a changed bit in its payload."""
    async with rig.traffic():
        await rig.stream(0.2)
        async with rig.fault(NAME):
            rig.spoilt = await send_spoilt(rig, frames=round(0.6 * rig.seconds * rig.fps))
    failed = rig.history().of("decoder", "failed", camera=NAME)
    must_show({event.key for event in failed} == rig.spoilt, "that the changed frames failed, and no others")
    must_show({event["reason"] for event in failed} == {"PAYLOAD_CORRUPT"}, "the reason of it")


async def link_slow(rig: Rig) -> None:
    """100 kbit/s for two cameras and their side information, which alone is five times as much."""
    async with AsyncExitStack() as stack:
        rig.link, rig.remote = await stack.enter_async_context(linked_hosts()), frozenset((*VICTIMS, SIDE))
        async with rig.traffic():
            await rig.stream(0.2)
            async with rig.fault(*VICTIMS, recovery_s=4):
                await rig.link.limit(100)
                await asyncio.sleep(5)
                await rig.link.mend()
    dropped = rig.history().of("node", "dropped", "discarded", kind="side")
    must_show(len(dropped) >= 10, "ten dropped frames of side information")


async def packets_lost(rig: Rig) -> None:
    """A tenth of the packets, each way."""
    async with AsyncExitStack() as stack:
        rig.link, rig.remote = await stack.enter_async_context(linked_hosts()), frozenset(VICTIMS)
        async with rig.traffic():
            await rig.stream(0.2)
            async with rig.fault(*VICTIMS, recovery_s=4):
                await rig.link.lose(10)
                await asyncio.sleep(5)
                lost = await rig.link.lost()
                await rig.link.mend()
    must_show(lost >= 10, "ten lost packets")
