"""The model: what a history says became of every frame of a camera session."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from tests.robustness.history import Event, History, Key


class Fate(StrEnum):
    """What a node believes of a frame that it numbered."""

    ACKED = "acked"
    FAILED = "failed"
    DISCARDED = "discarded"
    UNKNOWN = "unknown"
    WAITING = "waiting"


@dataclass
class Process:
    """One run of a node."""

    start: Event
    captured: int = 0
    dropped: int = 0
    """Before they had a number."""
    coded: int = 0
    end: Event | None = None
    """Its own account; a killed process wrote none."""


@dataclass
class Accounts:
    """Both sides' word on every frame."""

    processes: dict[int, Process] = field(default_factory=dict)
    coded: dict[Key, Event] = field(default_factory=dict)
    first_sent: dict[Key, Event] = field(default_factory=dict)
    acks: list[Event] = field(default_factory=list)
    acked_up_to: Counter[tuple[str, str]] = field(default_factory=Counter)
    told: dict[Fate, dict[Key, Event]] = field(default_factory=dict)
    """What the node wrote of single frames: failed, discarded, unknown."""
    decoded: dict[Key, Event] = field(default_factory=dict)
    refused: dict[Key, Event] = field(default_factory=dict)
    """Failed, by the decoder's word."""
    stored: dict[Key, Event] = field(default_factory=dict)

    def fate(self, key: Key) -> Fate:
        """What became of a frame, by the node's word. An ack is cumulative: what was given up lies below it."""
        for fate, events in self.told.items():
            if key in events:
                return fate
        camera, session, sequence = key
        return Fate.ACKED if sequence <= self.acked_up_to[camera, session] else Fate.WAITING


def accounts_of(history: History, kind: str = "camera") -> Accounts:
    """Read the accounts of every session of one kind out of a history."""
    accounts = Accounts()
    for event in history.of("node", "start", kind=kind):
        accounts.processes[event.pid] = Process(event)
    for event in history.of("node", "captured", "dropped", "coded", "end", kind=kind):
        process = accounts.processes[event.pid]
        if event.name == "captured":
            process.captured += 1
        elif event.name == "dropped":
            process.dropped += event["count"]
        elif event.name == "coded":
            process.coded += 1
        else:
            process.end = event
    _index(history.of("node", "coded", kind=kind), accounts.coded)
    _index(history.of("node", "sent", kind=kind), accounts.first_sent)
    accounts.acks = history.of("node", "acked", kind=kind)
    for event in accounts.acks:
        stream = event.camera, event.session
        accounts.acked_up_to[stream] = max(accounts.acked_up_to[stream], event["up_to"])
    for fate in (Fate.FAILED, Fate.DISCARDED, Fate.UNKNOWN):
        _index(history.of("node", fate, kind=kind), accounts.told.setdefault(fate, {}))
    _index(history.of("decoder", "decoded", "held", kind=kind), accounts.decoded)
    _index(history.of("decoder", "failed", kind=kind), accounts.refused)
    _index(history.of("decoder", "stored", kind=kind), accounts.stored)
    return accounts


def _index(events: list[Event], by_key: dict[Key, Event]) -> None:
    for event in events:
        by_key.setdefault(event.key, event)
