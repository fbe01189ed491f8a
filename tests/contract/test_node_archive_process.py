"""A node with delivery ARCHIVE as a process that is stopped and killed: its spool goes on with the next one."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from encoder_service.spool import Spool
from ndsc.v1.types_pb2 import Credit
from tests.contract.encoder_peer import Peer, serve
from tests.contract.service_process import Service, until


async def start(peer: Peer, folder: Path, bundle: Path, *flags: object) -> Service:
    return await Service.start(
        *("encoder_service", "--bundle", bundle, "--decoder", peer.address, "--source", folder, "--loop"),
        *("--fps", 100, "--delivery", "archive", "--reconnect-max-s", 0.2, "--drain-seconds", 1.5),
        *("--epoch", 1_700_000_000, "--spool", folder.parent / "spool"),
        *("--history", folder.parent / "history", *flags),
    )


def coded(folder: Path) -> list[tuple[str, int]]:
    """(session, sequence) of every frame that the history says was coded."""
    lines = (folder.parent / "history").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [(event["session"], event["sequence"]) for event in events if event["event"] == "coded"]


async def test_sigterm_leaves_the_rest_in_the_spool_for_the_next_run(
    peer: Peer, folder: Path, tiny_bundle_path: Path
) -> None:
    peer.ack_each, peer.credit = False, Credit(max_frames=2, max_bytes=1 << 20)
    process = await start(peer, folder, tiny_bundle_path)
    await process.line("ready")
    await peer.until_frames(2)
    await until(lambda: len(coded(folder)) >= 10)
    process.terminate()
    done = await process.line("done")
    assert await process.end() == (0, "", "")
    assert done["sent"] == 2
    assert done["captured"] == done["sent"] + done["dropped"] + done["waiting"]
    with closing(Spool(folder.parent / "spool" / "camera", capacity_bytes=1 << 20)) as spool:
        assert spool.frames == done["waiting"] + 2
    peer.ack_each, peer.credit = True, Credit(max_frames=50, max_bytes=1 << 20)
    process = await start(peer, folder, tiny_bundle_path, "--limit", 5)
    await process.line("ready")
    done = await process.line("done")
    assert await process.end() == (0, "", "")
    assert peer.call.sequences == list(range(1, len(coded(folder)) + 1))
    assert done["waiting"] == 0


async def test_kill_9_loses_nothing_that_was_coded(folder: Path, tiny_bundle_path: Path) -> None:
    async with serve(Peer(credit=Credit(max_frames=8, max_bytes=1 << 20))) as peer:
        for received, acknowledges in ((8, False), (40, True)):
            peer.ack_each = acknowledges
            process = await start(peer, folder, tiny_bundle_path)
            await process.line("ready")
            await peer.until_frames(received)
            await until(lambda: len(coded(folder)) > len({frame.sequence for frame in peer.frames}))
            await process.kill()
        process = await start(peer, folder, tiny_bundle_path, "--limit", 5)
        await process.line("ready")
        assert (await process.line("done"))["waiting"] == 0
        assert await process.end() == (0, "", "")
    assert len({call.open.session_id for call in peer.calls}) == 1
    [session] = {session for session, _ in coded(folder)}
    assert session == peer.call.open.session_id.hex()
    payloads: dict[int, set[bytes]] = {}
    for frame in peer.frames:
        payloads.setdefault(frame.sequence, set()).add(frame.message.payload)
    assert sorted(payloads) == list(range(1, max(payloads) + 1))
    assert {sequence for _, sequence in coded(folder)} <= set(payloads)
    assert all(len(sent) == 1 for sent in payloads.values()), "a sequence was given to two frames"
    for call in peer.calls:
        assert call.sequences == sorted(set(call.sequences))
