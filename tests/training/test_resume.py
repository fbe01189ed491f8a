"""A run killed half way and started again has the losses of an unbroken run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STEPS = 12


def arguments(output: Path, cache: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "training.train", "--output", str(output), "--cache", str(cache)),
        *(
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
        ),
        *("--unquantized-steps", "3", "--validate-every", "4", "--threads", "1"),
    ]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def losses(output: Path) -> list[dict[str, float]]:
    path = output / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.mark.timeout(300)
def test_a_killed_run_resumes_with_the_same_losses(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    unbroken = run(*arguments(tmp_path / "unbroken", cache))
    assert unbroken.returncode == 0, unbroken.stderr

    with subprocess.Popen(arguments(tmp_path / "killed", cache), stderr=subprocess.DEVNULL) as killed:
        deadline = time.monotonic() + 120
        # Past a checkpoint (step 4) and past some steps that are lost with the process.
        while len(losses(tmp_path / "killed")) < 6:
            assert killed.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
    assert 6 <= len(losses(tmp_path / "killed")) < STEPS

    resumed = run(*arguments(tmp_path / "killed", cache))
    assert resumed.returncode == 0, resumed.stderr
    assert "at step" in resumed.stderr
    expected = losses(tmp_path / "unbroken")
    assert [entry["step"] for entry in expected] == list(range(1, STEPS + 1))
    assert losses(tmp_path / "killed") == expected


@pytest.mark.timeout(120)
def test_a_run_with_other_settings_or_data_is_not_continued(tmp_path: Path) -> None:
    first = run(*arguments(tmp_path / "run", tmp_path / "cache"))
    assert first.returncode == 0, first.stderr
    again = run(*arguments(tmp_path / "run", tmp_path / "cache"), "--seed", "5")
    assert again.returncode == 1
    assert again.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "other settings" in again.stderr
    other = arguments(tmp_path / "run", tmp_path / "cache")
    other[other.index("--drives") + 1] = "3"
    again = run(*other)
    assert again.returncode == 1
    assert "other data" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.timeout(120)
def test_a_run_from_other_weights_keeps_their_activation_unless_told(tmp_path: Path) -> None:
    def trained(name: str, *options: str) -> str:
        command = arguments(tmp_path / name, tmp_path / "cache")
        command[command.index("--steps") + 1] = "4"
        ended = run(*command, *options)
        assert ended.returncode == 0, ended.stderr
        record = json.loads((tmp_path / name / "checkpoint" / "checkpoint.json").read_text())
        activation: str = record["model_config"]["encoder_activation"]
        return activation

    start = ("--start", str(tmp_path / "relu" / "checkpoint"))
    assert trained("relu", "--encoder-activation", "relu") == "relu"
    assert trained("kept", *start) == "relu"
    assert trained("kept", *start) == "relu"  # goes on, with nothing left to do
    command = arguments(tmp_path / "relu", tmp_path / "cache")
    command[command.index("--steps") + 1] = "4"
    refused = run(*command, "--start", str(tmp_path / "kept" / "checkpoint"), "--encoder-activation", "relu")
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "did not start from" in refused.stderr
    assert trained("changed", *start, "--encoder-activation", "gelu") == "gelu"
    assert trained("new") == "gelu"
