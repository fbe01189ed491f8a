"""Each checker passes a sound history and sees what is wrong with broken ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from tests.robustness import checkers
from tests.robustness.archives import Archived
from tests.robustness.conditions import Conditions, Reference, Window
from tests.robustness.history import Event, History, Side

FRAMES = 12
SESSION = {"left": "a1" * 16, "top": "b2" * 16, "right": "c3" * 16}
DECODER, DECODER_AGAIN = 10, 11
PID = {"left": 20, "top": 21, "right": 22}
RESTART = 7
"""The frame before which the decoder was killed and started again."""

Break: TypeAlias = Callable[[list[Event]], list[Event]]


def _at(sequence: float) -> int:
    """Monotonic time of a frame's capture in microseconds, 100 ms apart."""
    return round(1_000_000 + sequence * 100_000)


def _time(sequence: int) -> int:
    return 1_700_000_000_000_000 + sequence * 100_000


def _node(name: str, camera: str, m_us: int, **facts: Any) -> Event:
    kind = "side" if camera == "right" else "camera"
    return Event(name, m_us, PID[camera], "node", kind, camera, SESSION[camera], facts)


def _decoder(name: str, camera: str, m_us: int, **facts: Any) -> Event:
    kind = "side" if camera == "right" else "camera"
    pid = DECODER if m_us < _at(RESTART) else DECODER_AGAIN
    return Event(name, m_us, pid, "decoder", kind, camera, SESSION[camera], facts)


def _frame(camera: str, sequence: int) -> Iterator[Event]:
    """From capture to acknowledgement."""
    m = _at(sequence)
    y = {"outcome": "paired", "stream": "right", "y_time_us": _time(sequence)}
    yield _node("captured", camera, m, capture=sequence, capture_time_us=_time(sequence))
    yield _node(
        "coded",
        camera,
        m + 1000,
        sequence=sequence,
        capture_time_us=_time(sequence),
        rate_level=1,
        bytes=99,
        crc=sequence,
    )
    yield _node("sent", camera, m + 2000, sequence=sequence)
    yield _decoder("received", camera, m + 3000, sequence=sequence, crc=sequence)
    if camera == "top":
        yield _decoder("stored", camera, m + 4000, sequence=sequence)
    settled = "held" if camera == "right" else "decoded"
    facts = {"sequence": sequence, "capture_time_us": _time(sequence), "crc": sequence, "level": 1}
    yield _decoder(settled, camera, m + 5000, **facts, image=100 + sequence, **y)
    yield _node("acked", camera, m + 6000, up_to=sequence)


def _session(camera: str) -> Iterator[Event]:
    delivery = "archive" if camera == "top" else "live"
    yield _node("start", camera, _at(0), delivery=delivery, fps=10)
    yield _node("opened", camera, _at(0.5), next_sequence=1, resumed=False, bitstream="00")
    for sequence in range(1, FRAMES + 1):
        if sequence == RESTART:
            yield _node("lost", camera, _at(sequence) - 20_000, why="Socket closed")
            yield _node("opened", camera, _at(sequence) - 10_000, next_sequence=sequence, resumed=False)
        yield from _frame(camera, sequence)
    if camera == "left":
        yield _node(
            "captured", camera, _at(FRAMES + 1), capture=FRAMES + 1, capture_time_us=_time(FRAMES + 1)
        )
        yield _node("dropped", camera, _at(FRAMES + 1), count=1, why="age")
    dropped = int(camera == "left")
    counts = {"failed": 0, "unknown": 0, "waiting": 0, "dropped": dropped, "captured": FRAMES + dropped}
    yield _node("end", camera, _at(FRAMES + 2), sent=FRAMES, acked=FRAMES, **counts)


def sound() -> list[Event]:
    """One LIVE camera, one ARCHIVE camera and their side information, through a decoder's death."""
    starts = [
        Event("start", _at(-1), DECODER, "decoder"),
        Event("start", _at(RESTART) - 15_000, DECODER_AGAIN, "decoder"),
    ]
    return [*starts, *(event for camera in SESSION for event in _session(camera))]


DEATH = Window(_at(RESTART - 0.5), _at(RESTART), frozenset({"left", "top"}))
CONDITIONS = Conditions(
    windows=(DEATH,),
    killed=frozenset({DECODER}),
    age_bound_ms=50,
    references={("left", SESSION["left"], 3): Reference(payload_crc=3, image_crc=103)},
)


def _is(event: Event, name: str, camera: str, sequence: int | None = None) -> bool:
    return (event.name, event.camera) == (name, camera) and sequence in (None, event.facts.get("sequence"))


def without(name: str, camera: str, sequence: int | None = None) -> Break:
    """Leave events out."""
    return lambda events: [e for e in events if not _is(e, name, camera, sequence)]


def changed(name: str, camera: str, number: int | None = None, /, m_us: int = 0, **facts: Any) -> Break:
    """Change facts of events, and their time by `m_us`."""
    return lambda events: [
        replace(e, m_us=e.m_us + m_us, facts=e.facts | facts) if _is(e, name, camera, number) else e
        for e in events
    ]


def added(side: Side, name: str, camera: str, m_us: int, **facts: Any) -> Break:
    """Add an event."""
    event = (_node if side == "node" else _decoder)(name, camera, m_us, **facts)
    return lambda events: [*events, event]


def both(*breaks: Break) -> Break:
    """One after the other."""

    def apply(events: list[Event]) -> list[Event]:
        for change in breaks:
            events = change(events)
        return events

    return apply


def repeated(name: str, camera: str, sequence: int, later_us: int) -> Break:
    """The event happens again."""
    return lambda events: [
        *events,
        *(replace(e, m_us=e.m_us + later_us) for e in events if _is(e, name, camera, sequence)),
    ]


BROKEN: dict[str, list[tuple[str, Break, str]]] = {
    "Ordered": [
        (
            "decoded late",
            changed("decoded", "left", 3, m_us=150_000),
            "frame 3 decoded: sequence 3 came after 4",
        ),
        ("time turned back", changed("decoded", "top", 4, capture_time_us=_time(3)), "capture_time_us"),
        ("sent out of order", changed("sent", "left", 5, m_us=150_000), "sent: sequence 5 came after 6"),
        ("numbered twice", changed("coded", "left", 5, sequence=4), "coded: sequence 4 came after 4"),
    ],
    "Unique": [
        ("decoded again", repeated("decoded", "top", 6, 400_000), "settled 2 times"),
        ("stored again", repeated("stored", "top", 6, 400_000), "stored 2 times"),
        (
            "failed and decoded",
            added("decoder", "failed", "left", _at(9), sequence=2, reason="X"),
            "settled 2",
        ),
        ("two frames of one number", changed("coded", "top", 5, sequence=4), "coded 2 times"),
    ],
    "Accounted": [
        ("vanished", without("dropped", "left"), "captured 13, dropped 0 and coded 12"),
        ("no account", without("end", "top"), "left no account, and nobody killed it"),
        ("acked, never decoded", without("decoded", "left", 4), "acknowledged, but the decoder never had it"),
        (
            "acked, never stored",
            both(without("stored", "top", 4), without("decoded", "top", 4)),
            "never had it",
        ),
        (
            "given up, yet decoded",
            added("node", "discarded", "left", _at(9), sequence=8),
            "but the decoder had it",
        ),
        (
            "failed on one side",
            added("node", "failed", "left", _at(9), sequence=8, reason="X"),
            "not by the deco",
        ),
        ("unknown without reason", added("node", "unknown", "left", _at(9), sequence=8), "no decoder lost"),
        ("wrong count", changed("end", "left", waiting=1), "do not leave the 0 frames that have no fate"),
        ("counted twice", changed("end", "left", sent=13, acked=13), "of an earlier process: -1 frames"),
        ("of no node", without("coded", "left", 8), "but no node coded it"),
        ("side frame vanished", without("held", "right", 4), "the decoder never had it"),
    ],
    "Fresh": [
        ("late", changed("decoded", "left", 3, m_us=60_000), "frame 3 was decoded 65 ms after"),
        ("later and later", lambda events: [_later(e) for e in events], "age grew from"),
    ],
    "Complete": [
        ("stored, never decoded", without("decoded", "top", 5), "frame 5 was stored and neither"),
        (
            "coded, lost with the decoder",
            both(without("decoded", "top", 6), without("stored", "top", 6)),
            "was coded",
        ),
        (
            "archived too often",
            both(without("decoded", "top", 5), without("decoded", "top", 6)),
            "in 1 deaths",
        ),
        ("lossless, yet dropped", lambda events: events, "left dropped 1 frames: age"),
    ],
    "Resumable": [
        ("skips", changed("opened", "top", next_sequence=9), "over 8, which was not done with"),
        ("skips LIVE frames", changed("opened", "left", next_sequence=9), "over 7, which was not done with"),
        ("goes back over acks", changed("opened", "left", next_sequence=3), "though 6 had been acknowledged"),
        (
            "regresses",
            added("node", "opened", "top", _at(RESTART) - 9_000, next_sequence=5, resumed=True),
            "went back from 7 to 5",
        ),
    ],
    "Uncorrupted": [
        ("another payload", changed("decoded", "left", 4, crc=77), "crc 4 came out as 77"),
        ("another level", changed("decoded", "left", 4, level=0), "rate_level 1 came out as 0"),
        ("another picture", changed("decoded", "left", 3, image=1), "image 1 is not the reference's 103"),
        ("y that was never", changed("decoded", "left", 4, y_time_us=_time(4) + 10), "captured nothing at"),
        ("y of another time", changed("decoded", "left", 4, y_time_us=_time(5)), "lies 100 ms away"),
        (
            "y without a name",
            changed("decoded", "left", 4, outcome="absent"),
            "yet it names side information",
        ),
    ],
    "Isolated": [
        ("lost call", changed("lost", "top"), "lost: Socket closed"),
        ("failed", added("decoder", "failed", "top", _at(9), sequence=9, reason="X"), "failed: X"),
        ("late in the window", changed("decoded", "top", 6, m_us=60_000), "was 65 ms old"),
    ],
}


def _later(event: Event) -> Event:
    """Its age grows by 60 ms a frame, of a bound that is far away."""
    if not _is(event, "decoded", "left"):
        return event
    return replace(event, m_us=event.m_us + 60_000 * event["sequence"])


@pytest.mark.parametrize("promise", checkers.PROMISES, ids=lambda promise: promise.name)
def test_sound_history_passes(promise: checkers.Promise) -> None:
    history = History(sound())
    assert promise.check(history, _conditions(promise.name, "")) == []
    if promise.name != "Isolated":
        assert promise.concerns(history, CONDITIONS), "the checker had something to look at"


CASES = [(name, *case) for name, cases in BROKEN.items() for case in cases]


@pytest.mark.parametrize(("name", "case", "broken", "seen"), CASES, ids=lambda value: str(value)[:40])
def test_broken_history_is_seen(name: str, case: str, broken: Break, seen: str) -> None:
    promise = next(promise for promise in checkers.PROMISES if promise.name == name)
    violations = promise.check(History(broken(sound())), _conditions(name, case))
    assert any(seen in violation for violation in violations), violations


def _conditions(name: str, case: str) -> Conditions:
    if case == "later and later":
        return replace(CONDITIONS, age_bound_ms=800)
    if case == "changed on the way":
        return replace(CONDITIONS, spoilt=frozenset({("left", SESSION["left"], 5)}))
    if case == "archived too often":
        return replace(CONDITIONS, archived=_archived(5, 6))
    if case == "lossless, yet dropped":
        return replace(CONDITIONS, lossless=True)
    if name == "Isolated" and case:  # a fault on the LIVE camera alone
        return replace(CONDITIONS, windows=(replace(DEATH, cameras=frozenset({"left"})),))
    return CONDITIONS


def test_a_killed_decoder_may_owe_the_word_of_one_frame() -> None:
    history = History(without("decoded", "top", 6)(sound()))
    assert checkers.complete(history, replace(CONDITIONS, archived=_archived(6))) == []


def _archived(*sequences: int) -> Archived:
    keys = frozenset(("top", SESSION["top"], sequence) for sequence in sequences)
    return Archived(stored=keys, decoded=keys)


def test_every_promise_has_broken_histories() -> None:
    assert {promise.name for promise in checkers.PROMISES} == BROKEN.keys()
    assert all(len(cases) >= 2 for cases in BROKEN.values())
