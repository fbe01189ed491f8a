"""A camera node with delivery ARCHIVE: everything coded waits in the spool until the decoder has stored it."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from encoder_service import node as node_module
from encoder_service import spooled
from encoder_service.frames import Numbered
from encoder_service.node import Node
from encoder_service.rate_control import RateController
from encoder_service.role import Request
from encoder_service.spool import Spool
from encoder_service.uplink import Uplink
from ndsc.codec.bundle import Bundle, write_bundle
from ndsc.service.sqlite import StoreFullError
from ndsc.v1.types_pb2 import DELIVERY_ARCHIVE, Credit
from tests.contract.encoder_peer import PATIENCE_S, Nodes, Peer, ScriptedSource, checked, quietly, run
from tests.contract.service_process import until


class Runs:
    """One node's runs, one after another, over one spool."""

    def __init__(self, make_node: Nodes, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spool = spool
        self._make_node = make_node
        self._monkeypatch = monkeypatch
        self._given = 0

    def make(self, peer: Peer, *, width: int = 40, **more: Any) -> tuple[Node, ScriptedSource]:
        source = ScriptedSource(self._given, width=width)
        self._monkeypatch.setattr(node_module, "open_source", lambda *_args, **_more: source)
        values: dict[str, Any] = {
            "pace": "realtime",
            "queue_frames": 32,
            "delivery": "archive",
            "spool": self.spool,
        }
        return self._make_node(peer, "x", **(values | more)), source

    @asynccontextmanager
    async def running(self, peer: Peer, **more: Any) -> AsyncIterator[tuple[Node, ScriptedSource]]:
        """A run that is told to stop at the end; what is left then stays in the spool."""
        node, source = self.make(peer, **more)
        work = asyncio.create_task(node.run(quietly))
        try:
            yield node, source
        finally:
            node.stop()
            async with asyncio.timeout(PATIENCE_S):
                await work

    async def spooled(self, peer: Peer, frames: int, **more: Any) -> Node:
        """A run in which so many frames are spooled; the decoder must be down."""
        async with self.running(peer, **more) as (node, source):
            before = node.account.coded
            await source.give(frames)
            await until(lambda: node.account.coded == before + frames and node.waiting == node.spool_frames)
            self._given += frames
        return node

    async def to_the_end(self, peer: Peer, frames: int, **more: Any) -> dict[str, Any]:
        """A run of so many frames, which sends all that the spool holds."""
        node, source = self.make(peer, **more)
        work = asyncio.create_task(node.run(quietly))
        await source.give(frames)
        self._given += frames
        source.close()
        async with asyncio.timeout(PATIENCE_S):
            await work
        return node.summary()

    def left(self) -> int:
        """Frames in the spool, while no node runs."""
        with closing(Spool(self.spool / "camera", capacity_bytes=1 << 20)) as spool:
            return spool.frames


@pytest.fixture
def runs(make_node: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(make_node, tmp_path / "spool", monkeypatch)


@pytest.fixture
def tiny_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spools take 64 KiB, and look for room every 10 ms."""
    monkeypatch.setattr(node_module, "Spool", lambda folder, **_: Spool(folder, capacity_bytes=64 << 10))
    monkeypatch.setattr(spooled, "_FULL_RETRY_S", 0.01)


async def test_a_frame_is_in_the_spool_before_it_is_sent_and_goes_once_it_is_acknowledged(
    peer: Peer, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: set[int] = set()
    append, send = Spool.append, Uplink.send

    def kept_append(spool: Spool, *args: Any, **more: Any) -> int:
        sequence = append(spool, *args, **more)
        kept.add(sequence)
        return sequence

    async def checked_send(uplink: Uplink, frames: Sequence[Numbered], request: Request) -> None:
        assert {frame.sequence for frame in frames} <= kept
        await send(uplink, frames, request)

    monkeypatch.setattr(Spool, "append", kept_append)
    monkeypatch.setattr(Uplink, "send", checked_send)
    peer.ack_each = False
    async with runs.running(peer) as (node, source):
        await source.give(5)
        await peer.until_frames(5)
        assert (node.spool_frames, node.waiting, node.in_flight) == (5, 0, 5)
        await peer.call.ack(3)
        await until(lambda: node.spool_frames == 2)
        await peer.call.ack(5)
        await until(lambda: node.spool_frames == 0)
    assert peer.call.open.delivery == DELIVERY_ARCHIVE
    assert peer.call.sequences == [1, 2, 3, 4, 5]
    assert checked(node)["acked"] == 5
    assert runs.left() == 0


async def test_what_was_spooled_while_the_decoder_was_down_is_sent_in_few_messages(
    peer: Peer, runs: Runs
) -> None:
    await peer.stop()
    node, source = runs.make(peer)
    work = asyncio.create_task(run(node))
    await source.give(20)
    await until(lambda: node.spool_frames == 20)
    await peer.start()
    await peer.until_frames(20)
    source.close()
    summary = await work
    assert peer.call.messages == [20]
    assert [frame.number for frame in peer.frames] == list(range(20))
    assert (summary["captured"], summary["sent"], summary["dropped"]) == (20, 20, 0)


async def test_the_next_run_goes_on_with_the_session_and_its_sequence(peer: Peer, runs: Runs) -> None:
    await peer.stop()
    first = await runs.spooled(peer, 3)
    assert first.summary()["waiting"] == runs.left() == 3
    await peer.start()
    summary = await runs.to_the_end(peer, 2)
    assert peer.call.open.session_id.hex() == first.summary()["session"] == summary["session"]
    assert peer.call.sequences == [1, 2, 3, 4, 5]
    assert [frame.number for frame in peer.frames] == [0, 1, 2, 3, 4]
    assert (summary["captured"], summary["sent"], summary["acked"], summary["waiting"]) == (2, 5, 5, 0)
    # And when nothing was left over.
    await runs.to_the_end(peer, 1)
    assert peer.call.sequences == [6]


async def test_what_the_decoder_has_stored_already_is_not_sent_again(peer: Peer, runs: Runs) -> None:
    await peer.stop()
    await runs.spooled(peer, 4)
    peer.done = 3
    await peer.start()
    summary = await runs.to_the_end(peer, 1)
    assert peer.call.open.next_sequence == 1
    assert peer.call.sequences == [4, 5]
    assert (summary["captured"], summary["sent"], summary["acked"]) == (1, 5, 5)
    assert runs.left() == 0


async def test_what_was_in_flight_is_sent_again_to_a_decoder_without_memory(peer: Peer, runs: Runs) -> None:
    peer.ack_each = False
    node, source = runs.make(peer)
    work = asyncio.create_task(run(node))
    await source.give(3)
    await peer.until_frames(3)
    await peer.stop()
    await until(lambda: not node.connected)
    assert (node.account.sent, node.account.in_flight, node.waiting, node.spool_frames) == (3, 3, 0, 3)
    await source.give(1)
    await until(lambda: node.waiting == 1)
    peer.knows_session, peer.ack_each = False, True
    await peer.start()
    source.close()
    summary = await work
    assert peer.call.sequences == [1, 2, 3, 4]
    assert (summary["captured"], summary["sent"], summary["acked"], summary["unknown"]) == (4, 4, 4, 0)


async def test_frames_of_each_bitstream_come_in_calls_of_their_own(
    peer: Peer, runs: Runs, tiny_parts: dict[str, Any], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    other = write_bundle(tmp_path / "other", **{**tiny_parts, "rate_levels": (3,)})
    await peer.stop()
    await runs.spooled(peer, 2)
    await runs.spooled(peer, 2, bundle=other.path)
    await peer.start()
    summary = await runs.to_the_end(peer, 1)  # back to the first
    assert [call.sequences for call in peer.calls] == [[1, 2], [3, 4], [5]]
    ids = [call.open.bitstream_id for call in peer.calls]
    assert ids == [tiny_bundle.bitstream_id, other.bitstream_id, tiny_bundle.bitstream_id]
    assert len({call.open.session_id for call in peer.calls}) == 1
    assert [frame.number for frame in peer.frames] == [0, 1, 2, 3, 4]
    assert (summary["sent"], summary["acked"]) == (5, 5)


async def test_frames_of_another_size_begin_a_session_after_the_old_one_is_sent(
    peer: Peer, runs: Runs
) -> None:
    await peer.stop()
    await runs.spooled(peer, 2)
    await peer.start()
    await runs.to_the_end(peer, 2, width=48)
    assert [call.sequences for call in peer.calls] == [[1, 2], [1, 2]]
    assert [call.open.geometry.width for call in peer.calls] == [40, 48]
    assert len({call.open.session_id for call in peer.calls}) == 2


@pytest.mark.usefixtures("tiny_spool")
async def test_a_full_spool_drops_and_counts_what_is_new_and_recovers(peer: Peer, runs: Runs) -> None:
    await peer.stop()
    node, source = runs.make(peer)
    with capture_logs() as logs:
        work = asyncio.create_task(run(node))
        await until(lambda: node.spool_bytes > 0)
        while not node.account.drops["spool_full"]:
            await source.give(10)
            await until(lambda: node.account.coded == node.account.captured)
        kept = node.spool_frames
        await peer.start()
        await until(lambda: node.spool_frames == 0)
        await source.give(2)
        source.close()
        summary = await work
    assert peer.call.sequences == list(range(1, kept + 3))
    dropped = summary["dropped"]
    assert [frame.message.dropped_before for frame in peer.frames] == [0] * kept + [dropped, 0]
    assert summary["captured"] == kept + 2 + dropped
    events = [log["event"] for log in logs]
    assert events.count("spool full") == 1, "not one line for each frame"
    assert "the spool has room again" in events


@pytest.mark.usefixtures("tiny_spool")
async def test_a_source_that_can_wait_loses_nothing_to_a_full_spool(peer: Peer, runs: Runs) -> None:
    await peer.stop()
    node, source = runs.make(peer, pace="credit", queue_frames=1)
    work = asyncio.create_task(run(node))
    giving = asyncio.create_task(source.give(200))
    await until(lambda: node.account.captured > 0 and node.waiting > node.spool_frames > 50)
    await peer.start()
    await giving
    source.close()
    summary = await work
    assert (summary["captured"], summary["sent"], summary["dropped"]) == (200, 200, 0)
    assert peer.call.sequences == list(range(1, 201))


async def test_a_disk_without_room_for_a_delete_holds_frames_up_and_loses_none(
    peer: Peer, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledge, full = Spool.acknowledge, True
    deleted: list[int] = []

    def refuse(spool: Spool, session_id: bytes, up_to_sequence: int) -> int:
        if full and up_to_sequence:
            raise StoreFullError("the disk is full; free some of it")
        deleted.append(up_to_sequence)
        return acknowledge(spool, session_id, up_to_sequence)

    monkeypatch.setattr(Spool, "acknowledge", refuse)
    monkeypatch.setattr(spooled, "_FULL_RETRY_S", 0.01)
    async with runs.running(peer) as (node, source):
        await source.give(1)
        await until(lambda: node.account.acked == 1)
        peer.call.cut()
        await until(lambda: not node.connected)
        await source.give(1)
        full = False
        await until(lambda: 2 in deleted)
        full = True
        await source.give(1)
        await until(lambda: node.account.acked == 3)
    assert [frame.sequence for frame in peer.frames] == [1, 2, 3]
    assert checked(node)["sent"] == 3
    assert runs.left() == 1, "acknowledged again in the next run"


async def test_a_node_cancelled_while_a_frame_goes_to_disk_accounts_for_it(
    peer: Peer, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    appending, go_on = threading.Event(), threading.Event()
    append = Spool.append

    def slow_append(spool: Spool, *args: Any, **more: Any) -> int:
        appending.set()
        assert go_on.wait(PATIENCE_S)
        return append(spool, *args, **more)

    monkeypatch.setattr(Spool, "append", slow_append)
    node, source = runs.make(peer)
    work = asyncio.create_task(node.run(quietly))
    await source.give(1)
    assert await asyncio.to_thread(appending.wait, PATIENCE_S)
    work.cancel()
    asyncio.get_running_loop().call_later(0.05, go_on.set)
    await asyncio.wait({work})
    source.close()
    summary = node.summary()
    assert [summary[name] for name in ("captured", "sent", "dropped", "waiting")] == [1, 0, 0, 1]
    assert runs.left() == 1


async def test_the_rate_learns_that_frames_wait_for_the_link(
    peer: Peer, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    choose = RateController.choose

    def choose_and_tell(rate: RateController, *args: Any, behind: bool, **more: Any) -> int | None:
        told.append(behind)
        return choose(rate, *args, behind=behind, **more)

    monkeypatch.setattr(RateController, "choose", choose_and_tell)
    peer.ack_each, peer.credit = False, Credit(max_frames=2, max_bytes=1 << 20)
    async with runs.running(peer) as (node, source):
        for sent in (1, 2, 2, 2):
            await source.give(1)
            await until(lambda: node.spool_frames == node.account.captured)
            await peer.until_frames(sent)
        peer.ack_each = True
        await peer.call.ack(2)
        await peer.until_frames(4)
    assert told == [False, False, False, True]


async def test_a_node_that_fetches_bundles_records_while_its_decoder_is_down(
    peer: Peer, runs: Runs, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    await peer.stop()
    cache = tmp_path / "bundles"
    shutil.copytree(tiny_bundle.path, cache / tiny_bundle.bitstream_id.hex())
    (cache / ".last").write_text(tiny_bundle.bitstream_id.hex())
    node = await runs.spooled(peer, 3, bundle=None, fetch_bundle=True, bundle_cache=cache)
    assert node.spool_frames == 3
