"""The synthetic stereo drive: repeatable, endless, and geometrically a rectified stereo pair."""

import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ndsc.scene import SceneConfig, StereoScene

SMALL = {"width": 96, "height": 48}


def digest(picture: NDArray[np.uint8]) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def scene() -> StereoScene:
    return StereoScene(SceneConfig(seed=4))


def test_a_frame_is_bytes_of_the_stated_shape(scene: StereoScene) -> None:
    left, right = scene.pair(2.0)
    for picture in (left, right):
        assert picture.shape == (128, 256, 3)
        assert picture.dtype == np.uint8
        # A picture worth coding: contrast, and neither black nor burnt out.
        assert picture.std() > 25
        assert ((picture > 5) & (picture < 250)).mean() > 0.9


def test_order_of_calls_does_not_matter() -> None:
    first, second = (StereoScene(SceneConfig(seed=9, **SMALL)) for _ in range(2))
    forward = {t: digest(first.render(t, "left")) for t in (0.0, 31.5, 400.0)}
    backward = {t: digest(second.render(t, "left")) for t in (400.0, 31.5, 0.0)}
    assert forward == backward
    first.render(31.5, "right")
    assert digest(first.render(31.5, "left")) == forward[31.5]
    assert len(set(forward.values())) == 3


def test_another_process_draws_the_same_bytes() -> None:
    program = (
        "import hashlib; from ndsc.scene import SceneConfig, StereoScene; "
        "p = StereoScene(SceneConfig(seed=9, width=96, height=48)).render(12.25, 'right'); "
        "print(hashlib.sha256(p.tobytes()).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    here = StereoScene(SceneConfig(seed=9, **SMALL)).render(12.25, "right")
    assert other.stdout.strip() == digest(here)


def test_seeds_look_clearly_different() -> None:
    pictures = [
        StereoScene(SceneConfig(seed=s, **SMALL)).render(0.0, "left").astype(np.float64) for s in range(4)
    ]
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            assert np.abs(a - b).mean() > 12


def test_the_drive_moves_and_never_ends(scene: StereoScene) -> None:
    start = scene.render(0.0, "left").astype(np.float64)
    for time_s in (1.0, 3600.0, 1e6):
        later = scene.render(time_s, "left").astype(np.float64)
        assert later.std() > 25
        assert np.abs(later - start).mean() > 5


def test_consecutive_frames_are_alike(scene: StereoScene) -> None:
    a, b, c = (scene.render(t, "left").astype(np.float64) for t in (5.0, 5.04, 9.0))
    assert np.abs(a - b).mean() < 0.6 * np.abs(a - c).mean()


def ground_row(scene: StereoScene, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """One row of both views' road, and the disparity in pixels that geometry gives it."""
    left, right = (p[row].astype(np.float64).mean(axis=1) for p in scene.pair(0.0))
    depth = scene.focal_px * scene.camera_height_m(0.0) / (row + 0.5 - scene.horizon_row(0.0))
    return left, right, scene.focal_px * scene.config.baseline_m / depth


@pytest.mark.parametrize("seed", [2, 3, 11])
def test_the_ground_has_the_disparity_of_its_depth(seed: int) -> None:
    scene = StereoScene(SceneConfig(seed=seed, width=384, height=192))
    found = []
    for row in (130, 150, 175):
        left, right, expected = ground_row(scene, row)
        patch = slice(130, 290)
        scores = []
        for shift in range(60):
            a, b = left[patch], right[patch.start - shift : patch.stop - shift]
            scores.append(np.corrcoef(a, b)[0, 1])
        best = int(np.argmax(scores))
        assert scores[best] > 0.6
        assert best > 0
        assert abs(best - expected) <= 1
        found.append(best)
    assert found == sorted(set(found)), "nearer ground must have the larger disparity"


def test_a_wider_baseline_shifts_more_and_leaves_the_left_view_alone() -> None:
    narrow = StereoScene(SceneConfig(seed=2, baseline_m=0.2, **SMALL))
    wide = StereoScene(SceneConfig(seed=2, baseline_m=0.8, **SMALL))
    assert digest(narrow.render(3.0, "left")) == digest(wide.render(3.0, "left"))
    left = narrow.render(3.0, "left").astype(np.float64)
    differences = [np.abs(s.render(3.0, "right") - left).mean() for s in (narrow, wide)]
    assert differences[0] < differences[1]


def test_views_differ_slightly_in_exposure_and_noise() -> None:
    """With almost no baseline, what is left is the cameras' own difference: small, but there."""
    scene = StereoScene(SceneConfig(seed=2, baseline_m=1e-6))
    left, right = (p.astype(np.float64) for p in scene.pair(3.0))
    assert 0.5 < np.abs(left - right).mean() < 6
    ratio = right.mean(axis=(0, 1)) / left.mean(axis=(0, 1))
    assert np.all(np.abs(ratio - 1) < 0.03)
    residual = (left - right / ratio)[:30]
    assert 0.7 < residual.std() < 3


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (33, 57), (57, 33)])
@pytest.mark.parametrize("supersample", [1, 2, 3])
def test_any_size(size: tuple[int, int], supersample: int) -> None:
    width, height = size
    scene = StereoScene(SceneConfig(width=width, height=height, supersample=supersample))
    assert scene.render(1.0, "right").shape == (height, width, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "width and height"),
        ({"height": -3}, "width and height"),
        ({"seed": -1}, "seed"),
        ({"supersample": 0}, "supersample"),
        ({"supersample": 9}, "supersample"),
        ({"baseline_m": 0.0}, "baseline_m"),
        ({"focal_px": -1.0}, "focal_px"),
        ({"speed_m_per_s": float("nan")}, "speed_m_per_s"),
        ({"width": 100_000, "height": 100_000}, "too large"),
    ],
)
def test_a_config_without_a_picture_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneConfig(**values)


def test_a_bad_view_or_time_is_refused(scene: StereoScene) -> None:
    with pytest.raises(ValueError, match='"left" or "right"'):
        scene.render(0.0, "centre")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="time_s must be finite"):
        scene.render(float("inf"), "left")
