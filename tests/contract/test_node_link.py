"""A node's session through lost links, restarts, drains and refusals."""

from __future__ import annotations

import asyncio
import random
from itertools import repeat
from typing import Any

import pytest
from structlog.testing import capture_logs

from encoder_service.uplink import SessionError
from ndsc.service import errors
from ndsc.v1 import types_pb2
from ndsc.v1.types_pb2 import Credit
from tests.contract.encoder_peer import (
    AMPLE,
    PATIENCE_S,
    Nodes,
    Peer,
    ScriptedSource,
    checked,
    run,
)

LIVE: dict[str, Any] = {"source": "camera:x", "pace": "realtime", "queue_frames": 8, "max_age_ms": 60_000}


async def send(peer: Peer, scripted: ScriptedSource, frames: int) -> None:
    """Give frames, and wait until the peer has them."""
    before = len(peer.frames)
    await scripted.give(frames)
    await peer.until_frames(before + frames)


async def test_a_resumed_session_sends_again_what_was_not_acknowledged(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.ack_each = False
    node = make_node(peer, **LIVE)
    work = asyncio.create_task(run(node))
    await send(peer, scripted, 4)
    await peer.call.ack(1)
    peer.done, peer.ack_each = 2, True  # the acknowledgement of 2 is lost with the call
    first = peer.call
    first.cut()
    await peer.until_frames(6)
    await scripted.give(1)
    scripted.close()
    summary = await work
    second = peer.call
    assert second.open.session_id == first.open.session_id
    assert second.open.next_sequence == 2
    assert second.sequences == [3, 4, 5]
    assert [frame.number for frame in second.frames] == [2, 3, 4]
    assert [frame.message.payload for frame in second.frames[:2]] == [
        frame.message.payload for frame in first.frames[2:]
    ]
    assert (summary["captured"], summary["sent"], summary["acked"], summary["calls"]) == (5, 5, 5, 2)


async def test_what_is_too_old_is_not_sent_again(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.ack_each = False
    node = make_node(peer, **(LIVE | {"max_age_ms": 150}))
    work = asyncio.create_task(run(node))
    await send(peer, scripted, 3)
    await peer.until_idle()
    await peer.until_idle()  # 200 ms
    first, peer.ack_each = peer.call, True
    first.cut()
    await peer.until_calls(2)
    await send(peer, scripted, 1)
    scripted.close()
    summary = await work
    assert peer.call.sequences == [4]
    assert peer.call.frames[0].message.dropped_before == 3
    assert (summary["captured"], summary["sent"], summary["dropped"]) == (4, 1, 3)
    assert node.account.drops == {"age": 3}


async def test_what_was_in_flight_to_a_decoder_without_memory_is_unknown_and_never_sent_again(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.ack_each = False
    peer.credit = Credit(max_frames=3, max_bytes=1 << 20)
    node = make_node(peer, **LIVE)
    work = asyncio.create_task(run(node))
    await scripted.give(5)
    await peer.until_frames(3)
    await peer.call.ack(1, Credit(max_frames=2, max_bytes=1 << 20))
    peer.knows_session, peer.ack_each = False, True
    peer.call.cut()
    await peer.until_frames(5)
    scripted.close()
    summary = await work
    assert peer.call.open.next_sequence == 2
    assert peer.call.sequences == [4, 5]
    assert [frame.number for frame in peer.call.frames] == [3, 4]
    assert (summary["sent"], summary["acked"], summary["unknown"], summary["dropped"]) == (5, 3, 2, 0)


async def test_drops_before_a_frame_that_is_lost_are_told_with_a_later_one(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.ack_each, peer.credit = False, Credit()
    work = asyncio.create_task(run(make_node(peer, **(LIVE | {"queue_frames": 1}))))
    await peer.until_calls(1)
    await scripted.give(3)
    await peer.call.ack(0, Credit(max_frames=1, max_bytes=1 << 20))
    await peer.until_frames(1)
    assert peer.frames[0].message.dropped_before == 2
    peer.knows_session, peer.ack_each, peer.credit = False, True, AMPLE
    peer.call.cut()
    await peer.until_calls(2)
    await send(peer, scripted, 1)
    scripted.close()
    summary = await work
    assert peer.call.frames[0].message.dropped_before == 2
    assert (summary["captured"], summary["unknown"], summary["dropped"]) == (4, 1, 2)


async def test_frames_arrive_through_a_restart_of_the_decoder(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    node = make_node(peer, **LIVE)
    connections: list[bool] = []
    lost = asyncio.Event()

    async def on_connection(connected: bool) -> None:
        connections.append(connected)
        if not connected:
            lost.set()

    work = asyncio.create_task(run(node, on_connection))
    await send(peer, scripted, 2)
    await peer.stop()
    await asyncio.wait_for(lost.wait(), PATIENCE_S)
    await scripted.give(2)
    assert (node.connected, node.waiting) == (False, 2)
    peer.knows_session = False
    await peer.start()
    await peer.until_frames(4)
    scripted.close()
    summary = await work
    assert peer.call.sequences == [3, 4]
    assert connections == [True, False, True, False]
    assert (summary["sent"], summary["dropped"], summary["unknown"]) == (4, 0, 0)


async def test_a_decoder_that_drains_gets_no_more_frames_until_it_is_back(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.ack_each = False
    work = asyncio.create_task(run(make_node(peer, **LIVE)))
    await send(peer, scripted, 2)
    first = peer.call
    await first.drain(retry_after_ms=200)
    await peer.until_idle()
    await scripted.give(1)
    await first.ack(1)
    await peer.until_idle()
    assert first.sequences == [1, 2]
    asked_s = asyncio.get_running_loop().time()
    peer.ack_each = True
    await first.ack(2)
    await peer.until(lambda: first.half_closed)
    await peer.until_frames(3)
    assert 0.2 <= asyncio.get_running_loop().time() - asked_s < 2
    scripted.close()
    summary = await work
    assert peer.call.sequences == [3]
    assert (summary["captured"], summary["sent"], summary["acked"]) == (3, 3, 3)


async def test_a_frame_that_waits_for_credit_when_the_decoder_drains_goes_to_the_next_call(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.ack_each = False
    work = asyncio.create_task(run(make_node(peer, **LIVE)))
    await send(peer, scripted, 1)
    first = peer.call
    size_bytes = len(first.frames[0].message.payload)
    await first.ack(0, Credit(max_frames=10, max_bytes=size_bytes + 1))
    await scripted.give(2)
    await peer.until_idle()
    await first.drain()
    peer.ack_each = True
    await first.ack(1)
    await peer.until_frames(3)
    scripted.close()
    await work
    assert [call.sequences for call in peer.calls] == [[1], [2, 3]]


async def test_a_drain_after_the_last_frame_is_the_end(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.ack_each = False
    work = asyncio.create_task(run(make_node(peer, **LIVE)))
    await send(peer, scripted, 2)
    scripted.close()
    await peer.until_idle()
    await peer.call.drain()
    await peer.call.ack(2)
    assert (await work)["calls"] == 1


async def test_a_refusal_that_will_not_change_ends_the_node_with_one_line(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.refusals = repeat((errors.BITSTREAM_UNKNOWN, "no bundle 00ff is served here"))
    with pytest.raises(SessionError, match=r"no bundle 00ff is served here \(BITSTREAM_UNKNOWN\)") as refused:
        await run(make_node(peer, **LIVE))
    assert "\n" not in str(refused.value)
    assert peer.attempts == 1
    scripted.close()


async def test_a_session_that_another_one_supersedes_ends_the_node(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    node = make_node(peer, **LIVE)
    work = asyncio.create_task(run(node))
    await send(peer, scripted, 1)
    peer.call.abort(errors.SESSION_SUPERSEDED, "another node took over")
    with pytest.raises(SessionError, match=r"another node took over \(SESSION_SUPERSEDED\)"):
        await work
    assert checked(node)["sent"] == 1
    scripted.close()


@pytest.fixture
def longest_pauses_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The most that each pause may have been; all are none at all."""
    longest_s: list[float] = []

    def uniform(low: float, high: float) -> float:
        assert low == 0
        longest_s.append(high)
        return 0.0

    monkeypatch.setattr(random, "uniform", uniform)
    return longest_s


@pytest.mark.parametrize("reason", [errors.SESSION_LIMIT, errors.UNAUTHENTICATED, errors.NOT_READY])
async def test_a_refusal_that_may_change_is_tried_again_after_longer_and_longer_pauses(
    peer: Peer,
    scripted: ScriptedSource,
    make_node: Nodes,
    longest_pauses_s: list[float],
    reason: types_pb2.ErrorReason,
) -> None:
    peer.refusals = iter([(reason, "not now")] * 5)
    with capture_logs() as logs:
        work = asyncio.create_task(run(make_node(peer, **LIVE, reconnect_max_s=1.5)))
        await send(peer, scripted, 1)
        assert longest_pauses_s == [0.25, 0.5, 1.0, 1.5, 1.5]
        longest_pauses_s.clear()
        peer.call.cut()
        await peer.until_calls(2)
        scripted.close()
        await work
    assert longest_pauses_s == [0.25], "frames went through, so that this is a new trouble"
    warnings = [log for log in logs if log["event"] == "no session, trying again"]
    assert "not now" in warnings[0]["error"]


async def test_a_decoder_that_opens_calls_and_takes_no_frame_is_left_alone_longer_and_longer(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes, longest_pauses_s: list[float]
) -> None:
    peer.ack_each = False
    work = asyncio.create_task(run(make_node(peer, **LIVE, reconnect_max_s=1.5)))
    await scripted.give(1)
    for calls in (1, 2, 3):
        await peer.until_frames(calls)
        peer.call.abort(errors.STORE_FULL, "the archive is full")
    peer.ack_each = True
    await peer.until_frames(4)
    scripted.close()
    await work
    assert longest_pauses_s == [0.25, 0.5, 1.0]


async def test_a_node_gives_up_after_the_time_it_is_told(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    await peer.stop()
    with pytest.raises(SessionError, match=f"no decoder answers at {peer.address}: start it"):
        await run(make_node(peer, **LIVE, give_up_after_s=0.2))
    await peer.start()
    work = asyncio.create_task(run(make_node(peer, **LIVE, give_up_after_s=0.2)))
    await send(peer, scripted, 1)
    peer.refusals = repeat((errors.NOT_READY, "warming up"))
    peer.call.cut()
    with pytest.raises(SessionError, match=r"warming up \(NOT_READY\)"):
        await work
    scripted.close()


@pytest.mark.parametrize("give_up", [True, False])
async def test_a_decoder_that_vanishes_at_the_end_of_the_source_is_one_line(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes, give_up: bool
) -> None:
    peer.ack_each = False
    node = make_node(peer, **LIVE, drain_seconds=0.3)
    work = asyncio.create_task(run(node))
    await send(peer, scripted, 2)
    if give_up:
        node.stop()
    else:
        scripted.close()
    await peer.until_idle()
    await peer.stop()
    with pytest.raises(SessionError, match="2 frames were not acknowledged") as gone:
        await work
    assert "\n" not in str(gone.value)
    assert (node.account.sent, node.account.in_flight) == (2, 2)


async def test_a_silent_decoder_is_left_for_another_call(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.ack_each = peer.alive = False
    with capture_logs() as logs:
        work = asyncio.create_task(run(make_node(peer, **LIVE)))
        await send(peer, scripted, 1)
        peer.ack_each = True
        await peer.until_frames(2)
        peer.alive = True
        scripted.close()
        assert (await work)["calls"] == 2
    [warning] = [log for log in logs if log["event"] == "no session, trying again"]
    assert "was silent for 0.3 s; 1 frames were not acknowledged" in warning["error"]
    assert warning["session"] == peer.call.open.session_id.hex()[:8]


async def test_a_decoder_that_lives_but_never_acknowledges_is_an_error_at_the_end(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.ack_each = False
    work = asyncio.create_task(run(make_node(peer, **LIVE, drain_seconds=0.3)))
    await send(peer, scripted, 3)
    scripted.close()
    with pytest.raises(SessionError, match=r"acknowledged nothing for 0\.3 s; 3 frames may be lost"):
        await work


async def test_a_decoder_that_does_not_answer_the_open_is_tried_again(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.answers = False
    with capture_logs() as logs:
        work = asyncio.create_task(run(make_node(peer, **LIVE, handshake_timeout_s=0.3)))
        await peer.until_calls(1)
        peer.answers = True
        await send(peer, scripted, 1)
        scripted.close()
        await work
    [warning] = [log for log in logs if log["event"] == "no session, trying again"]
    assert "did not open the session within 0.3 s" in warning["error"]


async def test_a_decoder_that_wants_frames_which_are_done_with_is_an_error(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    work = asyncio.create_task(run(make_node(peer, **LIVE)))
    await send(peer, scripted, 3)
    await peer.until_idle()
    peer.next_sequence = 3
    peer.call.cut()
    with pytest.raises(SessionError, match="wants frame 3, and 4 is the first that this node still holds"):
        await work
    scripted.close()


async def test_an_acknowledgement_of_a_frame_never_sent_is_an_error(
    peer: Peer, scripted: ScriptedSource, make_node: Nodes
) -> None:
    peer.ack_each = False
    work = asyncio.create_task(run(make_node(peer, **LIVE)))
    await send(peer, scripted, 2)
    await peer.call.ack(3)
    with pytest.raises(SessionError, match="acknowledged frame 3, which was never sent"):
        await work
    scripted.close()
