"""The faults: what is done to a run, and how the history shows that it was done."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from tests.robustness.bundles import make_slow_bundle
from tests.robustness.clocks import SteppedClock
from tests.robustness.conditions import Reference
from tests.robustness.disks import small_disk
from tests.robustness.history import History
from tests.robustness.netns import linked_hosts
from tests.robustness.plots import plot_ages
from tests.robustness.rig import CAMERAS, SIDE, Camera, Rig, free_port
from tests.robustness.spoiler import NAME, send_spoilt
from tests.robustness.subscriber import subscribing

LIVE, OTHER_LIVE, ARCHIVE = (camera.name for camera in CAMERAS)
VICTIMS: Final = (LIVE, ARCHIVE)
"""Where a fault works on some cameras alone. OTHER_LIVE must not notice it."""


OVERLOAD: Final = 3.0
"""Time that the slow decoder takes for a frame, of the time there is."""


OVERLOAD_CREDIT: Final = 2
"""Frames in flight of each camera."""


class NotInjectedError(Exception):
    """A fault that cannot be seen in the history: the run proves nothing."""


@dataclass(frozen=True)
class Scenario:
    """One kind of fault."""

    fault: str
    run: Callable[[Rig], Awaitable[None]]
    alone: bool = False
    """Whether it needs the whole machine."""


def _must_show(shown: bool, what: str) -> None:
    if not shown:
        raise NotInjectedError(f"the history does not show {what}")


def _calls(history: History, camera: str) -> int:
    """How often a node opened a call."""
    return len(history.of("node", "opened", camera=camera))


def _must_reconnect(history: History, *cameras: str) -> None:
    for camera in cameras:
        _must_show(_calls(history, camera) > 1, f"that {camera} opened another call")


async def undisturbed(rig: Rig) -> None:
    """Nothing happens."""
    async with rig.traffic():
        pass
    _must_show(len(rig.history().of("decoder", "decoded")) > 0, "a decoded frame")


async def decoder_killed(rig: Rig) -> None:
    """kill -9, then started again."""
    async with rig.traffic():
        await rig.stream(0.3)
        async with rig.fault():
            await rig.decoder.kill()
            await rig.start_decoder()
    history = rig.history()
    _must_show(len(history.decoder_starts()) == 2, "two starts of the decoder")
    _must_reconnect(history, *rig.names)


async def node_killed(rig: Rig) -> None:
    """kill -9 of two nodes, then started again."""
    async with rig.traffic():
        await rig.stream(0.3)
        async with rig.fault(*VICTIMS):
            await asyncio.gather(*(rig.services[name].kill() for name in VICTIMS))
            await asyncio.gather(*(rig.start_node(name) for name in VICTIMS))
    history = rig.history()
    for name in VICTIMS:
        _must_show(len(history.of("node", "start", camera=name)) == 2, f"two starts of {name}")


async def decoder_frozen(rig: Rig) -> None:
    """SIGSTOP for four seconds."""
    async with rig.traffic():
        await rig.stream(0.3)
        async with rig.fault():
            rig.decoder.freeze()
            await asyncio.sleep(4)
            rig.decoder.thaw()
    _must_reconnect(rig.history(), *rig.names)


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
    _must_reconnect(rig.history(), *VICTIMS)


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
    _must_reconnect(rig.history(), *VICTIMS)


async def link_half_open(rig: Rig) -> None:
    """Bytes of the present connections vanish, and no end is told."""
    async with rig.traffic():
        await rig.stream(0.3)
        async with rig.fault(*VICTIMS, recovery_s=5):
            for name in VICTIMS:
                rig.proxies[name].half_open()
    _must_reconnect(rig.history(), *VICTIMS)


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
    _must_show(len(late) >= 10, f"frames of {LIVE} that took 100 ms and more")


async def bits_flipped(rig: Rig) -> None:
    """One bit changed in six chunks of a connection's TLS records."""
    async with rig.traffic():
        await rig.stream(0.2)
        async with rig.fault(*VICTIMS):
            for _ in range(6):
                for name in VICTIMS:
                    rig.proxies[name].flip()
                await asyncio.sleep(0.7)
    _must_show(all(rig.proxies[name].flipped >= 4 for name in VICTIMS), "four flipped bits")
    _must_reconnect(rig.history(), *VICTIMS)


async def frames_bad(rig: Rig) -> None:
    """A further camera sends frames of which every other one has a changed bit in its payload."""
    async with rig.traffic():
        await rig.stream(0.2)
        async with rig.fault(NAME):
            rig.spoilt = await send_spoilt(rig, frames=round(0.6 * rig.seconds * rig.fps))
    failed = rig.history().of("decoder", "failed", camera=NAME)
    _must_show({event.key for event in failed} == rig.spoilt, "that the changed frames failed, and no others")
    _must_show({event["reason"] for event in failed} == {"PAYLOAD_CORRUPT"}, "the reason of it")


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
    _must_show(len(dropped) >= 10, "ten dropped frames of side information")


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
    _must_show(lost >= 10, "ten lost packets")


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
    _must_show(outcomes.count("absent") >= 10, "frames decoded without side information")
    _must_show(outcomes.count("paired") >= 10, "frames decoded with side information")


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
    _must_show(max(gaps_us) > 2_000_000, "a pause, after the clock went back")
    window = rig.windows[0]
    ahead = sum(window.start_us <= moment <= window.start_us + 3_000_000 for moment in captured)
    _must_show(ahead > 1.3 * 3 * rig.fps, "frames due at once, after the clock went on")


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
    _must_reconnect(rig.history(), ARCHIVE)


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
    _must_reconnect(rig.history(), ARCHIVE)


async def certificate_expired(rig: Rig) -> None:
    """A node's certificate ends, its link is cut, and two seconds later there is a new certificate."""
    rig.valid_s[LIVE] = 4
    async with rig.traffic():
        await rig.stream(0.5)
        async with rig.fault(LIVE):
            rig.proxies[LIVE].cut()
            rig.proxies[LIVE].mend()
            await asyncio.sleep(2.5)
            calls = _calls(rig.history(), LIVE)
            rig.credentials.node("camera", LIVE)
    _must_show(calls == 1, f"that {LIVE} was kept out with its old certificate")
    _must_reconnect(rig.history(), LIVE)


async def name_taken(rig: Rig) -> None:
    """A second node of the same name takes over from the first."""
    async with rig.traffic():
        await rig.stream(0.4)
        async with rig.fault(LIVE):
            rig.meant_to_end.add(LIVE)
            await rig.start_twin(LIVE)
    sessions = {event.session for event in rig.history().of("decoder", "decoded", camera=LIVE)}
    _must_show(len(sessions) == 2, "frames of two sessions of one name")


async def subscriber_slow(rig: Rig) -> None:
    """Someone subscribes to all pictures, and does not read them."""
    rig.decoder_flags = ("--subscriber-queue-frames", "4")
    async with rig.traffic(), subscribing(rig) as subscriber:
        await rig.stream(0.8)
        missed = await subscriber.missed()
    _must_show(missed > 0, "pictures that the subscriber missed")


async def bundle_changed(rig: Rig) -> None:
    """The decoder is updated to a server that prefers another bundle; four cameras fetch it and change over."""
    rig.cameras = tuple(
        replace(
            camera,
            flags=("--fetch-bundle", "--bundle-cache", str(rig.folder / f"{camera.name}.bundles")),
        )
        for camera in (*CAMERAS, Camera("archive-b", "archive"))
    )
    rig.lossless = True
    rig.node_flags = ("--queue-frames", "64", "--max-age-ms", "10000")
    async with rig.traffic():
        await rig.stream(0.3)
        async with rig.fault():
            await rig.decoder.stop()
            rig.served = (rig.bundles.successor, rig.bundles.present)
            await rig.start_decoder()
    history = rig.history()
    for name in rig.names:
        _must_show(len(history.of("node", "bundle", camera=name)) == 1, f"that {name} changed its bundle")


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
    _must_show(len(history.decoder_starts()) == 3, "three starts of the decoder")
    _must_reconnect(history, *rig.names)


async def decoder_slow(rig: Rig) -> None:
    """A decoder that takes three times as long for a frame as there is."""
    rig.cameras = (Camera(LIVE, "live"), Camera(OTHER_LIVE, "live"), Camera("live-c", "live"))
    rig.seconds = 20
    rig.decoder_flags = ("--credit-frames", str(OVERLOAD_CREDIT))
    decode_s = OVERLOAD / (len(rig.cameras) * rig.fps)
    rig.served = (await asyncio.to_thread(make_slow_bundle, rig.folder / "slow", decode_s),)
    async with rig.traffic():
        pass
    history = rig.history()
    captured, decoded = len(history.of("node", "captured")), len(history.of("decoder", "decoded"))
    _must_show(captured > 2 * decoded, "that the decoder was too slow")
    # Little's law: a frame is as old as those in flight take. Before it may lie a whole batch, behind it another.
    rig.age_bound_ms = round(3 * len(rig.cameras) * OVERLOAD_CREDIT * 1000 * rig.seconds / decoded)
    plot_ages(history, rig.folder / "age.png", f"LIVE, decoder {OVERLOAD:g} times too slow")


async def archive_replayed(rig: Rig) -> None:
    """kill -9 of the decoder while frames and side information wait; every picture is as without it."""
    rig.cameras = (Camera(ARCHIVE, "archive"),)
    rig.side_delivery = "archive"
    rig.lossless = True
    rig.node_flags = ("--queue-frames", "64")
    rig.decoder_flags = ("--archive-pair-wait-ms", "30000")
    calm = replace(rig, folder=rig.folder / "calm", port=free_port(), services={}, proxies={}, windows=[])
    calm.folder.mkdir()
    rig.epoch_s = calm.epoch_s = rig.next_epoch_s()
    async with rig.traffic(), calm.traffic():
        await rig.stream(0.3)
        async with rig.fault():
            await rig.decoder.kill()
            await rig.start_decoder()
    _must_show(len(rig.history().decoder_starts()) == 2, "two starts of the decoder")
    undisturbed_images = {
        event["capture_time_us"]: Reference(event["crc"], event["image"])
        for event in calm.history().of("decoder", "decoded")
    }
    rig.references = {
        event.key: undisturbed_images[event["capture_time_us"]]
        for event in rig.history().of("decoder", "decoded")
        if event["capture_time_us"] in undisturbed_images
    }
    _must_show(len(rig.references) >= 0.9 * rig.seconds * rig.fps, "the same frames in both runs")


SCENARIOS: Final = (
    Scenario("none", undisturbed),
    Scenario("decoder killed", decoder_killed),
    Scenario("node killed", node_killed),
    Scenario("decoder frozen", decoder_frozen),
    Scenario("node frozen", node_frozen),
    Scenario("link cut", link_cut),
    Scenario("link half-open", link_half_open),
    Scenario("delay and jitter", link_late),
    Scenario("bits flipped", bits_flipped),
    Scenario("frames bad", frames_bad),
    Scenario("100 kbit/s", link_slow),
    Scenario("packets lost", packets_lost),
    Scenario("side information stalled", side_information_stalled),
    Scenario("clock stepped", clock_stepped),
    Scenario("spool full", spool_full),
    Scenario("archive full", archive_full),
    Scenario("certificate expired", certificate_expired),
    Scenario("camera name taken", name_taken),
    Scenario("subscriber slow", subscriber_slow),
    Scenario("bundle changed", bundle_changed),
    Scenario("everything", everything),
    Scenario("archive replayed", archive_replayed),
    Scenario("decoder 3 times too slow", decoder_slow, alone=True),
)
