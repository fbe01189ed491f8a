"""Each benchmark for a second or two, so that they still run when someone needs them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ndsc.v1 import catalog_pb2
from ndsc.v1.catalog_pb2 import StreamInfo
from tests.benchmarks import content, freshness, overhead, rate, speed
from tests.benchmarks.cameras import Traffic
from tests.benchmarks.freshness import Run
from tests.benchmarks.load import null_load, real_load
from tests.benchmarks.measured import AccountError, Load, _check_account, measure
from tests.benchmarks.rate import Sent
from tests.benchmarks.report import percentile, spread
from tests.pki import Authority


@pytest.mark.parametrize("kind", ["null", "real"])
async def test_load_counts_every_frame(kind: str, tmp_path: Path) -> None:
    load: Load = null_load(tmp_path, 1.0, cameras=4) if kind == "null" else real_load(2.0, 2, 2.0)
    figures = await measure(load, tmp_path)
    assert figures["sent"] + figures["dropped"] == load.cameras * load.fps * load.seconds
    assert figures["decoded"] == figures["sent"] > 0
    assert figures["decoded_fps"] == pytest.approx(figures["offered_fps"], rel=0.4)
    assert 0 < figures["age_p50_ms"] <= figures["age_p99_ms"] <= figures["age_max_ms"]
    assert 0 < figures["health_p50_ms"] <= figures["health_max_ms"]
    assert figures["batch_mean_frames"] >= 1
    assert figures["paired_percent"] == (100 if load.images else 0)


def test_freshness_measures_ages(tmp_path: Path) -> None:
    pictures = content.write_folder(tmp_path / "pictures", content.drive("left", 64, 32, 2))
    assert freshness.sustained_fps(pictures, tmp_path / "sustained", frames=10) > 1
    run = freshness.overload(pictures, tmp_path / "run", 4, 20.0, 2.5)
    assert len(run.ages_ms) == run.node["acked"] > 0
    assert all(0 < age < 5000 for age in run.ages_ms)
    freshness.plot({4: run, 1024: run}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


async def test_a_running_node_is_timed(tmp_path: Path) -> None:
    pictures = content.write_folder(tmp_path / "pictures", content.drive("left", 64, 32, 2))
    figures = await speed.node(pictures, tmp_path, 30)
    assert figures["frames_per_s"] > 1
    assert 50 < figures["peak_memory_mbytes"] < 600
    assert figures["payload_bytes"] > 8


def test_speeds_are_of_rounds_on_the_cores_asked_for() -> None:
    before = os.sched_getaffinity(0)
    with speed.on_cores(1):
        assert len(os.sched_getaffinity(0)) == 1
        times = speed.timed(time.sleep, [0.001, 0.003], 3)
    assert os.sched_getaffinity(0) == before
    assert 2 <= times["least"] <= times["median"] <= times["most"] < 50
    with pytest.raises(ValueError, match="cores"), speed.on_cores(len(before) + 1):
        pass


def test_growing_ages_show_in_the_slope() -> None:
    times_s = [tenth / 10 for tenth in range(100)]
    node = {"captured": 100, "dropped": 0}
    growing = Run(times_s, [50 + 300 * at for at in times_s], 10.0, node).figures()
    assert growing["age_slope_ms_per_s"] == pytest.approx(300)
    assert growing["age_last_third_ms"] > growing["age_first_third_ms"] + 1000
    assert Run(times_s, [50.0] * 100, 10.0, node).figures()["age_slope_ms_per_s"] == pytest.approx(0)


def test_overhead_counts_every_byte(tmp_path: Path) -> None:
    pictures = content.write_folder(tmp_path / "pictures", content.drive("left", pictures=2))
    figures = overhead.send(pictures, 0, Authority(tmp_path), 4, 12)
    assert figures["sent"] == 12
    assert figures["payload_bpp"] < figures["frame_bpp"] < figures["wire_bpp"]
    assert figures["frame_overhead_bytes"] <= 16
    assert figures["opening_bytes"] > 1000, "a handshake with certificates of both sides"


@pytest.mark.parametrize("kind", ["target", "link"])
async def test_rates_are_set_on_the_way(kind: str, tmp_path: Path) -> None:
    pictures = content.write_folder(tmp_path / "pictures", content.drive("left", pictures=2))
    steps = (80.0, 20.0)
    carry = rate.hold if kind == "target" else rate.follow
    sent = await carry(pictures, rate.new(tmp_path / "run"), steps, 2.0)
    first, second = (
        sum(frame.message_bytes for frame in sent if start_s < frame.coded_s < start_s + 1)
        for start_s in (1.0, 3.0)
    )
    assert first > 2 * second > 0


def test_deviations_and_usage_are_of_the_settled_part() -> None:
    frames = [Sent(n / 10, 500 if n < 200 else 1000, n / 10, 30.0) for n in range(400)]
    exact = rate.deviations(frames, (40.0, 80.0), 20.0)
    assert list(exact.values()) == pytest.approx([0, 0])
    assert list(rate.deviations(frames, (40.0, 40.0), 20.0).values()) == pytest.approx([0, 100])
    used = rate.usage(frames, (40.0, 160.0), 20.0)
    assert used["1: 40 kbit/s, used %"] == pytest.approx(100)
    assert used["2: 160 kbit/s, used %"] == pytest.approx(50)
    assert used["2: 160 kbit/s, frames/s"] == pytest.approx(10)
    rates = rate._mean_rates(frames, 40.0)
    assert rates[1][50] == pytest.approx(40, rel=0.11)


def test_figures_are_summed_up() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "most": 3.0}
    assert [percentile(range(1, 101), share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert percentile([3.0, 1.0], 0.5) == 1
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_too_little_is_refused_before_it_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    for benchmark, option, value in (
        (freshness.main, "--seconds", "2"),
        (rate.main, "--seconds", "nan"),
        (speed.main, "--frames", "11"),
        (speed.main, "--runs", "0"),
    ):
        with pytest.raises(SystemExit):
            benchmark([option, value])
        assert f"argument {option}: {value} is less than" in capsys.readouterr().err


def account(received: int = 8, decoded: int = 6, failed: int = 1, dropped: int = 2) -> StreamInfo:
    kind = catalog_pb2.STREAM_KIND_CAMERA
    fates = StreamInfo(camera="a", kind=kind, received=received, decoded=decoded, failed=failed, abandoned=1)
    fates.dropped = dropped
    return fates


def test_accounts_that_differ_are_noticed() -> None:
    traffic = Traffic(sent=8, dropped=3, reported_drops=2, acked=8, failed=1)
    _check_account(account(), traffic)
    for lie in (account(dropped=0), account(received=7), account(decoded=5), account(failed=0, decoded=7)):
        with pytest.raises(AccountError, match="a: sent, settled"):
            _check_account(lie, traffic)
