"""Frames: sizes, padding, image files."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ndsc.codec.errors import GeometryError, ImageError, OutputError
from ndsc.codec.frames import (
    Frame,
    Geometry,
    Grid,
    check_frame,
    decode_image,
    encode_image,
    pad,
    read_image,
    to_float,
    to_uint8,
    write_image,
)

GEOMETRY = Geometry(stride=8, max_side=2048, max_pixels=1 << 20)


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [
        (1, 1, Grid(1, 1)),
        (8, 8, Grid(1, 1)),
        (9, 8, Grid(1, 2)),
        (1242, 375, Grid(47, 156)),
        (2048, 512, Grid(64, 256)),
    ],
)
def test_grid_covers_the_frame(width: int, height: int, grid: Grid) -> None:
    assert GEOMETRY.grid(width, height) == grid
    assert GEOMETRY.padded(width, height) == (grid.width * 8, grid.height * 8)
    assert grid.positions == grid.width * grid.height


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (-1, 5), (2049, 1), (1, 2049), (2048, 513)])
def test_geometry_refuses_what_the_bundle_cannot_code(width: int, height: int) -> None:
    for ask in (GEOMETRY.check, GEOMETRY.grid, GEOMETRY.padded):
        with pytest.raises(GeometryError, match=rf"{width}x{height}"):
            ask(width, height)


@given(st.integers(1, 40), st.integers(1, 40))
def test_padding_repeats_the_edge_and_keeps_the_frame(height: int, width: int) -> None:
    frame = np.arange(height * width * 3, dtype=np.int64).astype(np.uint8).reshape(height, width, 3)
    padded = pad(frame, 8)
    assert padded.shape == (-(-height // 8) * 8, -(-width // 8) * 8, 3)
    rows = np.minimum(np.arange(padded.shape[0]), height - 1)
    columns = np.minimum(np.arange(padded.shape[1]), width - 1)
    np.testing.assert_array_equal(padded, frame[rows][:, columns])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        [[1, 2, 3]],
        None,
    ],
)
def test_what_is_no_frame_is_named(wrong: object) -> None:
    with pytest.raises(GeometryError, match="y must be a uint8 RGB array"):
        check_frame(wrong, "y")


def test_float_conversion_returns_every_level() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    pixels = to_float(levels)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == np.float32
    assert pixels.min() == 0
    assert pixels.max() == 1
    np.testing.assert_array_equal(to_uint8(pixels), levels)


def test_rounding_is_half_up_after_clipping() -> None:
    values = np.array([-3, 0.49999 / 255, 0.5 / 255, 1.5 / 255, 254.5 / 255, 1.1, np.inf], np.float32)
    got = to_uint8(np.broadcast_to(values, (3, 1, 7)))
    assert got[0, :, 0].tolist() == [0, 0, 1, 2, 255, 255, 255]


@pytest.mark.parametrize("suffix", ["png", "webp", "PNG"])
def test_lossless_files_return_the_frame(tmp_path: Path, noise_frame: Frame, suffix: str) -> None:
    path = tmp_path / f"frame.{suffix}"
    write_image(path, noise_frame)
    np.testing.assert_array_equal(read_image(path), noise_frame)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg"])
def test_jpeg_is_close(tmp_path: Path, suffix: str) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[:, None, None], (64, 64, 3))
    write_image(tmp_path / f"f.{suffix}", np.ascontiguousarray(smooth))
    error = read_image(tmp_path / f"f.{suffix}").astype(int) - smooth
    assert 0 < np.abs(error).max() <= 4


def test_unknown_suffix_names_the_allowed_ones(tmp_path: Path, noise_frame: Frame) -> None:
    with pytest.raises(ImageError, match=re.escape(".png, .webp, .jpg, .jpeg")):
        write_image(tmp_path / "frame.gif", noise_frame)
    with pytest.raises(ImageError, match="png, webp"):
        encode_image(noise_frame, "exe")
    assert not list(tmp_path.iterdir())


def test_a_frame_too_large_for_the_format_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="16383"):
        encode_image(np.zeros((1, 20000, 3), np.uint8), "webp")


def test_writing_into_a_missing_folder_leaves_nothing(tmp_path: Path, noise_frame: Frame) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        write_image(tmp_path / "absent" / "frame.png", noise_frame)
    assert not list(tmp_path.iterdir())


def test_interrupted_write_keeps_the_old_file(
    tmp_path: Path, noise_frame: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "frame.png"
    write_image(path, noise_frame)
    before = path.read_bytes()
    full_write = Path.write_bytes

    def no_space(self: Path, data: bytes) -> int:
        full_write(self, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(OutputError, match="No space left"):
        write_image(path, noise_frame[:8])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["frame.png"]


def test_grey_alpha_palette_and_deep_images_become_rgb() -> None:
    grey = np.array([[0, 128, 255]], np.uint8)
    as_rgb = grey[:, :, None].repeat(3, 2)
    np.testing.assert_array_equal(decode_image(saved(Image.fromarray(grey), "PNG")), as_rgb)
    deep = grey.astype(np.uint16) * 257
    for image_format in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode_image(saved(Image.fromarray(deep), image_format)), as_rgb)
    colours = np.array([[[10, 20, 30, 0], [40, 50, 60, 255]]], np.uint8)
    np.testing.assert_array_equal(decode_image(saved(Image.fromarray(colours), "PNG")), colours[:, :, :3])
    palette = Image.new("P", (2, 1))
    palette.putpalette([1, 2, 3, 4, 5, 6])
    palette.putpixel((1, 0), 1)
    np.testing.assert_array_equal(
        decode_image(saved(palette, "PNG", transparency=b"\x00\xff")), [[[1, 2, 3], [4, 5, 6]]]
    )
    assert decode_image(saved(Image.new("1", (2, 1), 1), "PNG")).tolist() == [[[255] * 3] * 2]


def test_exif_orientation_is_applied() -> None:
    image = Image.fromarray(np.zeros((2, 3, 3), np.uint8))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    shown = decode_image(saved(image, "PNG", exif=exif))
    assert shown.shape == (3, 2, 3)
    assert shown[0, 1].tolist() == [255, 0, 0]


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixels."""
    chunks = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"")):
        chunks += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return chunks


@pytest.mark.parametrize("side", [8200, 10_000, 60_000])
def test_too_many_declared_pixels_are_refused_before_decoding(side: int) -> None:
    with pytest.raises(ImageError, match="too many"):
        decode_image(png_header(side, side))


def test_pixel_limit_is_the_callers(noise_frame: Frame) -> None:
    data = encode_image(noise_frame, "png")
    assert decode_image(data, max_pixels=37 * 61).shape == (37, 61, 3)
    with pytest.raises(ImageError, match="61x37"):
        decode_image(data, max_pixels=37 * 61 - 1)


def test_unreadable_paths_are_one_clear_line(tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("not an image")
    absent = tmp_path / "absent.png"
    for path, reason in ((absent, "No such file"), (tmp_path, "directory"), (text, "readable")):
        with pytest.raises(ImageError, match=reason) as caught:
            read_image(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


_BASE = np.random.default_rng(1).integers(0, 256, (13, 17, 3), dtype=np.uint8)
_IMAGES = {name: encode_image(_BASE, name) for name in ("png", "jpeg", "webp")}


@given(st.sampled_from(sorted(_IMAGES)), st.data())
def test_damaged_images_raise_nothing_but_image_errors(name: str, data: st.DataObject) -> None:
    whole = bytearray(_IMAGES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    with contextlib.suppress(ImageError):
        check_frame(decode_image(bytes(whole[:cut]), max_pixels=1 << 16))


@pytest.mark.parametrize("name", sorted(_IMAGES))
def test_truncated_images_are_refused(name: str) -> None:
    data = _IMAGES[name]
    for cut in (0, 1, 10, len(data) // 2):
        with pytest.raises(ImageError):
            decode_image(data[:cut])
