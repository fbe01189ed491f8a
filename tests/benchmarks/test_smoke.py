"""Each benchmark for a second or two, so that they still run when someone needs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import content, freshness, overhead
from tests.benchmarks.freshness import Run
from tests.benchmarks.load import null_load, real_load
from tests.benchmarks.measured import Load, measure
from tests.benchmarks.report import percentile, spread
from tests.pki import Authority


@pytest.mark.parametrize("kind", ["null", "real"])
async def test_load_counts_every_frame(kind: str, tmp_path: Path) -> None:
    load: Load = null_load(tmp_path, 1.0, cameras=4) if kind == "null" else real_load(2.0, 2, 2.0)
    figures = await measure(load, tmp_path)
    assert figures["sent"] + figures["dropped"] == load.cameras * load.fps * load.seconds
    assert figures["decoded"] == figures["sent"] > 0
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


def test_growing_ages_show_in_the_slope() -> None:
    times_s = [tenth / 10 for tenth in range(100)]
    node = {"captured": 100, "dropped": 0}
    growing = Run(times_s, [50 + 300 * at for at in times_s], 10.0, node).figures()
    assert growing["age_slope_ms_per_s"] == pytest.approx(300)
    assert growing["age_last_third_ms"] > growing["age_first_third_ms"] + 1000
    assert Run(times_s, [50.0] * 100, 10.0, node).figures()["age_slope_ms_per_s"] == pytest.approx(0)


def test_overhead_counts_every_byte(tmp_path: Path) -> None:
    pictures = content.write_folder(tmp_path / "pictures", content.drive("left", pictures=2))
    plain = overhead.send(pictures, 0, None, 1, 12)
    secure = overhead.send(pictures, 0, Authority(tmp_path), 4, 12)
    for figures in (plain, secure):
        assert figures["sent"] == 12
        assert figures["payload_bpp"] < figures["frame_bpp"] < figures["wire_bpp"]
        assert figures["frame_overhead_bytes"] <= 16
    assert secure["opening_bytes"] > plain["opening_bytes"] > 0


def test_figures_are_summed_up() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "most": 3.0}
    assert [percentile(range(1, 101), share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 51, 100, 100]
    assert percentile([], 0.5) == 0
