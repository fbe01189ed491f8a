"""ndsc.v1.Image and Timestamp to frames and times, and back."""

from __future__ import annotations

import io

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from ndsc.codec.frames import Frame
from ndsc.service.errors import FIELD_INVALID, IMAGE_INVALID, RefusedError
from ndsc.service.images import answer_format, check_image, from_image, max_image_bytes, to_image
from ndsc.service.timestamps import MAX_TIME_US, from_timestamp, to_timestamp
from ndsc.v1 import types_pb2
from ndsc.v1.types_pb2 import ErrorReason, Image, ImageFormat

RAW, PNG, JPEG = (
    types_pb2.IMAGE_FORMAT_RAW_RGB8,
    types_pb2.IMAGE_FORMAT_PNG,
    types_pb2.IMAGE_FORMAT_JPEG,
)


@pytest.fixture
def frame() -> Frame:
    return np.random.default_rng(3).integers(0, 256, (9, 14, 3), dtype=np.uint8)


@pytest.mark.parametrize("image_format", [RAW, PNG])
def test_lossless_formats(frame: Frame, image_format: ImageFormat) -> None:
    image = to_image(frame, image_format)
    assert (image.format, image.width, image.height) == (image_format, 14, 9)
    np.testing.assert_array_equal(from_image(image, max_pixels=14 * 9), frame)


def test_jpeg_is_near() -> None:
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 4, 3, axis=2).repeat(64, axis=0)
    again = from_image(to_image(ramp, JPEG), max_pixels=4096)
    assert np.abs(again.astype(int) - ramp).mean() < 3


def test_raw_takes_frames_that_are_not_contiguous(frame: Frame) -> None:
    np.testing.assert_array_equal(from_image(to_image(frame[:, ::-1], RAW), max_pixels=1000), frame[:, ::-1])


def test_answers_are_png_unless_asked_otherwise(frame: Frame) -> None:
    assert answer_format(types_pb2.IMAGE_FORMAT_UNSPECIFIED) == PNG
    assert answer_format(JPEG) == JPEG
    assert to_image(frame, types_pb2.IMAGE_FORMAT_UNSPECIFIED).format == PNG
    unknown: ImageFormat = 12  # type: ignore[assignment]
    with pytest.raises(RefusedError) as refused:
        answer_format(unknown)
    assert refused.value.reason == FIELD_INVALID


def _changed(image: Image, **fields: object) -> Image:
    changed = Image()
    changed.CopyFrom(image)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"format": 0}, FIELD_INVALID),
        ({"format": 12}, FIELD_INVALID),
        ({"width": 0}, FIELD_INVALID),
        ({"height": 0}, FIELD_INVALID),
        ({"width": 15}, IMAGE_INVALID),
        ({"width": 9, "height": 14}, IMAGE_INVALID),
        ({"width": 4000, "height": 4000}, IMAGE_INVALID),
        ({"data": b""}, IMAGE_INVALID),
        ({"data": bytes(100)}, IMAGE_INVALID),
        ({"data": bytes(1_000_000)}, IMAGE_INVALID),
        ({"format": JPEG}, IMAGE_INVALID),
        ({"format": RAW}, IMAGE_INVALID),
    ],
)
def test_bad_images(frame: Frame, fields: dict[str, object], reason: ErrorReason) -> None:
    with pytest.raises(RefusedError) as refused:
        from_image(_changed(to_image(frame, PNG), **fields), max_pixels=1000)
    assert refused.value.reason == reason
    assert "\n" not in str(refused.value)


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small PNG that declares many pixels is refused by its header, whatever size was stated."""
    bomb = io.BytesIO()
    PillowImage.new("1", (5000, 5000)).save(bomb, "PNG")
    loaded: list[object] = []
    monkeypatch.setattr(PillowImage.Image, "load", lambda image: loaded.append(image))
    for width, height in ((100, 100), (5000, 5000)):
        image = Image(format=PNG, width=width, height=height, data=bomb.getvalue())
        with pytest.raises(RefusedError) as refused:
            from_image(image, max_pixels=10_000)
        assert refused.value.reason == IMAGE_INVALID
    assert not loaded


def test_a_cut_image_is_refused_at_any_length(frame: Frame) -> None:
    whole = to_image(frame, PNG)
    for length in range(0, len(whole.data) - 16, 7):
        with pytest.raises(RefusedError):
            from_image(_changed(whole, data=whole.data[:length]), max_pixels=1000)


def test_orientation_may_not_swap_the_stated_sides(frame: Frame) -> None:
    turned = PillowImage.fromarray(frame)
    exif = turned.getexif()
    exif[0x0112] = 6
    data = io.BytesIO()
    turned.save(data, "JPEG", exif=exif)
    with pytest.raises(RefusedError, match="upright"):
        from_image(Image(format=JPEG, width=14, height=9, data=data.getvalue()), max_pixels=1000)


def test_noise_fits_the_byte_bound() -> None:
    rng = np.random.default_rng(5)
    for side in (1, 8, 200):
        noise = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        for image_format in (RAW, PNG, JPEG):
            image = to_image(noise, image_format)
            assert len(image.data) <= max_image_bytes(side * side)
            check_image(image, max_pixels=side * side)


@settings(deadline=None)
@given(st.integers(0, MAX_TIME_US))
def test_times_go_there_and_back(time_us: int) -> None:
    assert from_timestamp(to_timestamp(time_us)) == time_us


@pytest.mark.parametrize(
    "timestamp",
    [
        Timestamp(seconds=-1),
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=(1 << 63) - 1),
        Timestamp(nanos=-1),
        Timestamp(nanos=1_000_000_000),
    ],
)
def test_times_that_are_none(timestamp: Timestamp) -> None:
    with pytest.raises(RefusedError) as refused:
        from_timestamp(timestamp)
    assert refused.value.reason == FIELD_INVALID


@pytest.mark.parametrize("time_us", [-1, MAX_TIME_US + 1])
def test_times_that_cannot_be_sent(time_us: int) -> None:
    with pytest.raises(RefusedError):
        to_timestamp(time_us)


def test_nanoseconds_are_cut_off() -> None:
    assert from_timestamp(Timestamp(seconds=1, nanos=999_999)) == 1_000_999
