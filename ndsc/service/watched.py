"""What key files hold, read again when their bytes change: they are renewed under a running process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from ndsc.codec.errors import NdscError

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class KeyFileError(NdscError):
    """A certificate or a key cannot be used; the message names the file and says what to do."""


class Watched(Generic[T]):
    """A value made of the bytes of some small files. May be used by several threads.

    New bytes that cannot be used are logged, and the value from before stays: a renewal that copies one file
    after another has moments at which they do not fit together.
    """

    def __init__(self, paths: Sequence[Path], make: Callable[[tuple[bytes, ...]], T]) -> None:
        """`make` turns the bytes of each file into the value, or raises KeyFileError, as this does then."""
        self._paths = tuple(paths)
        self._make = make
        self._lock = threading.Lock()
        self._contents = read_files(self._paths)
        self._value = make(self._contents)
        self._problem = ""

    def current(self) -> T:
        """The value of the files as they are now: the same object as long as their bytes are the same."""
        with self._lock:
            try:
                contents = read_files(self._paths)
                if contents != self._contents:
                    self._value, self._contents = self._make(contents), contents
                    _log.info("keys read again", files=[str(path) for path in self._paths])
                self._problem = ""
            except KeyFileError as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    _log.warning("changed keys cannot be used, those from before stay", problem=self._problem)
            return self._value


def read_files(paths: Sequence[Path]) -> tuple[bytes, ...]:
    """The bytes of each file. Raises KeyFileError."""
    return tuple(map(_read, paths))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error
