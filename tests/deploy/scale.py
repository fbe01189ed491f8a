"""Four rigs, three decoders behind a proxy, one of them killed: `python -m tests.deploy.scale -o out/scale.json`.

What happens: a decoder is killed while frames that it stored wait for their side information. Its rigs go on
elsewhere. It comes back, the proxy is reloaded, and a node of a moved rig is killed and started again: it must
find the rest of its rig. Then another decoder is told to stop: its rig must go on without losing a frame. Exit
status: 0 nothing was lost and each rig was together all the time, 1 not so, 2 nothing could be run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

import grpc.aio
from rich.console import Console
from rich.table import Table

from ndsc.codec.bundle import Bundle
from ndsc.codec.errors import NdscError
from ndsc.codec.files import write_whole
from ndsc.service.channel import open_channel
from ndsc.service.errors import describe
from ndsc.service.tls import Certificates, load_certificates
from ndsc.v1.frame_stream_pb2 import Open, StreamFramesRequest
from ndsc.v1.frame_stream_pb2_grpc import FrameStreamServiceStub
from tests.deploy.fleet import DECODERS, RIGS, Fleet, TooBusyError, members
from tests.deploy.haproxy import Mode
from tests.exactness import machine
from tests.pki import Authority
from tests.robustness.accounts import Fate, accounts_of
from tests.robustness.archives import Archived, read_archive
from tests.robustness.bundles import make_bundles
from tests.robustness.checkers import PROMISES
from tests.robustness.conditions import Conditions, Window
from tests.robustness.history import Event, History
from tests.robustness.processes import ProcessError, be_interruptible
from tests.robustness.rig import Delivery
from tests.robustness.workspace import WorkspaceError, workspace

MODES: Final[tuple[Mode, ...]] = get_args(Mode)
SETTLED_S: Final = 3.0
"""After the death of its decoder a rig is together again elsewhere."""
SIDE_START_S: Final = 4.0
PATIENCE: Final = (1, 2, 4)
FROZEN_S: Final = 1.5
_MARGIN_US: Final = 100_000
_AGE_BOUND_MS: Final = 20_000
"""Of frames of rigs that no fault touched: this run shares its machine with a whole fleet."""


@dataclass
class Row:
    """Frames of the cameras of one delivery."""

    mode: Mode
    delivery: Delivery
    sessions: int = 0
    moved: int = 0
    """Sessions that went on at another decoder."""
    sent: int = 0
    decoded: int = 0
    """Each frame once."""
    duplicates: int = 0
    """Decoded again, by another decoder."""
    failed: int = 0
    dropped: int = 0
    """Given up by their node before they were sent."""
    unknown: int = 0
    """In flight at the death of a decoder, LIVE alone: sent, and never sent again."""
    lost: int = 0
    """With none of these fates."""


@dataclass
class Outcome:
    """What one run came to."""

    mode: Mode
    rows: list[Row] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    places: dict[str, list[str]] = field(default_factory=dict)
    """Of each rig, the decoders that it was at, in order."""
    killed: str = ""
    """The decoder that was killed."""
    drained: str = ""
    """The decoder that was told to stop."""
    stored_at_death: int = 0
    """Frames that it had acknowledged and not decoded."""
    move_s: dict[str, float] = field(default_factory=dict)
    """Of each rig that moved, from the death of its decoder to the first frame that another one received."""
    paired: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of each camera that moved, once its rig had settled: frames decoded with side information, and all."""
    refusals: dict[str, str] = field(default_factory=dict)
    """What those were told who may not be there."""
    seconds: float = 0.0


async def run(folder: Path, mode: Mode, bundle: Bundle, *, remembers: bool = True) -> Outcome:
    """Run the scenario below a folder and check it; again with more time on a machine that is too busy for it.

    Raises ProcessError, and TooBusyError when no time was enough.
    """
    for patience in PATIENCE:
        place = folder / f"{mode}-{patience}"
        try:
            return await _run(Fleet(place, mode, bundle, remembers=remembers, patience=patience))
        except TooBusyError as error:
            print(error, file=sys.stderr)
            if patience == PATIENCE[-1]:
                raise
    raise AssertionError


async def _run(fleet: Fleet) -> Outcome:
    started_s = time.monotonic()
    outcome = Outcome(fleet.mode)
    async with fleet.traffic():
        outcome.refusals = await _intrude(fleet)
        await fleet.stream(until=0.2)
        before = fleet.places()
        victim = outcome.killed = Counter(place for at in before.values() for place in at).most_common(1)[0][
            0
        ]
        moved = [rig for rig in RIGS if before[rig] == [victim]]
        side = members(moved[0])[-1]
        # The rig's ARCHIVE frames are stored and wait for side information that is not there yet.
        fleet.services[side.name].freeze()
        await asyncio.sleep(FROZEN_S)
        died_us = time.monotonic_ns() // 1000
        await fleet.services[victim].kill()
        fleet.services[side.name].thaw()
        outcome.stored_at_death = _waiting(fleet.histories(victim))
        await fleet.stream(until=0.3)
        await fleet.start_decoder(victim)
        await fleet.proxy.wait_for("UP")
        await fleet.proxy.reload()
        await fleet.services[side.name].kill()
        back_s = fleet.in_s(SIDE_START_S)
        gap_us = time.time_ns() // 1000, back_s * 1_000_000
        await fleet.start_node(side, back_s)
        await fleet.stream(until=0.6)
        places = {rig: at[-1] for rig, at in fleet.places().items()}
        outcome.drained = Counter(places.values()).most_common()[-1][0]
        drained = [rig for rig in RIGS if places[rig] == outcome.drained]
        stopped_us = time.monotonic_ns() // 1000
        await fleet.services[outcome.drained].stop()
        await fleet.start_decoder(outcome.drained)
        await fleet.proxy.wait_for("UP")
    outcome.places = fleet.places()
    outcome.rows = [_row(fleet, delivery, {*moved, *drained}) for delivery in get_args(Delivery)]
    for rig in moved:
        outcome.paired |= _paired(fleet, rig, died_us, gap_us)
    deaths = dict.fromkeys(moved, (died_us, stopped_us))
    outcome.violations = [
        *_together(outcome, before, drained),
        *(line for rig in RIGS for line in _promises(fleet, rig, deaths.get(rig))),
        *(
            line
            for rig in RIGS
            for line in _seen(fleet, rig, died_us if rig in moved else None, stopped=rig in drained)
        ),
        *(
            f"{camera}: {paired} of {decoded} frames after the move had side information"
            for camera, (paired, decoded) in outcome.paired.items()
            if 4 * paired < 3 * decoded or not decoded
        ),
    ]
    for rig in moved:
        received = fleet.histories(*set(DECODERS) - {victim}).of("decoder", "received")
        first_us = min((event.m_us for event in received if event["rig"] == rig), default=0)
        outcome.move_s[rig] = round((first_us - died_us) / 1e6, 2)
    outcome.seconds = round(time.monotonic() - started_s, 1)
    return outcome


async def _intrude(fleet: Fleet) -> dict[str, str]:
    """What callers are told who name no rig, or show a certificate that is for something else."""
    if fleet.mode == "plaintext":
        return {"no rig": await _told(fleet, None, None, None)}
    name, camera = fleet.server_name(RIGS[0]), members(RIGS[0])[0].name
    stranger = Authority(fleet.folder / "stranger").node("camera", camera, rig=RIGS[0])
    trusting = load_certificates(stranger)
    ours = load_certificates(fleet.files("camera", camera, RIGS[0]))
    trusting = Certificates(stranger, ours.ca_pem, trusting.pair_pem, ours.authorities, trusting.own)
    others = load_certificates(fleet.files("camera", "other", RIGS[1]))
    return {
        "no rig": await _told(fleet, ours, None, RIGS[0]),
        "certificate of another rig": await _told(fleet, others, name, RIGS[0]),
        "certificate of another authority": await _told(fleet, trusting, name, RIGS[0]),
    }


async def _told(fleet: Fleet, certificates: Certificates | None, name: str | None, rig: str | None) -> str:
    """The status of a StreamFrames call for the first camera of the first rig."""
    async with open_channel(fleet.proxy.address, certificates, name=name, rig=rig) as channel:
        opened = Open(rig=RIGS[0], camera=members(RIGS[0])[0].name)
        call: Any = FrameStreamServiceStub(channel).StreamFrames(
            iter([StreamFramesRequest(open=opened)]), timeout=10
        )
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            code, reason, _ = describe(error)
            return reason or code.name
    return "OK"


def _waiting(history: History) -> int:
    """Frames that a decoder has stored and not decoded."""
    accounts = accounts_of(history)
    return len(accounts.stored.keys() - accounts.decoded.keys() - accounts.refused.keys())


def _row(fleet: Fleet, delivery: Delivery, moved: Iterable[str]) -> Row:
    cameras = [m for rig in RIGS for m in members(rig) if m.role == "camera" and m.delivery == delivery]
    history = fleet.histories(*DECODERS, *(camera.name for camera in cameras))
    accounts = accounts_of(history)
    names = {camera.name for camera in cameras}
    decoded = [event.key for event in history.of("decoder", "decoded") if event.camera in names]
    archived = frozenset[Any]().union(*(archive.decoded for archive in _archives(fleet)))
    settled = {*decoded, *accounts.refused, *archived}
    unknown = accounts.told[Fate.UNKNOWN].keys() - settled
    given_up = accounts.told[Fate.DISCARDED].keys()
    return Row(
        mode=fleet.mode,
        delivery=delivery,
        sessions=len({key[:2] for key in accounts.coded}),
        moved=len(
            {key[:2] for key in accounts.coded if key[0].startswith(tuple(f"{rig}-" for rig in moved))}
        ),
        sent=len(accounts.first_sent),
        decoded=len(set(decoded)),
        duplicates=len(decoded) - len(set(decoded)),
        failed=len({key for key in accounts.refused if key[0] in names}),
        dropped=sum(process.dropped for process in accounts.processes.values()) + len(given_up),
        unknown=len(unknown),
        lost=len(accounts.coded.keys() - settled - unknown - given_up),
    )


def _archives(fleet: Fleet) -> list[Archived]:
    return [read_archive(fleet.folder / f"{name}.archive") for name in DECODERS]


def _together(outcome: Outcome, before: dict[str, list[str]], drained: Sequence[str]) -> Iterator[str]:
    """Cameras and side information of a rig are at one decoder, and move once when that goes, and not back."""
    for rig, at in before.items():
        if len(at) != 1:
            yield f"{rig} was at {at} before anything happened"
    if len({place for at in before.values() for place in at}) < 2:
        yield "all rigs were at one decoder"
    for rig, at in outcome.places.items():
        times = (before[rig] == [outcome.killed]) + (rig in drained)
        if at[:1] != before[rig] or len(at) != 1 + times:
            yield f"{rig} was to move {times} times, and went {at}"


def _promises(fleet: Fleet, rig: str, death_us: tuple[int, int] | None) -> Iterator[str]:
    """The promises of the stream, for one rig, over all its decoders; Fresh is no matter of a crowded machine.

    Ordered and Unique hold at each decoder: what two of them have of one session, they do not tell each other.
    With `death_us`, its decoder was killed in that time; else no frame may be unknown, nor any call be lost.
    """
    names = [member.name for member in members(rig)]
    cameras = frozenset(member.name for member in members(rig) if member.role == "camera")
    nodes = list(fleet.histories(*names))
    by_decoder = {name: [e for e in fleet.histories(name) if e.facts.get("rig") == rig] for name in DECODERS}
    everything = [*nodes, *(event for events in by_decoder.values() for event in events)]
    windows: tuple[Window, ...] = ()
    if death_us is not None:
        # To a session, a decoder that takes over is one that has lost its memory.
        everything += [
            Event("start", event.m_us, 0, "decoder")
            for event in nodes
            if event.name == "opened" and death_us[0] < event.m_us < death_us[1] and not event["resumed"]
        ]
        everything += [
            event for event in fleet.histories(*DECODERS).decoder_starts() if event.pid in fleet.killed
        ]
        windows = (Window(death_us[0], everything[0].m_us + (1 << 40), cameras),)
    archives = _archives(fleet)
    conditions = Conditions(
        windows=windows,
        killed=fleet.killed,
        age_bound_ms=_AGE_BOUND_MS,
        archived=Archived(
            frozenset[Any]().union(*(archive.stored for archive in archives)),
            frozenset[Any]().union(*(archive.decoded for archive in archives)),
        ),
    )
    for promise in PROMISES:
        if promise.name == "Fresh":
            continue
        if promise.name not in ("Ordered", "Unique"):
            lines = promise.check(History(everything), conditions)
            yield from (f"{rig} {promise.name}: {line}" for line in lines)
            continue
        for decoder, events in by_decoder.items():
            lines = promise.check(History([*nodes, *events]), conditions)
            yield from (f"{rig} at {decoder} {promise.name}: {line}" for line in lines)


def _seen(fleet: Fleet, rig: str, died_us: int | None, *, stopped: bool) -> Iterator[str]:
    """A subscriber gets pictures of every camera, before and after, and each once."""
    follower = fleet.followers[rig]
    if died_us is None and not stopped and follower.breaks:
        yield f"the subscription to {rig} broke, though its decoder was well"
    times = Counter((one.camera, one.session, one.sequence) for one in follower.seen)
    yield from (f"{rig}: picture {key} came {count} times" for key, count in times.items() if count > 1)
    for member in members(rig):
        if member.role != "camera":
            continue
        mine = [one for one in follower.seen if one.camera == member.name]
        if died_us is None:
            if not mine:
                yield f"no picture of {member.name} came"
            continue
        if not any(one.m_us < died_us for one in mine):
            yield f"no picture of {member.name} came before its decoder died"
        if not any(one.paired for one in mine if one.m_us > died_us):
            yield f"no picture of {member.name} with side information came after its decoder had died"


def _paired(fleet: Fleet, rig: str, died_us: int, gap_us: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Of each camera of a rig that has moved, once it had settled: frames with side information, and all decoded.

    Not those of the time in which its side node was dead. That a few do without is no matter of the proxy: a busy
    machine lets frames and side information drift apart.
    """
    history = fleet.histories(*DECODERS, *(member.name for member in members(rig)))
    found = {}
    for member in members(rig):
        if member.role != "camera":
            continue
        later = {
            event["capture_time_us"]
            for event in history.of("node", "captured", camera=member.name)
            if event.m_us > died_us + SETTLED_S * 1e6 * fleet.slowness
            and not gap_us[0] < event["capture_time_us"] + _MARGIN_US < gap_us[1] + 2 * _MARGIN_US
        }
        decoded = [
            e for e in history.of("decoder", "decoded", camera=member.name) if e["capture_time_us"] in later
        ]
        found[member.name] = sum(event["outcome"] == "paired" for event in decoded), len(decoded)
    return found


def print_table(outcomes: Iterable[Outcome], console: Console) -> None:
    """Frames by mode and delivery."""
    table = Table(title="four rigs, three decoders, one killed and one stopped: camera frames")
    names = [name for name in Row.__dataclass_fields__ if name not in ("mode", "delivery")]
    for name in ("mode", "delivery"):
        table.add_column(name)
    for name in names:
        table.add_column(name, justify="right")
    for outcome in outcomes:
        for row in outcome.rows:
            table.add_row(row.mode, row.delivery, *(str(getattr(row, name)) for name in names))
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.scale", description=(__doc__ or "").strip())
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"of {', '.join(MODES)}; default: both")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/scale.json"), help="the report")
    parser.add_argument(
        "--folder", type=Path, default=Path("out/scale"), help="histories and logs; it is emptied first"
    )
    parser.add_argument(
        "--forget",
        action="store_true",
        help="let the proxy not remember where rigs are, to see what for it does",
    )
    arguments = parser.parse_args(argv)
    modes = [mode for mode in MODES if not arguments.modes or mode in arguments.modes]
    if set(arguments.modes) - set(modes):
        parser.error(f"modes are {', '.join(MODES)}")
    be_interruptible()
    outcomes = []
    try:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with workspace(arguments.folder) as folder:
            bundle = make_bundles(folder / "bundles").present
            for mode in modes:
                outcome = asyncio.run(run(folder, mode, bundle, remembers=not arguments.forget))
                outcomes.append(outcome)
                told = f"{outcome.killed} killed, {outcome.drained} stopped"
                print(f"{mode}: {outcome.seconds:g} s, {told}, {outcome.refusals}", flush=True)
                for rig, at in outcome.places.items():
                    print(f"  {rig}: {' → '.join(at)}", flush=True)
                for line in outcome.violations:
                    print(f"  VIOLATED: {line}", flush=True)
        report = {"machine": machine.facts(), "runs": [asdict(outcome) for outcome in outcomes]}
        write_whole(arguments.output, json.dumps(report, indent=2).encode() + b"\n")
    except (NdscError, ProcessError, TooBusyError, WorkspaceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(outcomes, Console(width=140))
    well = not any(outcome.violations or any(row.lost for row in outcome.rows) for outcome in outcomes)
    print(f"{'nothing was lost' if well else 'FAILED'}; {arguments.output}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
