"""What stands around a payload on the wire, and that a decoder understands what was left out."""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from encoder_service.camera import CameraMessages
from encoder_service.coder import MESSAGE_BYTES
from encoder_service.frames import CallKey, Numbered
from ndsc.codec.bitstream import CompressedFrame
from ndsc.service.timestamps import to_timestamp
from tests.contract.conftest import StartDecoder, address_of
from tests.contract.decoder_node import CameraNode, camera_open

EPOCH_US = 1_700_000_000_000_000
MOST_AROUND_BYTES = 16
LONGEST_GAP_US = (1 << 34) - 1
"""4.7 hours: a longer gap takes a byte more, until 25 days."""
TEN_HZ_US = 100_000
KEY = CallKey(bytes(16), b"")
ZEROS = bytes((1 << 21) - 1)


def numbered(
    sequence: int, time_us: int, *, payload_bytes: int = 300, dropped_before: int = 0, level: int = 2
) -> Numbered:
    payload = memoryview(ZEROS)[:payload_bytes].tobytes()
    return Numbered(KEY, sequence, time_us, level, payload, dropped_before, 0.0)


gaps_us = st.integers(-LONGEST_GAP_US, LONGEST_GAP_US)


@given(
    first=st.integers(1, 1 << 60),
    gaps=st.lists(gaps_us, min_size=1, max_size=4),
    payload_bytes=st.integers(0, len(ZEROS)),
    dropped_before=st.integers(0, (1 << 21) - 1),
    level=st.integers(0, 127),
)
@example(1, [-LONGEST_GAP_US], len(ZEROS), (1 << 21) - 1, 127)
def test_at_most_16_bytes_stand_around_a_payload(
    first: int, gaps: list[int], payload_bytes: int, dropped_before: int, level: int
) -> None:
    messages = CameraMessages(first, EPOCH_US)
    for number, time_us in enumerate(accumulate(gaps, initial=EPOCH_US)):
        frame = numbered(
            first + number,
            time_us,
            payload_bytes=payload_bytes,
            dropped_before=dropped_before,
            level=level,
        )
        message = messages.request([frame]).frame
        assert message.ByteSize() - len(message.payload) <= MOST_AROUND_BYTES


def test_the_bound_is_reached() -> None:
    def around_bytes(gap_us: int) -> int:
        worst = numbered(1, EPOCH_US + gap_us, payload_bytes=len(ZEROS), dropped_before=(1 << 21) - 1)
        return CameraMessages(1, EPOCH_US).request([worst]).frame.ByteSize() - len(ZEROS)

    assert around_bytes(LONGEST_GAP_US) == MOST_AROUND_BYTES
    assert around_bytes(LONGEST_GAP_US + 1) == MOST_AROUND_BYTES + 1


@pytest.mark.parametrize(("payload_bytes", "around_bytes"), [(100, 8), (300, 9), (20_000, 10)])
def test_ten_frames_a_second_take_less(payload_bytes: int, around_bytes: int) -> None:
    """Two bytes for the level, four for the time, the rest for the payload's length."""
    messages = CameraMessages(1, EPOCH_US)
    sizes = [
        messages.request(
            [numbered(sequence, EPOCH_US + sequence * TEN_HZ_US, payload_bytes=payload_bytes)]
        ).frame.ByteSize()
        for sequence in range(1, 50)
    ]
    assert {size - payload_bytes for size in sizes} == {around_bytes}
    assert around_bytes <= MESSAGE_BYTES


def test_a_sequence_is_stated_after_a_gap_alone() -> None:
    messages = CameraMessages(7, EPOCH_US)
    request = messages.request([numbered(sequence, EPOCH_US) for sequence in (7, 8, 12, 13, 14)])
    assert [frame.sequence for frame in request.frames.frames] == [0, 0, 12, 0, 0]


@pytest.mark.parametrize("batch_frames", [1, 3])
async def test_a_decoder_reads_the_sequences_and_times_that_went_in(
    start_decoder: StartDecoder, compressed: CompressedFrame, tmp_path: Path, batch_frames: int
) -> None:
    gaps_us = [0, TEN_HZ_US, 1, LONGEST_GAP_US, -TEN_HZ_US, 0]
    times_us = list(accumulate(gaps_us, initial=EPOCH_US))[1:]
    sequences = [5, 6, 9, 10, 300, 301]  # some were given up
    history = tmp_path / "history"
    decoder = await start_decoder(history=history, pair_wait_ms=0, credit_frames=10)
    async with CameraNode.connect(address_of(decoder)) as node:
        opened = await node.open(
            camera_open(compressed, next_sequence=5, capture_epoch=to_timestamp(EPOCH_US))
        )
        messages = CameraMessages(opened.opened.next_sequence, EPOCH_US)
        frames = [
            Numbered(KEY, sequence, time_us, compressed.rate_level, compressed.payload, 0, 0.0)
            for sequence, time_us in zip(sequences, times_us, strict=True)
        ]
        for start in range(0, len(frames), batch_frames):
            await node.write(messages.request(frames[start : start + batch_frames]))
        await node.finish()
    events = [json.loads(line) for line in history.read_text().splitlines()]
    decoded = [event for event in events if event["event"] == "decoded"]
    assert [event["sequence"] for event in decoded] == sequences
    assert [event["capture_time_us"] for event in decoded] == times_us
