"""A rig on the synthetic drive and its viewer, as processes; and a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from playwright.sync_api import Browser, sync_playwright

START_S = 10
"""Frames are due so long after the processes were started."""
END_S = 20.0


class Process:
    """A service."""

    def __init__(self, module: str, *flags: object) -> None:
        command = [sys.executable, "-m", module, "--listen", "127.0.0.1:0", "--log-level", "error", *flags]
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)

    def port(self) -> int:
        """Wait until it is ready."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready "), line
        port: int = json.loads(line.removeprefix("ready "))["port"]
        return port

    def end(self) -> None:
        """SIGTERM, and kill -9 where that is not enough."""
        self.process.terminate()
        try:
            self.process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


@dataclass(frozen=True)
class Rig:
    """What runs."""

    page: str
    """Address."""
    cameras: dict[str, Process]


@contextmanager
def running(*cameras: str, fps: float = 4, rate_level: int = 2) -> Iterator[Rig]:
    """A decoder, the right camera as side information, cameras that see the left view, and the viewer."""
    with ExitStack() as stack:

        def start(module: str, *flags: object) -> Process:
            process = Process(module, *flags)
            stack.callback(process.end)
            return process

        decoder = ("--decoder", f"127.0.0.1:{start('decoder_service', '--threads', 1).port()}")
        common = (*decoder, "--epoch", int(time.time()) + START_S, "--fps", fps)
        start(
            *("encoder_service", *common, "--source", "synthetic:right", "--camera", "right"),
            *("--role", "side-information"),
        )
        started = {
            camera: start(
                *("encoder_service", *common, "--source", "synthetic:left", "--camera", camera),
                *("--offer-sources", 32, "--rate-level", rate_level, "--threads", 1),
            )
            for camera in cameras
        }
        nodes = [part for node in started.values() for part in ("--node", f"127.0.0.1:{node.port()}")]
        viewer = start("ndsc.viewer", *decoder, *nodes)
        yield Rig(f"http://127.0.0.1:{viewer.port()}/", started)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium that is installed on this machine."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "these tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        # Root, as which containers run tests, cannot have Chromium's own sandbox.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
