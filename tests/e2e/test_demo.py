"""The demo is the whole product in one command: two services, real bytes, a table and a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ndsc.codec.frames import read_image
from tests.e2e.conftest import run_ndsc


@pytest.mark.parametrize("source", ["synthetic drive", "pairs"])
def test_demo(source: str, pairs: Path, tmp_path: Path) -> None:
    arguments = ["--pairs", str(pairs)] if source == "pairs" else ["--frames", "5"]
    done = run_ndsc("demo", *arguments, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "demo.json").read_text())
    frames = 3 if source == "pairs" else 5
    assert facts["frames"] == frames == len(facts["per_frame"])
    assert facts["paired"] == frames, "every left frame found its right one"
    assert facts["node"]["sent"] == facts["node"]["acked"] == frames
    assert facts["node"]["dropped"] == facts["node"]["failed"] == 0
    assert 100 < facts["payload_bytes"] < facts["frame_bytes"] < facts["wire_bytes"]
    assert facts["frame_bytes"] - facts["payload_bytes"] <= 16
    assert facts["psnr"] > facts["psnr_without"] + 0.2, "side information is worth something"
    assert 20 < facts["psnr"] < 40
    height, width = read_image(tmp_path / "demo.png").shape[:2]
    assert height > 500
    assert width > 1000
    assert "payload" in done.stdout
