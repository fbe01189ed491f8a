"""Evaluation: what is coded, what the decoder sees, and that every figure is measured on real bytes."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ndsc.codec.bitstream import CompressedFrame, to_bytes
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.errors import FrameFileError, GeometryError, ImageError
from ndsc.codec.frames import Frame, read_image, write_image
from ndsc.evaluate import (
    Evaluation,
    ImageResult,
    PairsError,
    RatePoint,
    evaluate,
    list_pairs,
    ms_ssim,
    psnr,
    psnr_float,
)
from ndsc.evaluate.wire import frame_message_bytes
from ndsc.v1.frame_stream_pb2 import Frame as FrameMessage

FIELDS = ["rate", "payload_bpp", "frame_bpp", "psnr", "psnr_float", "ms_ssim", "encode_ms", "decode_ms"]


def make_pairs(directory: Path, *sizes: tuple[int, int], seed: int = 0) -> Path:
    """One pair of blocky noise for each (height, width), named 0, 1, …"""
    rng = np.random.default_rng(seed)
    for side in ("left", "right"):
        (directory / side).mkdir(parents=True)
        for name, (height, width) in enumerate(sizes):
            blocks = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
            frame = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
            write_image(directory / side / f"{name}.png", frame)
    return directory


@pytest.fixture
def sides_seen(monkeypatch: pytest.MonkeyPatch) -> list[Frame | None]:
    """Side information of every decode, in order; the first belongs to the warm-up."""
    seen: list[Frame | None] = []
    decode_float = FrameDecoder.decode_float

    def spy(
        self: FrameDecoder, frame: CompressedFrame, side_information: Frame | None = None
    ) -> NDArray[np.float32]:
        seen.append(side_information)
        return decode_float(self, frame, side_information)

    monkeypatch.setattr(FrameDecoder, "decode_float", spy)
    return seen


def sides_by_pair(seen: list[Frame | None], bundle: Bundle) -> list[Frame | None]:
    """The side information of each pair's first decode, the warm-up left out."""
    return seen[1 :: bundle.rate_level_count]


def payload_bytes(frame: CompressedFrame) -> int:
    return len(frame.payload)


def test_every_figure_is_what_the_codec_gives(tiny_bundle: Bundle, tmp_path: Path) -> None:
    directory = make_pairs(tmp_path, (112, 120), (113, 130))
    result = evaluate(tiny_bundle, [directory], frame_bytes=lambda frame: len(frame.payload) + 11)

    encoder, decoder = FrameEncoder(tiny_bundle), FrameDecoder(tiny_bundle)
    assert [point.rate for point in result.points] == list(range(tiny_bundle.rate_level_count))
    for point in result.points:
        assert [image.name for image in point.images] == ["0", "1"]
        for image, pair in zip(point.images, list_pairs(directory), strict=True):
            source, side = read_image(pair.left), read_image(pair.right)
            frame = encoder.encode(source, point.rate)
            pixels = source.shape[0] * source.shape[1]
            assert image.rate == point.rate
            assert image.payload_bpp == pytest.approx(8 * len(frame.payload) / pixels)
            assert image.frame_bpp == pytest.approx(8 * (len(frame.payload) + 11) / pixels)
            # 8-bit figures come from the very output that decode() gives a user.
            output = decoder.decode(frame, side)
            assert image.psnr == pytest.approx(psnr(source, output))
            assert image.ms_ssim == pytest.approx(ms_ssim(source, output))
            assert image.psnr_float == pytest.approx(
                psnr_float(source / 255, decoder.decode_float(frame, side))
            )
            assert image.encode_ms > 0
            assert image.decode_ms > 0


def test_a_point_is_the_mean_of_its_images(tiny_bundle: Bundle, tmp_path: Path) -> None:
    directory = make_pairs(tmp_path, (112, 120), (160, 112), (128, 128))
    for point in evaluate(tiny_bundle, [directory], frame_bytes=payload_bytes).points:
        for field in FIELDS:
            expected = fmean(getattr(image, field) for image in point.images)
            assert getattr(point, field) == pytest.approx(expected), field


def test_json_has_exactly_the_documented_fields(tiny_bundle: Bundle, tmp_path: Path) -> None:
    directory = make_pairs(tmp_path, (112, 120), (16, 24))
    result = evaluate(tiny_bundle, [directory], frame_bytes=payload_bytes, side_information="none")
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert record == result.to_json()
    points = record.pop("points")
    assert record == {
        "pairs": 2,
        "protocol": "native",
        "side_information": "none",
        "late": 0,
        "rows": 0,
        "bundle_id": tiny_bundle.bundle_id,
        "bitstream_id": tiny_bundle.bitstream_id.hex(),
    }
    assert len(points) == tiny_bundle.rate_level_count
    for point in points:
        assert list(point) == [*FIELDS, "images"]
        assert [list(image) for image in point["images"]] == [["name", *FIELDS]] * 2


def test_frames_too_small_for_ms_ssim_have_none(tiny_bundle: Bundle, tmp_path: Path) -> None:
    directory = make_pairs(tmp_path, (112, 112), (111, 112))
    for point in evaluate(tiny_bundle, [directory], frame_bytes=payload_bytes).points:
        assert point.images[0].ms_ssim is not None
        assert point.images[1].ms_ssim is None
        assert point.ms_ssim is None


def test_an_infinite_psnr_is_null_in_json() -> None:
    lossless = ImageResult(
        name="0", rate=0, payload_bpp=1.0, frame_bpp=1.5, psnr=math.inf, psnr_float=40.0, ms_ssim=1.0,
        encode_ms=1.0, decode_ms=1.0,
    )  # fmt: skip
    point = RatePoint.of([lossless, replace(lossless, name="1", psnr=30.0)])
    record = Evaluation(2, "native", "right", 0, 0, "b", "00", (point,)).to_json()
    assert record["points"][0]["psnr"] is None
    assert [image["psnr"] for image in record["points"][0]["images"]] == [None, 30.0]
    assert record["points"][0]["psnr_float"] == 40.0


def test_decoding_starts_from_the_bytes_of_a_frame_file(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(frame: CompressedFrame) -> bytes:
        data = bytearray(to_bytes(frame))
        data[-6] ^= 1
        return bytes(data)

    # The package's attribute of this name is the function.
    module = importlib.import_module("ndsc.evaluate.evaluate")
    monkeypatch.setattr(module, "to_bytes", damaged)
    with pytest.raises(FrameFileError):
        evaluate(tiny_bundle, [make_pairs(tmp_path, (16, 16))], frame_bytes=payload_bytes)


def test_right_side_information_is_the_pairs_own(
    tiny_bundle: Bundle, tmp_path: Path, sides_seen: list[Frame | None]
) -> None:
    directory = make_pairs(tmp_path, (16, 24), (24, 16))
    evaluate(tiny_bundle, [directory], frame_bytes=payload_bytes, side_information="right")
    assert len(sides_seen) == 1 + 2 * tiny_bundle.rate_level_count
    for seen, pair in zip(sides_by_pair(sides_seen, tiny_bundle), list_pairs(directory), strict=True):
        assert seen is not None
        assert np.array_equal(seen, read_image(pair.right))


def test_no_side_information(tiny_bundle: Bundle, tmp_path: Path, sides_seen: list[Frame | None]) -> None:
    directory = make_pairs(tmp_path, (16, 24), (24, 16))
    (directory / "right" / "0.png").write_bytes(b"never read")
    evaluate(tiny_bundle, [directory], frame_bytes=payload_bytes, side_information="none")
    assert sides_seen == [None] * (1 + 2 * tiny_bundle.rate_level_count)


def test_wrong_side_information_is_half_the_list_away(
    tiny_bundle: Bundle, tmp_path: Path, sides_seen: list[Frame | None]
) -> None:
    first = make_pairs(tmp_path / "first", (16, 24), (16, 24), (16, 24))
    second = make_pairs(tmp_path / "second", (16, 24), (16, 24), seed=1)
    result = evaluate(tiny_bundle, [second, first], frame_bytes=payload_bytes, side_information="wrong")
    pairs = [*list_pairs(second), *list_pairs(first)]
    assert result.pairs == 5
    for point in result.points:
        assert [image.name for image in point.images] == ["0", "1", "0", "1", "2"]
    for seen, i in zip(sides_by_pair(sides_seen, tiny_bundle), [2, 3, 4, 0, 1], strict=True):
        assert seen is not None
        assert np.array_equal(seen, read_image(pairs[i].right))


def test_a_black_camera_is_black(tiny_bundle: Bundle, tmp_path: Path, sides_seen: list[Frame | None]) -> None:
    directory = make_pairs(tmp_path, (16, 24), (24, 16))
    evaluate(tiny_bundle, [directory], frame_bytes=payload_bytes, side_information="black")
    black = sides_by_pair(sides_seen, tiny_bundle)
    assert [side.shape for side in black if side is not None] == [(16, 24, 3), (24, 16, 3)]
    assert not any(side.any() for side in black if side is not None)


def test_late_side_information_is_that_of_pairs_before(
    tiny_bundle: Bundle, tmp_path: Path, sides_seen: list[Frame | None]
) -> None:
    directory = make_pairs(tmp_path, *[(16, 24)] * 5)
    result = evaluate(tiny_bundle, [directory], frame_bytes=payload_bytes, late=2)
    assert result.pairs == 3
    assert [image.name for image in result.points[0].images] == ["2", "3", "4"]
    pairs = list_pairs(directory)
    for side, pair in zip(sides_by_pair(sides_seen, tiny_bundle), pairs[:3], strict=True):
        assert np.array_equal(side, read_image(pair.right))  # type: ignore[arg-type]


def test_late_side_information_stays_in_its_folder(
    tiny_bundle: Bundle, tmp_path: Path, sides_seen: list[Frame | None]
) -> None:
    folders = [make_pairs(tmp_path / name, *[(16, 24)] * 3, seed=seed) for seed, name in enumerate("ab")]
    result = evaluate(tiny_bundle, folders, frame_bytes=payload_bytes, late=1)
    assert result.pairs == 4
    expected = [pair for folder in folders for pair in list_pairs(folder)[:2]]
    for side, pair in zip(sides_by_pair(sides_seen, tiny_bundle), expected, strict=True):
        assert np.array_equal(side, read_image(pair.right))  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [3, -3])
def test_side_information_is_moved_by_rows(
    rows: int, tiny_bundle: Bundle, tmp_path: Path, sides_seen: list[Frame | None]
) -> None:
    directory = make_pairs(tmp_path, (16, 24))
    evaluate(tiny_bundle, [directory], frame_bytes=payload_bytes, rows=rows)
    (side,) = sides_by_pair(sides_seen, tiny_bundle)
    right = read_image(list_pairs(directory)[0].right)
    assert side is not None
    kept = (side[3:], right[:-3]) if rows > 0 else (side[:-3], right[3:])
    edge = (side[:3], right[:1]) if rows > 0 else (side[-3:], right[-1:])
    assert np.array_equal(*kept)
    assert (edge[0] == edge[1]).all()


def test_wrong_side_information_is_fitted_at_the_bottom_and_right(
    tiny_bundle: Bundle, tmp_path: Path, sides_seen: list[Frame | None]
) -> None:
    directory = make_pairs(tmp_path, (16, 40), (24, 32))
    evaluate(tiny_bundle, [directory], frame_bytes=payload_bytes, side_information="wrong")
    right = [read_image(pair.right) for pair in list_pairs(directory)]
    for_first, for_second = sides_by_pair(sides_seen, tiny_bundle)
    assert for_first is not None
    assert for_second is not None
    assert for_first.shape == (16, 40, 3)
    assert np.array_equal(for_first[:, :32], right[1][:16])
    assert (for_first[:, 32:] == right[1][:16, -1:]).all()
    assert for_second.shape == (24, 32, 3)
    assert np.array_equal(for_second[:16], right[0][:, :32])
    assert (for_second[16:] == right[0][-1, :32]).all()


def test_both_frames_go_through_the_protocol(
    tiny_bundle: Bundle, tmp_path: Path, sides_seen: list[Frame | None]
) -> None:
    directory = make_pairs(tmp_path, (375, 750))
    result = evaluate(tiny_bundle, [directory], frame_bytes=payload_bytes, protocol="kitti128")
    assert result.protocol == "kitti128"
    assert {side.shape for side in sides_seen if side is not None} == {(128, 256, 3)}
    (image,) = result.points[0].images
    assert image.payload_bpp * 128 * 256 / 8 == pytest.approx(round(image.payload_bpp * 128 * 256 / 8))
    assert image.ms_ssim is not None


def test_progress_counts_every_coded_frame(tiny_bundle: Bundle, tmp_path: Path) -> None:
    directory = make_pairs(tmp_path, (16, 16), (16, 16))
    calls: list[tuple[int, int]] = []
    evaluate(
        tiny_bundle,
        [directory],
        frame_bytes=payload_bytes,
        progress=lambda done, total: calls.append((done, total)),
    )
    total = 2 * tiny_bundle.rate_level_count
    assert calls == [(done, total) for done in range(1, total + 1)]


def test_outputs_are_what_the_figures_are_of(tiny_bundle: Bundle, tmp_path: Path) -> None:
    directory = make_pairs(tmp_path, (16, 16), (24, 16))
    seen: list[tuple[Frame, Frame]] = []
    result = evaluate(
        tiny_bundle,
        [directory],
        frame_bytes=payload_bytes,
        outputs=lambda source, output: seen.append((source, output)),
    )
    images = [point.images[number] for number in range(2) for point in result.points]
    assert [psnr(*both) for both in seen] == [image.psnr for image in images]


def with_one_pair(directory: Path) -> dict[str, Any]:
    return {"directories": [make_pairs(directory, (16, 16))], "side_information": "wrong"}


def with_no_folder(directory: Path) -> dict[str, Any]:
    return {"directories": []}


def with_a_missing_partner(directory: Path) -> dict[str, Any]:
    pairs = make_pairs(directory, (16, 16), (16, 16))
    (pairs / "right" / "1.png").unlink()
    return {"directories": [pairs]}


def with_small_frames(directory: Path) -> dict[str, Any]:
    return {"directories": [make_pairs(directory, (128, 256))], "protocol": "kitti128"}


def with_a_right_frame_of_another_size(directory: Path) -> dict[str, Any]:
    pairs = make_pairs(directory, (16, 16))
    write_image(pairs / "right" / "0.png", np.zeros((16, 24, 3), np.uint8))
    return {"directories": [pairs]}


def with_a_file_that_is_no_image(directory: Path) -> dict[str, Any]:
    pairs = make_pairs(directory, (16, 16))
    (pairs / "left" / "0.png").write_bytes(b"no image")
    return {"directories": [pairs]}


def with_an_unknown_protocol(directory: Path) -> dict[str, Any]:
    return {"directories": [make_pairs(directory, (16, 16))], "protocol": "kitti"}


def with_more_delay_than_pairs(directory: Path) -> dict[str, Any]:
    return {"directories": [make_pairs(directory, (16, 16))], "late": 1}


def with_a_late_black(directory: Path) -> dict[str, Any]:
    return {"directories": [make_pairs(directory, *[(16, 16)] * 2)], "side_information": "black", "late": 1}


def with_a_delay_below_zero(directory: Path) -> dict[str, Any]:
    return {"directories": [make_pairs(directory, (16, 16))], "late": -1}


def with_unknown_side_information(directory: Path) -> dict[str, Any]:
    return {"directories": [make_pairs(directory, (16, 16))], "side_information": "left"}


@pytest.mark.parametrize(
    ("arrange", "error", "says"),
    [
        (with_one_pair, PairsError, "at least two pairs"),
        (with_no_folder, PairsError, "at least one"),
        (with_a_missing_partner, PairsError, "left/1.png: no partner"),
        (with_small_frames, GeometryError, "left/0.png: protocol kitti128 needs"),
        (with_a_right_frame_of_another_size, GeometryError, "left/0.png: side information of 24x16"),
        (with_a_file_that_is_no_image, ImageError, "left/0.png"),
        (with_an_unknown_protocol, ValueError, "kitti128, native"),
        (with_more_delay_than_pairs, PairsError, "more than 1 pairs"),
        (with_a_late_black, PairsError, "black cannot be late"),
        (with_a_delay_below_zero, ValueError, "-1 pairs late"),
        (with_unknown_side_information, ValueError, "right, none, wrong, black"),
    ],
)
def test_bad_input_is_one_line_that_names_it(
    tiny_bundle: Bundle,
    tmp_path: Path,
    arrange: Callable[[Path], dict[str, Any]],
    error: type[Exception],
    says: str,
) -> None:
    with pytest.raises(error) as caught:
        evaluate(tiny_bundle, frame_bytes=payload_bytes, **arrange(tmp_path))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_message_size_is_that_of_a_frame_message() -> None:
    frame = CompressedFrame(bytes(16), rate_level=2, width=256, height=128, payload=bytes(range(200)))
    # In a session at 10 Hz: three bytes of capture time, one of rate level, a two-byte payload length, and a tag
    # for each of the three.
    assert frame_message_bytes(frame) == 200 + 3 + 1 + 2 + 3
    message = FrameMessage(capture_delta_us=100_000, rate_level=2, payload=frame.payload)
    assert len(message.SerializeToString()) == frame_message_bytes(frame)


def test_the_package_brings_no_wire_contract_and_its_wire_module_no_grpc() -> None:
    script = """
import sys, ndsc.evaluate
assert not {"ndsc.v1", "grpc", "torch"} & set(sys.modules)
import ndsc.evaluate.wire
assert not {"grpc", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
