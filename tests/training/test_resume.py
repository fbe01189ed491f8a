"""A run killed half way and started again has the losses of an unbroken run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STEPS = 12


def start(output: Path, cache: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "training.train",
            "--output",
            str(output),
            "--cache",
            str(cache),
            "--steps",
            str(STEPS),
            "--batch-size",
            "2",
            "--channels",
            "16",
            "--codebooks",
            "16,16",
            "--drives",
            "2",
            "--unquantized-steps",
            "3",
            "--validate-every",
            "4",
            "--threads",
            "1",
        ],
        stderr=subprocess.PIPE,
    )


def losses(output: Path) -> list[dict[str, float]]:
    path = output / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.mark.timeout(300)
def test_a_killed_run_resumes_with_the_same_losses(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    unbroken = start(tmp_path / "unbroken", cache)
    assert unbroken.wait() == 0, unbroken.stderr.read() if unbroken.stderr else ""

    killed = start(tmp_path / "killed", cache)
    deadline = time.monotonic() + 120
    # Past a checkpoint (step 4) and past some steps that are lost with the process.
    while len(losses(tmp_path / "killed")) < 6:
        assert killed.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert 6 <= len(losses(tmp_path / "killed")) < STEPS

    resumed = start(tmp_path / "killed", cache)
    _, messages = resumed.communicate()
    assert resumed.returncode == 0, messages
    assert b"at step" in messages
    expected = losses(tmp_path / "unbroken")
    assert [entry["step"] for entry in expected] == list(range(1, STEPS + 1))
    assert losses(tmp_path / "killed") == expected


@pytest.mark.timeout(120)
def test_a_run_with_other_settings_is_not_continued(tmp_path: Path) -> None:
    first = start(tmp_path / "run", tmp_path / "cache")
    assert first.wait() == 0
    again = subprocess.run(
        [
            sys.executable,
            "-m",
            "training.train",
            "--output",
            str(tmp_path / "run"),
            "--cache",
            str(tmp_path / "cache"),
            "--steps",
            "99",
            "--drives",
            "2",
            "--codebooks",
            "16,16",
            "--channels",
            "16",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 1
    assert "other settings" in again.stderr
    assert "Traceback" not in again.stderr
