"""Runs one scenario after another, two at a time, and checks what each wrote down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from tests.robustness.accounts import Accounts, Fate, accounts_of
from tests.robustness.archives import read_archive
from tests.robustness.bundles import Bundles, load_bundles, make_bundles
from tests.robustness.checkers import PROMISES
from tests.robustness.conditions import Conditions
from tests.robustness.credentials import Credentials
from tests.robustness.faults.evidence import NotInjectedError
from tests.robustness.history import HistoryError, Key
from tests.robustness.netns import UnavailableError
from tests.robustness.processes import ProcessError, be_interruptible
from tests.robustness.reference import Scene, references_of
from tests.robustness.rig import Rig
from tests.robustness.scenarios import SCENARIOS, Scenario

AT_ONCE: Final = 2
LONGEST_S: Final = 180.0
"""Beyond it a scenario has failed."""
_BUNDLES: Final = "bundles"


@dataclass
class Counts:
    """Frames of one camera or of several."""

    captured: int = 0
    sent: int = 0
    decoded: int = 0
    failed: int = 0
    dropped: int = 0
    unknown: int = 0

    def add(self, other: Counts) -> None:
        """Count those too."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)


@dataclass(frozen=True)
class Verdict:
    """One promise under one fault."""

    promise: str
    cameras: tuple[str, ...]
    counts: Counts
    violations: list[str]


@dataclass
class Result:
    """What came out of one scenario."""

    fault: str
    description: str
    status: str = "kept"
    """kept: every promise; violated; not injected: the fault does not show; failed: a service did not do its part;
    not run: this machine lacks something."""
    why: str = ""
    seconds: float = 0.0
    counts: dict[str, Counts] = field(default_factory=dict)
    """By camera."""
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def violations(self) -> int:
        """Of all promises."""
        return sum(len(verdict.violations) for verdict in self.verdicts)


def run_all(
    scenarios: Sequence[Scenario], folder: Path, report: Callable[[Result], None], seed: int = 0
) -> list[Result]:
    """Run scenarios, each in a folder and a process of its own; `report` hears of each as it ends."""
    make_bundles(folder / _BUNDLES)
    together = [scenario.fault for scenario in scenarios if not scenario.alone]
    alone = [scenario.fault for scenario in scenarios if scenario.alone]
    results = {}
    for faults, at_once in ((together, AT_ONCE), (alone, 1)):
        # A process of its own, so that the checks of one run do not hold up the proxies of another.
        with get_context("spawn").Pool(at_once, be_interruptible) as pool:
            for result in pool.imap_unordered(partial(_run_named, folder, seed), faults):
                results[result.fault] = result
                report(result)
            pool.close()
            pool.join()
    return [results[scenario.fault] for scenario in scenarios]


def _run_named(folder: Path, seed: int, fault: str) -> Result:
    scenario = next(scenario for scenario in SCENARIOS if scenario.fault == fault)
    place = folder / fault.replace(" ", "-").replace("/", "-")
    return asyncio.run(run(scenario, place, load_bundles(folder / _BUNDLES), seed))


async def run(scenario: Scenario, folder: Path, bundles: Bundles, seed: int = 0) -> Result:
    """Run one scenario in a new folder and check every promise."""
    folder.mkdir(parents=True)  # noqa: ASYNC240 - a moment
    result = Result(scenario.fault, (scenario.run.__doc__ or "").strip())
    started = time.monotonic()
    rig = Rig(folder, bundles, Credentials(folder / "certificates"), seed=seed)
    try:
        async with asyncio.timeout(LONGEST_S):
            await scenario.run(rig)
    except UnavailableError as error:
        result.status, result.why = "not run", str(error)
    except NotInjectedError as error:
        result.status, result.why = "not injected", str(error)
    except ProcessError as error:
        result.status, result.why = "failed", str(error)
    except TimeoutError:
        result.status, result.why = "failed", f"not done within {LONGEST_S:g} s"
    except Exception as error:
        # One run must not end all.
        result.status, result.why = "failed", repr(error)
    if result.status != "not run":
        try:
            check(rig, result)
        except HistoryError as error:
            result.status, result.why = "failed", str(error)
    result.seconds = round(time.monotonic() - started, 1)
    return result


def check(rig: Rig, result: Result) -> None:
    """Check every promise over what a run wrote down. Raises HistoryError."""
    history = rig.history()
    scene = Scene(rig.seed, rig.width, rig.height)
    conditions = Conditions(
        windows=tuple(rig.windows),
        killed=rig.killed,
        age_bound_ms=rig.age_bound_ms,
        lossless=rig.lossless,
        archived=read_archive(rig.folder / "archive"),
        spoilt=rig.spoilt,
        references=references_of(history, rig.bundles.all, scene) | rig.references,
    )
    accounts = accounts_of(history)
    result.counts = {camera: _counts(accounts, camera) for camera in sorted(history.cameras())}
    for promise in PROMISES:
        cameras = tuple(sorted(promise.concerns(history, conditions)))
        if not cameras:
            continue
        total = Counts()
        for camera in cameras:
            total.add(result.counts[camera])
        result.verdicts.append(Verdict(promise.name, cameras, total, promise.check(history, conditions)))
    if result.violations and result.status == "kept":
        result.status = "violated"


def _counts(accounts: Accounts, camera: str) -> Counts:
    def frames(keys: Iterable[Key]) -> int:
        return sum(key[0] == camera for key in keys)

    processes = [process for process in accounts.processes.values() if process.start.camera == camera]
    return Counts(
        captured=sum(process.captured for process in processes),
        sent=frames(accounts.first_sent),
        decoded=frames(accounts.decoded),
        failed=frames(accounts.refused),
        dropped=sum(process.dropped for process in processes) + frames(accounts.told[Fate.DISCARDED]),
        unknown=frames(accounts.told[Fate.UNKNOWN]),
    )
