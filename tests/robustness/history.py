"""What the services of a run wrote down, merged into one sequence of events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeAlias

Side: TypeAlias = Literal["node", "decoder"]
Key: TypeAlias = tuple[str, str, int]
"""(camera, session, sequence): names a frame of a rig."""


class HistoryError(Exception):
    """A file that holds something else than events."""


@dataclass(frozen=True)
class Event:
    """One thing that one process said it did."""

    name: str
    """Such as "decoded"."""
    m_us: int
    """CLOCK_MONOTONIC in microseconds, which all processes of a machine share."""
    pid: int
    side: Side
    kind: str = "camera"
    """ "camera" or "side": what the stream carries."""
    camera: str = ""
    session: str = ""
    """In hexadecimal digits."""
    facts: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, fact: str) -> Any:
        return self.facts[fact]

    @property
    def key(self) -> Key:
        """Of the frame that the event is about."""
        return self.camera, self.session, self.facts["sequence"]

    @property
    def where(self) -> str:
        """The frame or the camera, for people."""
        frame = f" frame {self.facts['sequence']}" if "sequence" in self.facts else ""
        return f"{self.camera} session {self.session[:8]}{frame}"


class History:
    """Events in the order they happened."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = sorted(events, key=attrgetter("m_us"))  # stable: a process's own order stays
        self._by_name: dict[tuple[Side, str], list[Event]] = {}
        for event in self._events:
            self._by_name.setdefault((event.side, event.name), []).append(event)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __len__(self) -> int:
        return len(self._events)

    def of(self, side: Side, *names: str, kind: str = "camera", camera: str | None = None) -> list[Event]:
        """Events of these names, in order; those of one camera alone where one is given."""
        chosen = [event for name in names for event in self._by_name.get((side, name), ())]
        if len(names) > 1:
            chosen.sort(key=attrgetter("m_us"))
        return [e for e in chosen if e.kind == kind and (camera is None or e.camera == camera)]

    def cameras(self, delivery: str | None = None) -> frozenset[str]:
        """Names of the camera nodes, of one delivery alone where it is given."""
        return frozenset(
            event.camera for event in self.of("node", "start") if delivery in (None, event["delivery"])
        )

    def decoder_starts(self) -> list[Event]:
        """Each start of a decoder."""
        return self._by_name.get(("decoder", "start"), [])


def read_histories(paths: Iterable[Path]) -> History:
    """Merge files of JSON lines. A torn last line, left by kill -9, counts for nothing. Raises HistoryError."""
    return History(event for path in paths for event in _read(path))


def _read(path: Path) -> Iterator[Event]:
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            yield _event(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                return
            raise HistoryError(f"{path}:{number} is no event: {error!r}") from error


def _event(line: dict[str, Any]) -> Event:
    return Event(
        name=line.pop("event"),
        m_us=line.pop("m"),
        pid=line.pop("pid"),
        side=line.pop("side"),
        kind=line.pop("kind", "camera"),
        camera=line.pop("camera", ""),
        session=line.pop("session", ""),
        facts=line,
    )
