"""`pip install .` in an empty environment brings no torch, and both services start and serve from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ndsc.codec.bitstream import read_frame_file
from ndsc.codec.bundle import Bundle, default_bundle_path
from ndsc.codec.codec import FrameEncoder
from ndsc.codec.frames import read_image
from tests.e2e.conftest import ROOT

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(900)]

OLDEST_ONNXRUNTIME = "1.22.0"
"""As pyproject.toml states it."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of a new environment that holds the wheel and what it needs, at the pinned versions."""
    root = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", root], check=True)
    pip: list[str | Path] = [root / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", ROOT], check=True)
    return root / "bin"


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(command), cwd=cwd, capture_output=True, text=True, check=False)


def test_the_wheel_brings_no_torch(environment: Path, tmp_path: Path) -> None:
    packages = {
        p["name"].lower()
        for p in json.loads(run(environment / "pip", "list", "--format", "json", cwd=tmp_path).stdout)
    }
    assert {"ndsc", "onnxruntime", "constriction"} <= packages
    assert not packages & {"torch", "onnx", "onnxscript", "pytest"}
    assert run(environment / "python", "-c", "import training", cwd=tmp_path).returncode != 0
    licences = run(
        environment / "python",
        "-c",
        "import importlib.metadata as m; print(m.metadata('ndsc')['License-Expression'])",
        cwd=tmp_path,
    )
    assert licences.stdout.strip() == "Apache-2.0 AND CC-BY-NC-SA-3.0"


def test_both_services_serve_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    # The demo starts both services as processes and streams through them, here away from the checkout.
    done = run(environment / "ndsc", "demo", "--frames", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert facts["paired"] == 4


def test_the_oldest_supported_onnxruntime_reads_the_bundle(
    environment: Path, pairs: Path, tmp_path: Path
) -> None:
    """Last in this file: it changes the environment."""
    stated = (ROOT / "pyproject.toml").read_text()
    assert f'"onnxruntime>={OLDEST_ONNXRUNTIME.removesuffix(".0")}"' in stated
    subprocess.run(
        [
            environment / "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            f"onnxruntime=={OLDEST_ONNXRUNTIME}",
        ],
        check=True,
    )
    source, side = pairs / "left" / "0.png", pairs / "right" / "0.png"
    done = run(environment / "ndsc", "encode", source, "-o", tmp_path / "f.ndsc", "--rate", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(
        environment / "ndsc",
        "decode",
        tmp_path / "f.ndsc",
        "--side-information",
        side,
        "-o",
        tmp_path / "f.png",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    # Pixels → indices carry a tolerance between machines and releases; equal sizes within 2 % are the same codec.
    ours = FrameEncoder(Bundle.load(default_bundle_path())).encode(read_image(source), 2)
    theirs = read_frame_file(tmp_path / "f.ndsc")
    assert theirs.bitstream_id == ours.bitstream_id
    assert abs(len(theirs.payload) - len(ours.payload)) <= 0.02 * len(ours.payload)
