"""BD-rate and its intervals, the x265 anchor, and the published curves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.published import PublishedError, load_published, published_tasks
from training.report.bd_rate import Curve, CurveError, bd_rate, better_of, bootstrap_bd_rate, front
from training.report.codecs import HEIC_420, HEIC_444
from training.report.comparison import anchor, compare
from training.report.measurement import Measurement, curve, decibels, points

RATES = (0.05, 0.1, 0.2, 0.4)
QUALITIES = (21.0, 23.5, 25.5, 29.0)


def of(rates: tuple[float, ...], qualities: tuple[float, ...] = QUALITIES, name: str = "curve") -> Curve:
    return Curve.of_means(name, list(zip(rates, qualities, strict=True)))


def scaled(factor: float) -> Curve:
    return of(tuple(factor * rate for rate in RATES))


def noisy(name: str, factor: float, spread: float, images: int = 40, seed: int = 1) -> Curve:
    """Pictures of unlike difficulty, coded at `factor` of the rate give or take `spread` of each one's own."""
    rng = np.random.default_rng(3)
    difficulty = rng.uniform(-3, 3, (images, 1))
    own = np.exp(np.random.default_rng(seed).normal(0, spread, (images, 1)))
    bpp = factor * own * np.array(RATES) * np.exp(-difficulty / 10)
    return Curve(name, tuple(map(str, range(images))), bpp, np.array(QUALITIES) + difficulty)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.25, 3.0])
def test_a_factor_of_rate_is_that_bd_rate(factor: float) -> None:
    result = bd_rate(scaled(1), scaled(factor))
    assert result.percent == pytest.approx(100 * (factor - 1))
    assert result.overlap == (21.0, 29.0)
    assert (result.share_of_anchor, result.share_of_test) == (1, 1)


def test_two_points_are_a_straight_line_in_log_rate() -> None:
    # ln rate against dB: 0 → 2 and 1 → 2 over 0 to 1 dB, so means 1 and 1.5: exp(1.5 − 1).
    anchor = of((1.0, math.exp(2)), (0.0, 1.0))
    test = of((math.exp(1), math.exp(2)), (0.0, 1.0))
    assert bd_rate(anchor, test).percent == pytest.approx(100 * (math.exp(0.5) - 1))


def test_swapping_the_curves_inverts_the_ratio() -> None:
    one, other = scaled(1), of((0.04, 0.12, 0.19, 0.45), (20.0, 24.0, 26.0, 28.5))
    forth, back = bd_rate(one, other), bd_rate(other, one)
    assert (1 + forth.percent / 100) * (1 + back.percent / 100) == pytest.approx(1)
    assert forth.overlap == back.overlap == (21.0, 28.5)
    assert forth.share_of_anchor == back.share_of_test == pytest.approx(7.5 / 8)
    assert forth.share_of_test == pytest.approx(7.5 / 8.5)


def test_only_common_qualities_count() -> None:
    # A line, its middle alone twice as dear: what lies outside the overlap must not matter.
    result = bd_rate(of(RATES, (20.0, 22.0, 24.0, 26.0)), of((0.2, 0.4), (22.0, 24.0)))
    assert result.percent == pytest.approx(100)
    assert result.overlap == (22.0, 24.0)
    assert result.share_of_anchor == pytest.approx(1 / 3)
    assert result.share_of_test == 1


def test_dominated_points_are_left_out() -> None:
    rate, quality = front(np.array([0.3, 0.1, 0.2, 0.2]), np.array([25.0, 21.0, 20.0, 24.0]))
    assert rate.tolist() == [0.1, 0.2, 0.3]
    assert quality.tolist() == [21, 24, 25]
    wasteful = of((*RATES, 0.39), (*QUALITIES, 22.0))
    assert bd_rate(scaled(1), wasteful).percent == pytest.approx(0)


@pytest.mark.parametrize(
    ("rates", "qualities", "message"),
    [
        ((1.0, 2.0), (30.0, 31.0), "no quality in common"),
        ((1.0, 2.0), (29.0, 31.0), "no quality in common"),
        ((0.1,), (25.0,), "two points"),
        ((0.1, 0.2), (25.0, 24.0), "two points"),
        ((0.0, 0.2), (24.0, 25.0), "positive"),
        ((0.1, 0.2), (24.0, math.inf), "finite"),
    ],
)
def test_curves_that_cannot_be_compared(
    rates: tuple[float, ...], qualities: tuple[float, ...], message: str
) -> None:
    with pytest.raises(CurveError, match=message):
        bd_rate(scaled(1), of(rates, qualities))


def test_an_interval_holds_the_truth_and_its_seed_makes_it() -> None:
    anchor, test = noisy("anchor", 1, 0), noisy("test", 0.8, 0.1)
    result = bootstrap_bd_rate(anchor, test, resamples=300, seed=5)
    assert result.low < result.estimate.percent < result.high
    assert result.low < -20 < result.high
    # 40 pictures whose rates spread by a tenth: the mean is known to about 1.6 %, of 80 %.
    assert 2 < result.high - result.low < 8
    assert result == bootstrap_bd_rate(anchor, test, resamples=300, seed=5)
    assert result != bootstrap_bd_rate(anchor, test, resamples=300, seed=6)


def test_intervals_cover_as_often_as_they_say() -> None:
    anchor = noisy("anchor", 1, 0, images=30)
    covered = 0
    for seed in range(60):
        test = noisy("test", 0.8, 0.1, images=30, seed=seed)
        # The mean of a log-normal factor is exp(σ²/2) times its median.
        truth = 100 * (0.8 * math.exp(0.005) - 1)
        result = bootstrap_bd_rate(anchor, test, resamples=100, seed=seed, confidence=0.9)
        covered += result.low <= truth <= result.high
    assert 45 <= covered <= 60


def test_the_difference_is_paired() -> None:
    # The pictures differ a lot, but by the same in both curves: nothing is left for the interval.
    result = bootstrap_bd_rate(noisy("anchor", 1, 0), noisy("test", 0.8, 0), resamples=50)
    assert result.low == pytest.approx(-20)
    assert result.high == pytest.approx(-20)


def test_intervals_need_the_same_pictures_and_enough_of_them() -> None:
    anchor = noisy("anchor", 1, 0)
    other = Curve("other", anchor.images[::-1], anchor.bpp, anchor.quality)
    with pytest.raises(CurveError, match="not of the same pictures"):
        bootstrap_bd_rate(anchor, other)
    with pytest.raises(CurveError, match="at least two"):
        bootstrap_bd_rate(scaled(1), scaled(2))
    rng = np.random.default_rng(0)
    far = Curve("far", anchor.images, anchor.bpp, anchor.quality + 7.5 + rng.normal(0, 6, (40, 1)))
    with pytest.raises(CurveError, match="resamples have no BD-rate"):
        bootstrap_bd_rate(anchor, far, resamples=100)
    told = compare("psnr_db", [far], [anchor])
    assert told[0].result is None
    assert "no" in told[0].reason


def measurement(codec: str, setting: str, image: str, coded_bytes: int, psnr_db: float) -> Measurement:
    return Measurement(codec, setting, image, 1000, coded_bytes, 10, psnr_db, None, 0.9, None)


def test_the_better_of_two_samplings_setting_by_setting() -> None:
    full = Curve("4:4:4", ("a", "b"), np.array([[0.1, 0.4]] * 2), np.array([[20.0, 31.0]] * 2))
    half = Curve("4:2:0", ("a", "b"), np.array([[0.1, 0.3]] * 2), np.array([[21.0, 28.0]] * 2))
    best = better_of(full, half, "best")
    # At .1 the second is a decibel better; at .4 the first is above all that the second reaches.
    assert best.bpp.tolist() == [[0.1, 0.4]] * 2
    assert best.quality.tolist() == [[21.0, 31.0]] * 2


def test_the_anchor_takes_the_floor_off_and_chooses_for_all_pictures() -> None:
    rows = [
        measurement(HEIC_444, "QP 40", "a", 30, 22),
        measurement(HEIC_444, "QP 40", "b", 50, 24),
        measurement(HEIC_444, "QP 30", "a", 110, 30),
        measurement(HEIC_444, "QP 30", "b", 150, 32),
        measurement(HEIC_420, "QP 40", "a", 30, 25),
        measurement(HEIC_420, "QP 40", "b", 50, 23),
        measurement(HEIC_420, "QP 30", "a", 110, 29),
        measurement(HEIC_420, "QP 30", "b", 150, 31),
    ]
    best = anchor(rows)
    assert best.images == ("a", "b")
    np.testing.assert_allclose(best.bpp, [[0.16, 0.8], [0.32, 1.12]])
    # 4:2:0 is better at QP 40 in the mean, though not for b; 4:4:4 at QP 30.
    assert best.quality.tolist() == [[25, 30], [23, 32]]
    np.testing.assert_allclose(anchor(rows, less_floor=False).bpp, [[0.24, 0.88], [0.4, 1.2]])
    with pytest.raises(CurveError, match="not measured"):
        anchor(rows[:4])
    with pytest.raises(CurveError, match="every setting"):
        anchor(rows[:-1])


def test_points_are_means_and_curves_keep_each_picture() -> None:
    rows = [measurement("c", "1", "a", 20, 20), measurement("c", "1", "b", 40, 30)]
    (point,) = points(rows)
    assert (point.images, point.psnr_db, point.ms_ssim, point.lpips) == (2, 25, 0.9, None)
    assert point.bpp == pytest.approx(0.24)
    assert point.bpp_less_floor == pytest.approx(0.16)
    assert curve(rows, "c", metric="ms_ssim_db").quality.tolist() == [[pytest.approx(10)]] * 2
    assert decibels(1.0) == pytest.approx(60)


@pytest.mark.parametrize(
    ("task", "system", "point"),
    [
        ("kitti128_psnr", "Neural DSC, latent prior", (0.09779, 24.687)),
        ("kitti128_psnr", "Neural DSC, latent prior", (0.01102, 20.595)),
        ("kitti128_psnr", "Neural DSC, fixed length", (0.25, 26.711)),
        ("kitti128_psnr", "NDIC, Ballé 2018", (0.179, 24.83)),
        ("kitti128_psnr", "NDIC, Ballé 2017", (0.391, 27.65)),
        ("kitti128_psnr", "DSIN", (0.252, 22.33)),
        ("kitti128_ms_ssim", "Neural DSC, latent prior", (0.25452, 0.9734)),
        ("kitti128_ms_ssim", "NDIC-CAM, trained for MS-SSIM", (0.1267, 0.9630)),
        ("binary_block_error_rate", "LDPC syndromes", (0.0006, 0.247)),
        ("binary_block_error_rate", "VQ-VAE, joint", (0.0030, 0.860)),
        ("binary_block_error_rate", "VQ-VAE, distributed", (0.0060, 0.979)),
    ],
)
def test_published_points(task: str, system: str, point: tuple[float, float]) -> None:
    found = load_published(task).curve(system).points
    assert any(
        x == pytest.approx(point[0], abs=1e-4) and y == pytest.approx(point[1], abs=6e-4) for x, y in found
    )


def test_published_curves_give_the_published_bd_rates() -> None:
    task = load_published("kitti128_psnr")

    def percent(anchor: str) -> float:
        curves = [
            Curve.of_means(name, task.curve(name).points) for name in (anchor, "Neural DSC, latent prior")
        ]
        return bd_rate(curves[0], curves[1]).percent

    # Points of the last two are rounded in the source.
    assert percent("BPG") == pytest.approx(-43.9, abs=0.1)
    assert percent("NDIC, Ballé 2018") == pytest.approx(-46.3, abs=0.4)
    assert percent("Neural DSC, fixed length") == pytest.approx(-29.1, abs=0.2)


def test_published_files_are_whole() -> None:
    assert len(published_tasks()) == 4
    for name in published_tasks():
        task = load_published(name)
        assert len({c.system for c in task.curves}) == len(task.curves) > 0
        for one in task.curves:
            assert one.source
            assert one.reading
            rates = [x for x, _ in one.points]
            assert rates == sorted(rates)
            assert len(rates) >= 2
    bpg = load_published("kitti128_psnr").curve("BPG")
    assert bpg.estimated_rate is None
    assert load_published("kitti128_psnr").curve("DSIN").estimated_rate is True
    with pytest.raises(PublishedError, match="there is Neural DSC"):
        load_published("kitti128_psnr").curve("nothing")
    with pytest.raises(PublishedError, match="kitti128_psnr"):
        load_published("../secret")
