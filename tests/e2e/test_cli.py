"""The `ndsc` command as a user runs it: results on stdout, one clear line for each bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ndsc.codec.bundle import Bundle, default_bundle_path
from ndsc.codec.frames import read_image
from ndsc.evaluate.metrics import psnr
from tests.e2e.conftest import ROOT, run_ndsc


@pytest.fixture(scope="module")
def frame_file(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frame.ndsc"
    done = run_ndsc("encode", pairs / "left" / "0.png", "-o", path, "--rate", "0")
    assert done.returncode == 0, done.stderr
    return path


def test_encode_and_decode(pairs: Path, frame_file: Path, tmp_path: Path) -> None:
    source = read_image(pairs / "left" / "0.png")
    quality = {}
    for name, side in (("with", ["--side-information", str(pairs / "right" / "0.png")]), ("without", [])):
        done = run_ndsc("decode", frame_file, *side, "-o", tmp_path / f"{name}.png", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["side_information"] is bool(side)
        quality[name] = psnr(source, read_image(tmp_path / f"{name}.png"))
    assert quality["with"] > quality["without"] > 15


def test_encode_reports_real_sizes(pairs: Path, tmp_path: Path) -> None:
    sizes = []
    for rate in range(Bundle.load(default_bundle_path()).rate_level_count):
        done = run_ndsc(
            "encode", pairs / "left" / "1.png", "-o", tmp_path / "f.ndsc", "--rate", str(rate), "--json"
        )
        facts = json.loads(done.stdout)
        assert facts["file_bytes"] == (tmp_path / "f.ndsc").stat().st_size
        assert facts["payload_bpp"] == pytest.approx(8 * facts["payload_bytes"] / (256 * 128))
        sizes.append(facts["payload_bytes"])
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes) >= 3


def test_evaluate_writes_every_figure(pairs: Path, tmp_path: Path) -> None:
    points = {}
    for side in ("right", "none", "wrong"):
        done = run_ndsc(
            "evaluate",
            "--pairs",
            pairs,
            "--protocol",
            "native",
            "--side-information",
            side,
            "--json",
            tmp_path / "out.json",
        )
        assert done.returncode == 0, done.stderr
        assert "PSNR" in done.stdout
        result = json.loads((tmp_path / "out.json").read_text())
        assert result["pairs"] == 3
        assert [point["rate"] for point in result["points"]] == list(range(len(result["points"])))
        fields = {"payload_bpp", "frame_bpp", "psnr", "psnr_float", "ms_ssim", "encode_ms", "decode_ms"}
        for point in result["points"]:
            assert fields | {"rate", "images"} <= set(point)
            assert [image["name"] for image in point["images"]] == ["0", "1", "2"]
            assert all(fields <= set(image) for image in point["images"])
        points[side] = result["points"]
    for right, none, wrong in zip(points["right"], points["none"], points["wrong"], strict=True):
        assert right["payload_bpp"] == none["payload_bpp"] == wrong["payload_bpp"]
        assert right["psnr"] > none["psnr"]
        assert right["psnr"] > wrong["psnr"]


def flipped(path: Path, position: int) -> bytes:
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    return bytes(data)


@pytest.fixture
def bad_inputs(pairs: Path, frame_file: Path, tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    """Command line and a part of the line it must give."""
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "short.ndsc").write_bytes(frame_file.read_bytes()[:60])
    (tmp_path / "flipped.ndsc").write_bytes(flipped(frame_file, 100))
    (tmp_path / "header.ndsc").write_bytes(flipped(frame_file, 7))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "small.png")
    (tmp_path / "empty").mkdir()
    for view, names in (("left", ["a", "b", "c"]), ("right", ["a", "c"])):
        (tmp_path / "lonely" / view).mkdir(parents=True)
        for name in names:
            Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "lonely" / view / f"{name}.png")
    source, out = str(pairs / "left" / "0.png"), str(tmp_path / "out.png")
    return {
        "no image": (["encode", str(tmp_path / "text.png"), "-o", out], "text.png"),
        "absent image": (["encode", str(tmp_path / "nothing.png"), "-o", out], "nothing.png"),
        "no such rate": (["encode", source, "-o", out, "--rate", "99"], "rate level 99"),
        "no bundle": (["encode", source, "-o", out, "--bundle", str(tmp_path / "empty")], "manifest.json"),
        "no folder for the result": (["encode", source, "-o", str(tmp_path / "no" / "f.ndsc")], "no/f.ndsc"),
        "truncated": (["decode", str(tmp_path / "short.ndsc"), "-o", out], "short.ndsc"),
        "flipped": (["decode", str(tmp_path / "flipped.ndsc"), "-o", out], "flipped.ndsc"),
        "flipped header": (["decode", str(tmp_path / "header.ndsc"), "-o", out], "header.ndsc"),
        "not a frame": (["decode", source, "-o", out], "not a .ndsc file"),
        "side of another size": (
            ["decode", str(frame_file), "--side-information", str(tmp_path / "small.png"), "-o", out],
            "64",
        ),
        "unknown suffix": (["decode", str(frame_file), "-o", str(tmp_path / "out.xyz")], ".xyz"),
        "no pairs": (["evaluate", "--pairs", str(tmp_path / "empty")], "left"),
        "missing partner": (["evaluate", "--pairs", str(tmp_path / "lonely")], "b"),
        "a delay that delays nothing": (
            ["evaluate", "--pairs", str(pairs), "--side-information", "black", "--late", "1"],
            "cannot be late",
        ),
        "too small for the protocol": (["evaluate", "--pairs", str(pairs)], "256"),
        "demo without pairs": (["demo", "--pairs", str(tmp_path / "empty")], "left"),
        "nobody there": (["health", "127.0.0.1:9"], "127.0.0.1:9"),
    }


CASES = [
    "no image",
    "absent image",
    "no such rate",
    "no bundle",
    "no folder for the result",
    "truncated",
    "flipped",
    "flipped header",
    "not a frame",
    "side of another size",
    "unknown suffix",
    "no pairs",
    "missing partner",
    "a delay that delays nothing",
    "too small for the protocol",
    "demo without pairs",
    "nobody there",
]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_clear_line(
    case: str, bad_inputs: dict[str, tuple[list[str], str]], tmp_path: Path
) -> None:
    assert list(bad_inputs) == CASES
    arguments, part = bad_inputs[case]
    before = set(tmp_path.rglob("*"))
    done = run_ndsc(*arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert part in lines[0]
    assert set(tmp_path.rglob("*")) == before, "something was written"


def test_a_frame_of_another_bitstream_is_refused(pairs: Path, tiny_bundle_path: Path, tmp_path: Path) -> None:
    other = run_ndsc(
        "encode", pairs / "left" / "0.png", "-o", tmp_path / "other.ndsc", "--bundle", tiny_bundle_path
    )
    assert other.returncode == 0, other.stderr
    done = run_ndsc("decode", tmp_path / "other.ndsc", "-o", tmp_path / "out.png")
    assert done.returncode == 1
    assert Bundle.load(default_bundle_path()).bitstream_id.hex() in done.stderr
    assert Bundle.load(tiny_bundle_path).bitstream_id.hex() in done.stderr
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("service", ["encoder", "decoder"])
def test_serve_passes_flags_on(service: str) -> None:
    done = run_ndsc("serve", service, "--no-such-setting", "1")
    assert done.returncode == 2
    assert "no-such-setting" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_codec_needs_neither_torch_nor_grpc() -> None:
    heavy = ("torch", "grpc", "ndsc.v1", "onnx")
    code = f"import sys, ndsc.codec.codec; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
