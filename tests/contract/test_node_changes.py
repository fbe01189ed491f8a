"""What changes under a running node: its certificate, its bundle and its rate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encoder_service import link
from encoder_service import node as node_module
from encoder_service.camera import CameraRole
from encoder_service.frames import Coded
from encoder_service.rate_control import FixedLevel
from ndsc.codec.bundle import Bundle, write_bundle
from ndsc.codec.codec import FrameEncoder
from ndsc.codec.errors import BundleError
from ndsc.service import errors
from ndsc.service.tls import server_credentials, watch_certificates
from ndsc.service.watched import KeyFileError
from tests import pki
from tests.contract.encoder_peer import AMPLE, NONE, Nodes, Peer, ScriptedSource, picture, run, serve

LIVE: dict[str, Any] = {"source": "camera:x", "pace": "realtime", "queue_frames": 32, "max_age_ms": 60_000}


@pytest.fixture
def other_bundle(tiny_parts: dict[str, Any], tmp_path: Path) -> Bundle:
    """A bundle of another bitstream, which has one rate level alone."""
    return write_bundle(tmp_path / "other", **{**tiny_parts, "rate_levels": (3,)})


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle) -> list[Bundle | Exception]:
    """What the decoder would rather have: each fetch takes one, the last one again and again."""
    bundles: list[Bundle | Exception] = [tiny_bundle]

    async def fetch(*_: Any, **__: Any) -> Path:
        bundle = bundles.pop(0) if len(bundles) > 1 else bundles[0]
        if isinstance(bundle, Exception):
            raise bundle
        return bundle.path

    monkeypatch.setattr(node_module, "fetch_bundle", fetch)
    monkeypatch.setattr(node_module, "_BUNDLE_CHANGE_SPREAD_S", 0.0)
    return bundles


async def give_until(scripted: ScriptedSource, condition: Callable[[], bool]) -> None:
    """Give one frame after another."""
    async with asyncio.timeout(10):
        while not condition():
            await scripted.give(1)
            await asyncio.sleep(0.005)


async def test_a_renewed_certificate_is_shown_in_another_call(
    scripted: ScriptedSource, make_node: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_CERTIFICATES_LOOK_S", 0.05)
    authority = pki.Authority(tmp_path / "pki")
    server = watch_certificates(authority.server())
    files = authority.node()
    async with serve(Peer(credentials=server_credentials(server, require_client_certificate=True))) as peer:
        work = asyncio.create_task(run(make_node(peer, **LIVE, certificates=watch_certificates(files))))
        await scripted.give(2)
        await peer.until_frames(2)
        first = peer.call
        assert files.certificate is not None
        authority.node(folder=files.certificate.parent)
        await peer.until_calls(2)
        await scripted.give(1)
        scripted.close()
        summary = await work
    assert first.half_closed, "nothing was wrong with the call before"
    assert first.certificate != peer.call.certificate
    assert peer.call.sequences == [3]
    assert (summary["captured"], summary["acked"], summary["unknown"]) == (3, 3, 0)


async def test_a_certificate_for_another_camera_is_refused_before_anything_is_sent(
    peer: Peer, make_node: Nodes, tmp_path: Path
) -> None:
    files = pki.Authority(tmp_path / "pki").node(name="right")
    with pytest.raises(KeyFileError, match="give the certificate that was issued for it"):
        make_node(peer, **LIVE, certificates=watch_certificates(files))


async def test_a_preferred_bundle_is_changed_over_to_without_losing_a_frame(
    peer: Peer,
    scripted: ScriptedSource,
    make_node: Nodes,
    offered: list[Bundle | Exception],
    tiny_bundle: Bundle,
    other_bundle: Bundle,
) -> None:
    offered.append(other_bundle)
    peer.preferred = other_bundle.bitstream_id
    node = make_node(peer, **LIVE, fetch_bundle=True, bundle=None)
    work = asyncio.create_task(run(node))
    await give_until(scripted, lambda: len(peer.calls) > 1 and len(peer.call.frames) > 2)
    scripted.close()
    summary = await work

    first, second = peer.calls
    assert first.open.bitstream_id == tiny_bundle.bitstream_id
    assert second.open.bitstream_id == other_bundle.bitstream_id
    assert first.open.session_id == second.open.session_id
    assert first.half_closed
    assert [frame.sequence for frame in peer.frames] == list(range(1, summary["captured"] + 1))
    assert [frame.number for frame in peer.frames] == list(range(summary["captured"]))
    assert (summary["dropped"], summary["unknown"]) == (0, 0)
    for call, bundle in ((first, tiny_bundle), (second, other_bundle)):
        encoder = FrameEncoder(bundle)
        for frame in call.frames:
            level = frame.message.rate_level
            assert frame.message.payload == encoder.encode(picture(frame.number), level).payload
    assert node.rate is not None
    assert node.rate.rate == FixedLevel(0), "the new bundle has no middle level"


@pytest.mark.parametrize("changes_first", [True, False])
async def test_a_frame_in_hand_survives_a_change_to_fewer_levels(
    peer: Peer,
    scripted: ScriptedSource,
    make_node: Nodes,
    other_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    changes_first: bool,
) -> None:
    node = make_node(peer, **LIVE)
    loop = asyncio.get_running_loop()
    code = CameraRole.code

    def change_meanwhile(role: CameraRole, *args: Any) -> Coded:
        if changes_first:
            role.change_bundle(other_bundle)
        coded = code(role, *args)
        role.change_bundle(other_bundle)
        assert node.rate is not None
        loop.call_soon_threadsafe(node.rate.change_bundle, role.rate_levels)
        return coded

    work = asyncio.create_task(run(node))
    await peer.until_calls(1)
    assert node.rate is not None
    node.rate.rate = FixedLevel(2)
    monkeypatch.setattr(CameraRole, "code", change_meanwhile)
    await scripted.give(1)
    await peer.until_frames(1)
    scripted.close()
    await work
    assert peer.frames[0].message.rate_level == (0 if changes_first else 2)


async def test_a_bundle_that_cannot_be_had_leaves_the_old_one_and_the_stream_alone(
    peer: Peer,
    scripted: ScriptedSource,
    make_node: Nodes,
    offered: list[Bundle | Exception],
    tiny_bundle: Bundle,
    other_bundle: Bundle,
) -> None:
    offered += [BundleError("it ends early"), other_bundle]
    peer.preferred = other_bundle.bitstream_id
    work = asyncio.create_task(run(make_node(peer, **LIVE, fetch_bundle=True, bundle=None)))
    await peer.until_calls(1)
    await scripted.give(2)
    await peer.until_frames(2)
    peer.call.cut()
    await give_until(scripted, lambda: len(peer.calls) > 2)
    scripted.close()
    summary = await work
    assert [call.open.bitstream_id for call in peer.calls] == [
        tiny_bundle.bitstream_id,
        tiny_bundle.bitstream_id,
        other_bundle.bitstream_id,
    ]
    assert summary["captured"] == summary["acked"]


async def test_a_decoder_that_no_longer_serves_the_bundle_gets_frames_of_another(
    peer: Peer,
    scripted: ScriptedSource,
    make_node: Nodes,
    offered: list[Bundle | Exception],
    other_bundle: Bundle,
) -> None:
    offered.append(other_bundle)
    node = make_node(peer, **LIVE, fetch_bundle=True, bundle=None)
    work = asyncio.create_task(run(node))
    await scripted.give(2)
    await peer.until_frames(2)
    peer.refusals = iter([(errors.BITSTREAM_UNKNOWN, "not served here")])
    peer.knows_session = False
    peer.call.cut()
    await peer.until_calls(2)
    await scripted.give(1)
    scripted.close()
    summary = await work
    assert peer.call.open.bitstream_id == other_bundle.bitstream_id
    assert peer.call.sequences == [3]
    assert (summary["captured"], summary["acked"]) == (3, 3)


async def test_a_frame_coded_for_a_bundle_that_is_gone_does_not_hold_up_the_others(
    peer: Peer,
    scripted: ScriptedSource,
    make_node: Nodes,
    offered: list[Bundle | Exception],
    other_bundle: Bundle,
) -> None:
    offered.append(other_bundle)
    peer.ack_each = False
    node = make_node(peer, **(LIVE | {"max_age_ms": 300}), fetch_bundle=True, bundle=None)
    work = asyncio.create_task(run(node))
    await scripted.give(1)
    await peer.until_frames(1)
    # The frame is to be sent again; then its bundle is gone, before it was.
    peer.credit = NONE
    peer.call.cut()
    await peer.until_calls(2)
    await peer.until_idle()
    peer.serves, peer.ack_each, peer.credit = other_bundle.bitstream_id, True, AMPLE
    peer.call.cut()
    await peer.until_calls(3)
    await scripted.give(1)
    scripted.close()
    summary = await work
    assert peer.call.sequences == [2]
    assert (summary["captured"], summary["acked"], summary["dropped"]) == (2, 1, 1)
