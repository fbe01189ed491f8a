"""Decoders that are upgraded, too slow, or killed with frames on disk."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from tests.robustness.bundles import make_slow_bundle
from tests.robustness.conditions import Reference
from tests.robustness.faults.evidence import (
    ARCHIVE,
    must_show,
)
from tests.robustness.plots import plot_ages
from tests.robustness.rig import CAMERAS, Camera, Rig, free_port

OVERLOAD: Final = 3.0
"""Time that the slow decoder takes for a frame, of the time there is."""
OVERLOAD_CREDIT: Final = 2
"""Frames in flight of each camera."""


async def bundle_changed(rig: Rig) -> None:
    """The decoder is updated to a server that prefers another bundle; four cameras fetch it and change over."""
    rig.cameras = tuple(
        replace(
            camera,
            flags=(
                *camera.flags,
                "--fetch-bundle",
                "--bundle-cache",
                str(rig.folder / f"{camera.name}.bundles"),
            ),
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
        must_show(len(history.of("node", "bundle", camera=name)) == 1, f"that {name} changed its bundle")


async def decoder_slow(rig: Rig) -> None:
    """A decoder that takes three times as long for a frame as there is."""
    # Enough cameras for frames to be decoded in batches.
    rig.cameras = tuple(
        replace(CAMERAS[number % len(CAMERAS)], name=f"live-{letter}", delivery="live")
        for number, letter in enumerate("abcdef")
    )
    rig.fps = 5
    rig.seconds = 20
    rig.decoder_flags = ("--credit-frames", str(OVERLOAD_CREDIT), "--max-batch", "8")
    decode_s = OVERLOAD / (len(rig.cameras) * rig.fps)
    rig.served = (await asyncio.to_thread(make_slow_bundle, rig.folder / "slow", decode_s),)
    async with rig.traffic():
        pass
    history = rig.history()
    captured, decoded = len(history.of("node", "captured")), len(history.of("decoder", "decoded"))
    must_show(captured > 2 * decoded, "that the decoder was too slow")
    # Little's law: a frame is as old as those in flight take. Before it may lie a whole batch, behind it another.
    rig.age_bound_ms = round(3 * len(rig.cameras) * OVERLOAD_CREDIT * 1000 * rig.seconds / decoded)
    plot_ages(history, rig.folder / "age.png", f"LIVE, decoder {OVERLOAD:g} times too slow")


async def archive_replayed(rig: Rig) -> None:
    """kill -9 of the decoder, back after three seconds; every picture of the two spools is as without it."""
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
            await asyncio.sleep(3)
            await rig.start_decoder()
    must_show(len(rig.history().decoder_starts()) == 2, "two starts of the decoder")
    undisturbed_images = {
        event["capture_time_us"]: Reference(event["crc"], event["image"])
        for event in calm.history().of("decoder", "decoded")
    }
    rig.references = {
        event.key: undisturbed_images[event["capture_time_us"]]
        for event in rig.history().of("decoder", "decoded")
        if event["capture_time_us"] in undisturbed_images
    }
    must_show(len(rig.references) >= 0.9 * rig.seconds * rig.fps, "the same frames in both runs")
