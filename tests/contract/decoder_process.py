"""`python -m decoder_service` as a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "decoder_service"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a service that ends by itself."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def launched(bundle: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A service that may not get ready."""
    command = [*COMMAND, "--bundle", str(bundle), "--threads", "1", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def started(bundle: Path, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """(process, port) of a running service."""
    with launched(bundle, "--listen", "127.0.0.1:0", *arguments) as process:
        assert process.stdout is not None
        word, _, facts = process.stdout.readline().partition(" ")
        assert word == "ready"
        yield process, json.loads(facts)["port"]


def log_lines(text: str) -> list[dict[str, Any]]:
    """What a service with --log-json said on stderr."""
    return [json.loads(line) for line in text.splitlines()]
