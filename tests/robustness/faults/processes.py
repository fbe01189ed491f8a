"""Services that are killed or stand still."""

from __future__ import annotations

import asyncio
import random

from tests.robustness.faults.evidence import (
    ARCHIVE,
    LIVE,
    VICTIMS,
    must_reconnect,
    must_show,
)
from tests.robustness.rig import SIDE, Rig


async def undisturbed(rig: Rig) -> None:
    """Nothing happens."""
    async with rig.traffic():
        pass
    must_show(len(rig.history().of("decoder", "decoded")) > 0, "a decoded frame")


async def decoder_killed(rig: Rig) -> None:
    """kill -9, then started again."""
    async with rig.traffic():
        await rig.stream(0.3)
        async with rig.fault():
            await rig.decoder.kill()
            await rig.start_decoder()
    history = rig.history()
    must_show(len(history.decoder_starts()) == 2, "two starts of the decoder")
    must_reconnect(history, *rig.names)


async def node_killed(rig: Rig) -> None:
    """kill -9 of two nodes, then started again."""
    async with rig.traffic():
        await rig.stream(0.3)
        async with rig.fault(*VICTIMS):
            await asyncio.gather(*(rig.services[name].kill() for name in VICTIMS))
            await asyncio.gather(*(rig.start_node(name) for name in VICTIMS))
    history = rig.history()
    for name in VICTIMS:
        must_show(len(history.of("node", "start", camera=name)) == 2, f"two starts of {name}")


async def decoder_frozen(rig: Rig) -> None:
    """SIGSTOP for four seconds."""
    async with rig.traffic():
        await rig.stream(0.3)
        async with rig.fault():
            rig.decoder.freeze()
            await asyncio.sleep(4)
            rig.decoder.thaw()
    must_reconnect(rig.history(), *rig.names)


async def node_frozen(rig: Rig) -> None:
    """SIGSTOP of two nodes for four seconds."""
    async with rig.traffic():
        await rig.stream(0.3)
        async with rig.fault(*VICTIMS):
            for name in VICTIMS:
                rig.services[name].freeze()
            await asyncio.sleep(4)
            for name in VICTIMS:
                rig.services[name].thaw()
    must_reconnect(rig.history(), *VICTIMS)


async def side_information_stalled(rig: Rig) -> None:
    """SIGSTOP of the side-information node for three seconds."""
    async with rig.traffic():
        await rig.stream(0.3)
        async with rig.fault(ARCHIVE, recovery_s=4):  # which waits for it, LIVE does not
            rig.services[SIDE].freeze()
            await asyncio.sleep(3)
            rig.services[SIDE].thaw()
    decoded = rig.history().of("decoder", "decoded", camera=LIVE)
    outcomes = [event["outcome"] for event in decoded]
    must_show(outcomes.count("absent") >= 10, "frames decoded without side information")
    must_show(outcomes.count("paired") >= 10, "frames decoded with side information")


async def everything(rig: Rig) -> None:
    """Kills, freezes, cuts, half-open links and flipped bits, one after another, in the seed's order."""
    rng = random.Random(rig.seed)
    rig.seconds = 18

    async def kill_decoder() -> None:
        await rig.decoder.kill()
        await rig.start_decoder()

    async def kill_node() -> None:
        name = rng.choice(VICTIMS)
        await rig.services[name].kill()
        await rig.start_node(name)

    async def freeze() -> None:
        service = rig.services[rng.choice(["decoder", SIDE, *VICTIMS])]
        service.freeze()
        await asyncio.sleep(rng.uniform(0.5, 2.5))
        service.thaw()

    async def cut() -> None:
        proxy = rig.proxies[rng.choice([SIDE, *VICTIMS])]
        proxy.cut()
        await asyncio.sleep(rng.uniform(0, 1))
        proxy.mend()

    async def half_open() -> None:
        rig.proxies[rng.choice([SIDE, *VICTIMS])].half_open()

    async def flip() -> None:
        rig.proxies[rng.choice([SIDE, *VICTIMS])].flip()

    faults = [kill_decoder, kill_decoder, kill_node, freeze, freeze, cut, cut, half_open, flip, flip]
    rng.shuffle(faults)
    async with rig.traffic():
        await rig.stream(0.1)
        async with rig.fault():
            for fault in faults:
                await fault()
                await asyncio.sleep(rng.uniform(0, 0.7))
    history = rig.history()
    must_show(len(history.decoder_starts()) == 3, "three starts of the decoder")
    must_reconnect(history, *rig.names)
