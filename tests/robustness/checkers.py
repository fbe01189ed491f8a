"""The promises of the stream, each with its checker: a pure function of a history, giving one line a violation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Final

from tests.robustness.accounts import Accounts, Fate, Process, accounts_of
from tests.robustness.conditions import Conditions
from tests.robustness.history import Event, History, Key

GROWTH: Final = 0.5
"""Part of the age bound by which the median age of a run's last third may exceed that of its first."""


@dataclass(frozen=True)
class Promise:
    """One promise of the stream."""

    name: str
    check: Callable[[History, Conditions], list[str]]
    concerns: Callable[[History, Conditions], frozenset[str]]
    """Cameras of a run that the promise speaks about."""


def ordered(history: History, _: Conditions) -> list[str]:
    """Sequences and capture times of a session strictly increase, as coded, as first sent and as decoded."""
    first_sent = accounts_of(history).first_sent.values()
    return [
        *_falling(history.of("node", "coded"), "sequence", "capture_time_us"),
        *_falling(first_sent, "sequence"),
        *_falling(history.of("decoder", "decoded"), "sequence", "capture_time_us"),
    ]


def unique(history: History, _: Conditions) -> list[str]:
    """A sequence names one frame, and that is stored once and decoded or refused once."""
    settled = history.of("decoder", "decoded", "failed")
    return [
        *_repeated(history.of("node", "coded"), "coded"),
        *_repeated(history.of("decoder", "stored"), "stored"),
        *_repeated(settled, "settled"),
    ]


def accounted(history: History, conditions: Conditions) -> list[str]:
    """Every captured frame has one fate, on which both sides and each node's own account agree."""
    violations: list[str] = []
    for kind in ("camera", "side"):
        accounts = accounts_of(history, kind)
        for process in accounts.processes.values():
            violations += _process_account(process, accounts, conditions)
        violations += _fates(history, accounts, conditions, kind)
        violations += _strangers(accounts, conditions)
    return violations


def fresh(history: History, conditions: Conditions) -> list[str]:
    """LIVE frames are decoded soon after they were captured, and no later as time goes on."""
    violations = []
    for camera in sorted(history.cameras("live")):
        ages = [
            (conditions.undisturbed_us(camera, captured.m_us, decoded.m_us) / 1000, decoded)
            for captured, decoded in decodings(history, camera)
        ]
        violations += [
            f"{decoded.where} was decoded {age:.0f} ms after its capture; the bound is {conditions.age_bound_ms}"
            for age, decoded in ages
            if age > conditions.age_bound_ms
        ]
        third = len(ages) // 3
        if third:
            first = median(age for age, _ in ages[:third])
            last = median(age for age, _ in ages[-third:])
            if last > first + GROWTH * conditions.age_bound_ms:
                violations.append(f"{camera}: age grew from {first:.0f} to {last:.0f} ms")
    return violations


def complete(history: History, conditions: Conditions) -> list[str]:
    """ARCHIVE: every coded frame was decoded, or failed with a reason, by the end. Lossless: every frame was.

    A decoder that is killed between its commit of a decoded frame and the word of it leaves one for which the
    archive alone speaks.
    """
    accounts = accounts_of(history)
    cameras = _kept(history, conditions)
    unsettled = [
        event
        for key, event in (accounts.coded | accounts.stored).items()
        if event.camera in cameras and key not in accounts.decoded and key not in accounts.refused
    ]
    deaths = sum(event.pid in conditions.killed for event in history.decoder_starts())
    violations = []
    for camera in sorted(cameras):
        archived = [e for e in unsettled if e.camera == camera and e.key in conditions.archived.decoded]
        if len(archived) > deaths:
            violations.append(
                f"{camera}: {len(archived)} frames were decoded without a word, in {deaths} deaths"
            )
    violations += [
        f"{event.where} was {event.name} and neither decoded nor refused"
        for event in unsettled
        if event.key not in conditions.archived.decoded
    ]
    if conditions.lossless:
        violations += [
            f"{event.camera} dropped {event['count']} frames: {event['why']}"
            for event in history.of("node", "dropped")
        ]
    return violations


def resumable(history: History, conditions: Conditions) -> list[str]:
    """A session goes on past all that is done with, over nothing that is not, and never goes back."""
    violations = []
    accounts = accounts_of(history)
    at: dict[tuple[str, str], int] = {}
    acked: Counter[tuple[str, str]] = Counter()
    for event in history.of("node", "opened", "acked"):
        stream = event.camera, event.session
        if event.name == "acked":
            acked[stream] = max(acked[stream], event["up_to"])
            continue
        start = event["next_sequence"]
        if start < at.get(stream, 0):
            violations.append(f"{event.where} went back from {at[stream]} to {start}")
        if start <= acked[stream]:
            violations.append(
                f"{event.where} resumed at {start} though {acked[stream]} had been acknowledged"
            )
        at[stream] = start
        violations += [
            f"{event.where} resumed at {start}, over {sequence}, which was not done with"
            for sequence in range(acked[stream] + 1, start)
            if not _done_with(accounts, (*stream, sequence), event, conditions)
        ]
    return violations


def uncorrupted(history: History, conditions: Conditions) -> list[str]:
    """What was decoded is what was coded, with side information that its camera did capture at that time."""
    violations = []
    accounts = accounts_of(history)
    captured: dict[str, set[int]] = {}
    for event in history.of("node", "captured", kind="side"):
        captured.setdefault(event.camera, set()).add(event["capture_time_us"])
    for key, decoded in accounts.decoded.items():
        coded = accounts.coded.get(key)
        if coded is not None:
            for fact, name in (
                ("crc", "crc"),
                ("capture_time_us", "capture_time_us"),
                ("rate_level", "level"),
            ):
                if coded[fact] != decoded[name]:
                    violations.append(f"{decoded.where}: {fact} {coded[fact]} came out as {decoded[name]}")
        violations += _side_information(decoded, captured, conditions)
        if key in conditions.spoilt:
            violations.append(f"{decoded.where} was changed on the way, and yet decoded")
        reference = conditions.references.get(key)
        if reference is not None:
            for fact, expected in (("crc", reference.payload_crc), ("image", reference.image_crc)):
                if decoded[fact] != expected:
                    violations.append(
                        f"{decoded.where}: {fact} {decoded[fact]} is not the reference's {expected}"
                    )
    return violations


def isolated(history: History, conditions: Conditions) -> list[str]:
    """Cameras on which no fault worked notice nothing: no failed frame, no lost call, no age beyond the bound."""
    violations = []
    for camera in sorted(_bystanders(history, conditions)):
        for event in [
            *history.of("decoder", "failed", camera=camera),
            *history.of("node", "lost", camera=camera),
        ]:
            violations.append(
                f"{event.where} {event.name}: {event.facts.get('reason', event.facts.get('why'))}"
            )
        for captured, decoded in decodings(history, camera):
            age_ms = (decoded.m_us - captured.m_us) / 1000
            if age_ms > conditions.age_bound_ms:
                violations.append(
                    f"{decoded.where} was {age_ms:.0f} ms old; the bound is {conditions.age_bound_ms}"
                )
    return violations


def _every(history: History, _: Conditions) -> frozenset[str]:
    return history.cameras()


def _live(history: History, _: Conditions) -> frozenset[str]:
    return history.cameras("live")


def _kept(history: History, conditions: Conditions) -> frozenset[str]:
    return history.cameras(None if conditions.lossless else "archive")


def _bystanders(history: History, conditions: Conditions) -> frozenset[str]:
    return history.cameras() - conditions.victims


PROMISES: Final = (
    Promise("Ordered", ordered, _every),
    Promise("Unique", unique, _every),
    Promise("Accounted", accounted, _every),
    Promise("Fresh", fresh, _live),
    Promise("Complete", complete, _kept),
    Promise("Resumable", resumable, _every),
    Promise("Uncorrupted", uncorrupted, _every),
    Promise("Isolated", isolated, _bystanders),
)


def _falling(events: Iterable[Event], *facts: str) -> Iterator[str]:
    """Each event whose facts do not exceed those of the event before it in the same session."""
    before: dict[tuple[str, str], Event] = {}
    for event in events:
        last = before.get((event.camera, event.session))
        for fact in facts:
            if last is not None and event[fact] <= last[fact]:
                yield f"{event.where} {event.name}: {fact} {event[fact]} came after {last[fact]}"
        before[event.camera, event.session] = event


def _repeated(events: Iterable[Event], what: str) -> Iterator[str]:
    for key, times in Counter(event.key for event in events).items():
        if times > 1:
            camera, session, sequence = key
            yield f"{camera} session {session[:8]} frame {sequence} was {what} {times} times"


def decodings(history: History, camera: str) -> list[tuple[Event, Event]]:
    """(captured, decoded) of a camera's decoded frames, in the order of decoding."""
    captured = {event["capture_time_us"]: event for event in history.of("node", "captured", camera=camera)}
    return [
        (captured[event["capture_time_us"]], event)
        for event in history.of("decoder", "decoded", camera=camera)
        if event["capture_time_us"] in captured
    ]


def _process_account(process: Process, accounts: Accounts, conditions: Conditions) -> Iterator[str]:
    """Captured = dropped + coded, and what the process says at its end."""
    start, end = process.start, process.end
    where = f"{start.camera} process {start.pid}"
    left = process.captured - process.dropped - process.coded
    if end is None:
        if start.pid not in conditions.killed:
            yield f"{where} left no account, and nobody killed it"
        elif not 0 <= left <= conditions.frames_in_hand:
            yield f"{where} was killed with {left} frames in hand"
        return
    if left:
        yield f"{where} captured {process.captured}, dropped {process.dropped} and coded {process.coded}"
    mine = {fate: [e for e in events.values() if e.pid == end.pid] for fate, events in accounts.told.items()}
    said = {
        "captured": process.captured,
        "dropped": process.dropped + len(mine[Fate.DISCARDED]),
        "failed": len(mine[Fate.FAILED]),
        "unknown": len(mine[Fate.UNKNOWN]),
    }
    for name, count in said.items():
        if end[name] != count:
            yield f"{where} says {end[name]} {name} at its end; its events say {count}"
    in_flight = end["sent"] - end["acked"] - end["unknown"]
    # A spool goes on to the next process, LIVE frames do not.
    spooled = start["delivery"] == "archive"
    held = [
        (key, coded)
        for key, coded in accounts.coded.items()
        if coded.pid == end.pid or (spooled and coded.camera == start.camera)
    ]
    open_ended = [key for key, _ in held if accounts.fate(key) is Fate.WAITING]
    if in_flight < 0 or end["waiting"] + in_flight != len(open_ended):
        yield (
            f"{where} sent {end['sent']}, acked {end['acked']}, unknown {end['unknown']}, waiting "
            f"{end['waiting']} do not leave the {len(open_ended)} frames that have no fate"
        )
    inherited = sum(
        coded.m_us < start.m_us and not _acked_before(accounts, key, start) for key, coded in held
    )
    missing = end["captured"] + inherited - end["sent"] - end["dropped"] - end["waiting"]
    # One killed before it could say what its spool took, or before its spool let go of what was acknowledged.
    killed_before = any(
        pid in conditions.killed and other.start.camera == start.camera and other.start.m_us < start.m_us
        for pid, other in accounts.processes.items()
    )
    if missing and not (killed_before and spooled and -conditions.frames_in_hand <= missing < 0):
        yield (
            f"{where} says captured {end['captured']}, sent {end['sent']}, dropped {end['dropped']}, waiting "
            f"{end['waiting']}, and has {inherited} of an earlier process: {missing:+} frames"
        )


def _acked_before(accounts: Accounts, key: Key, start: Event) -> bool:
    """Whether a frame was acknowledged to an earlier process of its node."""
    return any(
        ack.m_us < start.m_us and (ack.camera, ack.session) == key[:2] and ack["up_to"] >= key[2]
        for ack in accounts.acks
    )


def _fates(history: History, accounts: Accounts, conditions: Conditions, kind: str) -> Iterator[str]:
    """The node's word on each frame against the decoder's."""
    live = {event.camera for event in history.of("node", "start", kind=kind) if event["delivery"] == "live"}
    for key, coded in accounts.coded.items():
        told = [fate for fate, events in accounts.told.items() if key in events]
        if len(told) > 1:
            yield f"{coded.where} has {len(told)} fates: {', '.join(told)}"
        fate = accounts.fate(key)
        decoded, refused = key in accounts.decoded, key in accounts.refused
        stored = key in accounts.stored or key in conditions.archived.stored
        received = decoded or (stored and coded.camera not in live)
        if fate is Fate.ACKED and not received and not refused:
            yield f"{coded.where} was acknowledged, but the decoder never had it"
        if fate is Fate.FAILED and not refused:
            yield f"{coded.where} failed by the node's word, not by the decoder's"
        if fate is Fate.DISCARDED and (decoded or refused):
            yield f"{coded.where} was given up, but the decoder had it"
        if fate is Fate.UNKNOWN and not _restarted(history, accounts, key):
            yield f"{coded.where} is unknown though no decoder lost its memory"


def _restarted(history: History, accounts: Accounts, key: Key) -> bool:
    """Whether a decoder started between a frame's sending and the node's giving it up as unknown."""
    sent, unknown = accounts.first_sent.get(key), accounts.told[Fate.UNKNOWN][key]
    return sent is not None and any(sent.m_us < e.m_us < unknown.m_us for e in history.decoder_starts())


def _strangers(accounts: Accounts, conditions: Conditions) -> Iterator[str]:
    """Frames that the decoder had and no node coded; a node killed after its spool took one may not say so."""
    killed = {
        (process.start.camera, process.start.session): 1
        for pid, process in accounts.processes.items()
        if pid in conditions.killed
    }
    for key, event in (accounts.decoded | accounts.refused).items():
        if key in accounts.coded:
            continue
        owed = killed.get(key[:2], 0)
        killed[key[:2]] = owed - 1
        if owed < 1:
            yield f"{event.where} was {event.name}, but no node coded it"


def _done_with(accounts: Accounts, key: Key, opened: Event, conditions: Conditions) -> bool:
    """Whether a frame needed no more sending when a call was opened."""
    given_up = any(key in events for events in accounts.told.values())
    by_decoder = (accounts.decoded.get(key), accounts.refused.get(key), accounts.stored.get(key))
    return (
        given_up
        or key in conditions.archived.stored
        or key not in accounts.coded
        or any(event is not None and event.m_us <= opened.m_us for event in by_decoder)
    )


def _side_information(decoded: Event, captured: dict[str, set[int]], conditions: Conditions) -> Iterator[str]:
    if decoded["outcome"] != "paired":
        if decoded["y_time_us"] is not None:
            yield f"{decoded.where}: {decoded['outcome']}, yet it names side information"
        return
    stream, time_us = decoded["stream"], decoded["y_time_us"]
    offset_ms = abs(time_us - decoded["capture_time_us"]) / 1000
    if time_us not in captured.get(stream, ()):
        yield f"{decoded.where}: {stream} captured nothing at {time_us}"
    if offset_ms > conditions.pair_tolerance_ms:
        yield f"{decoded.where}: its side information lies {offset_ms:.0f} ms away"
