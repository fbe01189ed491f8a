"""`ndsc record` and `ndsc replay`: what a rig streamed is in the file, and decodes to the same pictures again."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory
from mcap_protobuf.writer import Writer

from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.frames import Frame, decode_image, read_image
from ndsc.recording.errors import RecordingError
from ndsc.recording.reader import Recording
from ndsc.recording.replay import Tally, by_bundles, replay
from ndsc.recording.writer import Recorder
from ndsc.service.images import to_image
from ndsc.service.timestamps import to_timestamp
from ndsc.v1 import types_pb2
from ndsc.v1.decode_pb2 import DecodedFrame, SubscribeResponse
from ndsc.v1.side_information_pb2 import SideInformationFrame, StreamSideInformationRequest
from tests.contract.conftest import StartDecoder, address_of
from tests.contract.decoder_node import (
    EPOCH_US,
    CameraNode,
    SideNode,
    camera_open,
    compressed_message,
    side_open,
)

FRAMES = 4


async def ndsc(*arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "ndsc.cli", *map(str, arguments)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


async def finished(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def recording_begun(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    line = await asyncio.wait_for(process.stderr.readline(), 60)
    assert line.startswith(b"recording rig rig of "), line


@dataclass(frozen=True, eq=False)
class Streamed:
    """What the nodes of a rig sent."""

    frames: list[CompressedFrame]
    sides: list[Frame]
    """As the decoder saw them, after JPEG."""
    jpegs: list[bytes]


async def stream(address: str, encoder: FrameEncoder, picture: Frame, side_picture: Frame) -> Streamed:
    """A camera and its side information, and a second camera without any."""
    streamed = Streamed([], [], [])
    async with (
        SideNode.connect(address) as side,
        CameraNode.connect(address) as left,
        CameraNode.connect(address) as alone,
    ):
        await side.open(side_open(side_picture))
        first = encoder.encode(picture, 0)
        await left.open(camera_open(first, side_information_streams=["right"]))
        await alone.open(camera_open(first, camera="alone"))
        for sequence in range(1, FRAMES + 1):
            image = to_image(np.roll(side_picture, sequence, axis=1), types_pb2.IMAGE_FORMAT_JPEG)
            at = to_timestamp(EPOCH_US + 100_000 * sequence + 7_000)
            message = SideInformationFrame(sequence=sequence, capture_time=at, image=image)
            await side.write(StreamSideInformationRequest(frame=message))
            await side.read()
            frame = encoder.encode(np.roll(picture, sequence, axis=0), sequence % 2)
            await left.send(sequence, frame)
            await alone.send(sequence, frame)
            streamed.frames.append(frame)
            streamed.jpegs.append(image.data)
            streamed.sides.append(decode_image(image.data))
        await left.finish()
        await alone.finish()
    return streamed


@pytest.fixture
async def recorded(
    start_decoder: StartDecoder,
    tiny_encoder: FrameEncoder,
    picture: Frame,
    side_picture: Frame,
    tmp_path: Path,
) -> tuple[Path, Streamed]:
    address = address_of(await start_decoder())
    path = tmp_path / "rig.mcap"
    process = await ndsc("record", address, "--rig", "rig", "-o", path, "--frames", 2 * FRAMES)
    await recording_begun(process)
    streamed = await stream(address, tiny_encoder, picture, side_picture)
    code, out, err = await finished(process)
    assert code == 0, err
    assert f"/rig/left/frames: {FRAMES}\n" in out
    return path, streamed


async def test_the_mcap_package_reads_what_was_streamed(recorded: tuple[Path, Streamed]) -> None:
    path, streamed = recorded
    found: dict[str, list[Any]] = {}
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        for schema, channel, message, decoded in reader.iter_decoded_messages():
            assert channel.message_encoding == "protobuf"
            assert schema is not None
            found.setdefault(f"{channel.topic} {schema.name}", []).append((message, decoded))
    assert {name: len(messages) for name, messages in found.items()} == {
        "/rig/left/frames ndsc.v1.DecodedFrame": FRAMES,
        "/rig/left/image foxglove.CompressedImage": FRAMES,
        "/rig/alone/frames ndsc.v1.DecodedFrame": FRAMES,
        "/rig/alone/image foxglove.CompressedImage": FRAMES,
        "/rig/right/side_information foxglove.CompressedImage": FRAMES,
    }
    frames = [decoded for _, decoded in found["/rig/left/frames ndsc.v1.DecodedFrame"]]
    assert [frame.compressed.payload for frame in frames] == [frame.payload for frame in streamed.frames]
    assert [frame.sequence for frame in frames] == list(range(1, FRAMES + 1))
    assert not any(frame.image.data for frame in frames)
    sides = found["/rig/right/side_information foxglove.CompressedImage"]
    assert [decoded.data for _, decoded in sides] == streamed.jpegs
    assert {decoded.format for _, decoded in sides} == {"jpeg"}
    assert [message.publish_time for message, _ in sides] == [
        1000 * (EPOCH_US + 100_000 * sequence + 7_000) for sequence in range(1, FRAMES + 1)
    ]


async def test_a_replay_is_exact(
    recorded: tuple[Path, Streamed], tiny_bundle_path: Path, tiny_decoder: FrameDecoder, tmp_path: Path
) -> None:
    path, streamed = recorded
    pictures = tmp_path / "pictures"
    process = await ndsc("replay", path, "--bundle", tiny_bundle_path, "--write-frames", pictures, "--json")
    code, out, err = await finished(process)
    assert code == 0, err
    tally = json.loads(out)
    assert (tally["frames"], tally["compared"], tally["exact"]) == (2 * FRAMES,) * 3
    assert not tally["cut_short"]
    for camera in ("left", "alone"):
        (session,) = (pictures / "rig" / camera).iterdir()
        for number, (frame, side) in enumerate(zip(streamed.frames, streamed.sides, strict=True), 1):
            y = side if camera == "left" else None
            np.testing.assert_array_equal(
                read_image(session / f"{number:08d}.png"), tiny_decoder.decode(frame, y)
            )


async def test_a_server_replays_too(recorded: tuple[Path, Streamed], start_decoder: StartDecoder) -> None:
    address = address_of(await start_decoder())
    code, out, err = await finished(await ndsc("replay", recorded[0], "--decoder", address))
    assert code == 0, err
    assert out.startswith(f"{2 * FRAMES} frames decoded again; {2 * FRAMES} compared")


async def test_another_decoder_is_not_compared_and_another_bitstream_refused(
    recorded: tuple[Path, Streamed], tiny_bundle: Bundle, other_bundle: Bundle
) -> None:
    path, _ = recorded
    tally = Tally()

    def renamed(frame: CompressedFrame, side: Frame | None) -> tuple[Frame, str]:
        return 255 - by_bundles([tiny_bundle])(frame, side)[0], "0" * 64

    for one in replay(iter(Recording(path)), renamed):
        tally.add(one)
    assert (tally.another_decoder, tally.compared, tally.largest_difference) == (2 * FRAMES, 0, 0)
    process = await ndsc("replay", path, "--bundle", other_bundle.path)
    code, _, err = await finished(process)
    assert code == 1
    assert err.startswith("error: the recording has frames of bitstream")


async def test_a_picture_that_differs_is_told(recorded: tuple[Path, Streamed], tiny_bundle: Bundle) -> None:
    decode = by_bundles([tiny_bundle])

    def brighter(frame: CompressedFrame, side: Frame | None) -> tuple[Frame, str]:
        image, bundle_id = decode(frame, side)
        return np.where(image < 250, image + 3, image).astype(np.uint8), bundle_id

    tally = Tally()
    for one in replay(iter(Recording(recorded[0])), brighter):
        tally.add(one)
    assert (tally.exact, tally.largest_difference) == (0, 3)


async def test_what_a_crash_leaves_is_replayed(
    recorded: tuple[Path, Streamed], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    path, _ = recorded
    whole = path.read_bytes()
    cut = tmp_path / "cut.mcap"
    # From the data section's end on there is only the index, which a crash leaves out.
    cut.write_bytes(whole[: whole.rindex(b"/rig/left/frames") - 40])
    recording = Recording(cut)
    assert len(list(replay(iter(recording), by_bundles([tiny_bundle])))) == 2 * FRAMES
    assert recording.cut_short
    for data, told in (
        (b"", "no MCAP file"),
        (b"not a recording" * 9, "no MCAP file"),
        (whole[:60], "holds no frame"),
    ):
        cut.write_bytes(data)
        with pytest.raises(RecordingError, match=told):
            list(Recording(cut))
    with pytest.raises(RecordingError, match="cannot be read"):
        list(Recording(tmp_path / "nowhere.mcap"))
    with cut.open("wb") as file, Writer(file) as writer:
        writer.write_message("/another/program", Timestamp(seconds=1))
    with pytest.raises(RecordingError, match="holds no frame"):
        list(Recording(cut))


async def test_no_cut_and_no_flipped_bit_is_more_than_one_clear_error(
    recorded: tuple[Path, Streamed], tmp_path: Path
) -> None:
    path, _ = recorded
    whole = path.read_bytes()
    facts = [frame.facts for frame in Recording(path)]
    spoilt = tmp_path / "spoilt.mcap"
    errors, read = set(), 0

    def spoil(data: bytes) -> None:
        nonlocal read
        spoilt.write_bytes(data)
        found = []
        try:
            for frame in Recording(spoilt):
                found.append(frame.facts)
                read += 1
        except RecordingError as error:
            errors.add(str(error).split(": ", 1)[1].split(" at ")[0])
        assert found == facts[: len(found)]

    for length in (*range(80), *range(80, len(whole), 29)):
        spoil(whole[:length])
    for position in range(0, len(whole), 13):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        spoil(bytes(flipped))
    assert {"damaged", "no MCAP file"} <= errors
    assert not any("\n" in error for error in errors)
    assert read > 0


def pictures_below(folder: Path) -> list[Path]:
    return list(folder.rglob("*.png"))


async def test_a_hostile_recording_leads_nowhere(
    tiny_bundle: Bundle, compressed: CompressedFrame, tmp_path: Path
) -> None:
    path, outside = tmp_path / "hostile.mcap", tmp_path / "outside"
    for rig, camera in ((str(outside), "left"), ("..", "left"), ("rig", "../../outside")):
        path.unlink(missing_ok=True)
        frame = DecodedFrame(rig=rig, camera=camera, compressed=compressed_message(compressed))
        frame.image.CopyFrom(to_image(np.zeros((24, 40, 3), np.uint8), types_pb2.IMAGE_FORMAT_PNG))
        with Recorder(path) as recorder:
            recorder.write(SubscribeResponse(frame=frame))
        process = await ndsc(
            "replay", path, "--bundle", tiny_bundle.path, "--write-frames", tmp_path / "inside" / "deep"
        )
        code, _, err = await finished(process)
        assert code == 1
        assert "is no name of a rig or camera" in err
        assert err.count("\n") == 1
    assert not pictures_below(tmp_path)


async def test_a_picture_of_another_size_is_one_line(
    tiny_bundle: Bundle, compressed: CompressedFrame, tmp_path: Path
) -> None:
    frame = DecodedFrame(rig="rig", camera="left", compressed=compressed_message(compressed))
    frame.bundle_id = bytes.fromhex(tiny_bundle.bundle_id)
    frame.image.CopyFrom(to_image(np.zeros((9, 9, 3), np.uint8), types_pb2.IMAGE_FORMAT_PNG))
    with Recorder(tmp_path / "odd.mcap") as recorder:
        recorder.write(SubscribeResponse(frame=frame))
    with pytest.raises(RecordingError, match=r"a picture of \[9, 9, 3\] was recorded"):
        list(replay(iter(Recording(tmp_path / "odd.mcap")), by_bundles([tiny_bundle])))


async def test_sigterm_ends_a_recording_as_it_should(
    start_decoder: StartDecoder,
    tiny_encoder: FrameEncoder,
    tiny_bundle: Bundle,
    picture: Frame,
    side_picture: Frame,
    tmp_path: Path,
) -> None:
    decoder = await start_decoder()
    path = tmp_path / "rig.mcap"
    process = await ndsc(
        "record", address_of(decoder), "--rig", "rig", "-o", path, "--camera", "left", "--pictures", "jpeg"
    )
    await recording_begun(process)
    await stream(address_of(decoder), tiny_encoder, picture, side_picture)
    await asyncio.sleep(0.5)  # for most of them to arrive
    process.send_signal(signal.SIGTERM)
    code, out, err = await finished(process)
    assert code == 0, err
    assert "/rig/left/frames: " in out
    assert "alone" not in out
    recording = Recording(path)
    tally = Tally()
    for one in replay(iter(recording), by_bundles([tiny_bundle])):
        tally.add(one)
    assert 0 < tally.frames <= FRAMES
    assert tally.without_picture == tally.frames  # JPEG is no picture to compare with
    assert not recording.cut_short
    process = await ndsc("record", address_of(decoder), "--rig", "rig", "-o", path)
    code, _, err = await finished(process)
    assert code == 1
    assert "exists already" in err


@pytest.mark.parametrize("command", ["record", "replay"])
async def test_missing_packages_are_told(command: str) -> None:
    code = (
        "import sys; sys.modules['mcap'] = sys.modules['mcap_protobuf'] = None; "
        "from ndsc.cli import main; sys.argv[0] = 'ndsc'; main()"
    )
    arguments = {"record": ["127.0.0.1:1", "--rig", "rig", "-o", "x.mcap"], "replay": ["x.mcap"]}[command]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, command, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    status, _, err = await finished(process)
    assert status == 1
    assert err.startswith("error: mcap")
    assert err.endswith("is not installed; pip install 'ndsc[recording]'\n")
