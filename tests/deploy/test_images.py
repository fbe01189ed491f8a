"""The Dockerfiles without an engine: linted, and what the CUDA image installs still resolves to its lock."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.e2e.conftest import ROOT

DOCKER = ROOT / "deploy" / "docker"
BIN = Path(sys.executable).parent


def locked() -> dict[str, str]:
    """Name → version of each package of the CUDA image."""
    text = (DOCKER / "requirements-cuda.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


def test_the_dockerfiles_are_linted() -> None:
    files = [DOCKER / "Dockerfile", DOCKER / "cuda.Dockerfile"]
    done = subprocess.run([BIN / "hadolint", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_both_build_on_the_same_base_as_the_same_user() -> None:
    texts = [(DOCKER / name).read_text() for name in ("Dockerfile", "cuda.Dockerfile")]
    for pattern in (r"^ARG PYTHON_IMAGE=\S+:\d\S+$", r"^USER \S+$", r"^STOPSIGNAL \S+$"):
        first, second = (set(re.findall(pattern, text, re.MULTILINE)) for text in texts)
        assert len(first) == 1
        assert first == second


def test_the_cuda_lock_has_what_the_project_needs_and_one_runtime() -> None:
    packages = locked()
    assert "onnxruntime-gpu" in packages
    assert not {"onnxruntime", "torch"} & set(packages)
    assert {"nvidia-cublas", "nvidia-cuda-runtime"} <= set(packages)
    listed = subprocess.run(
        [sys.executable, DOCKER / "dependencies.py", "--cuda"], capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        wanted = Requirement(line)
        assert wanted.specifier.contains(packages[wanted.name]), line
    pinned = dict(
        re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    )
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    assert {n: v for n, v in packages.items() if n in pinned} == {
        n: pinned[n] for n in packages if n in pinned
    }


@pytest.mark.deploy
def test_the_cuda_lock_is_what_resolves_now(tmp_path: Path) -> None:
    lock = shutil.copy(DOCKER / "requirements-cuda.txt", tmp_path)
    # What is locked stays where it fits: so this fails when it no longer does, not with each release.
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    subprocess.run([DOCKER / "lock-cuda.sh", lock], env=environment, check=True)
    assert Path(lock).read_text() == (DOCKER / "requirements-cuda.txt").read_text()


@pytest.mark.deploy
def test_every_architecture_of_a_camera_node_has_wheels(tmp_path: Path) -> None:
    """`linux/arm64` beside `linux/amd64`: constriction has none there, and the codec's own coder stands in."""
    listed = subprocess.run(
        [sys.executable, DOCKER / "dependencies.py"], capture_output=True, text=True, check=True
    )
    requirements = tmp_path / "requirements.in"
    requirements.write_text(listed.stdout)
    found = {}
    command: list[str | Path] = [BIN / "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--only-binary", ":all:", "--python-version", "3.11", "-c", ROOT / "constraints.txt"]
    for machine in ("x86_64", "aarch64"):
        platform = ["--python-platform", f"{machine}-manylinux_2_28"]
        done = subprocess.run(
            [*command, *platform, requirements], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found[machine] = set(re.findall(r"^([a-z0-9-]+)==", done.stdout, re.MULTILINE))
    assert found["x86_64"] - found["aarch64"] == {"constriction"}
    assert found["aarch64"] <= found["x86_64"]
