"""Services as child processes: started, waited for, stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, Queue
from threading import Thread
from typing import IO, Any

from ndsc.codec.errors import NdscError

STOP_TIMEOUT_S = 15.0


class ProcessError(NdscError):
    """A service ended or stayed silent when it should not have."""


class ServiceProcess:
    """A running service that reports on stdout in lines: a word, then JSON (`ready {"port": 50051}`)."""

    def __init__(self, process: subprocess.Popen[str], module: str, errors: IO[str]) -> None:
        self._process = process
        self._module = module
        self._errors = errors
        self._lines: Queue[str | None] = Queue()
        self._reader = Thread(target=self._read, daemon=True, name=f"{module} stdout")
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, word: str, timeout_s: float) -> dict[str, Any]:
        """The JSON after the line that starts with `word`. Raises ProcessError when it does not come."""
        while True:
            try:
                line = self._lines.get(timeout=timeout_s)
            except Empty:
                raise ProcessError(f"{self._module} did not report `{word}` within {timeout_s:g} s") from None
            if line is None:
                self._process.wait()
                raise ProcessError(
                    f"{self._module} ended with code {self._process.returncode}: {self._last_error()}"
                )
            if line.startswith(word + " "):
                facts: dict[str, Any] = json.loads(line.removeprefix(word))
                return facts

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else "it said nothing"

    def stop(self) -> None:
        """SIGTERM, then wait; SIGKILL when it does not go."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def running(module: str, arguments: Sequence[str]) -> Iterator[ServiceProcess]:
    """Run `python -m module arguments`; whatever happens, it is gone when the block ends."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
            [sys.executable, "-P", "-m", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        service = ServiceProcess(process, module, errors)
        try:
            yield service
        finally:
            service.stop()
