"""Every fault that is done to a run, by its name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tests.robustness.faults import decoders, links, processes, surroundings
from tests.robustness.rig import Rig


@dataclass(frozen=True)
class Scenario:
    """One kind of fault."""

    fault: str
    run: Callable[[Rig], Awaitable[None]]
    alone: bool = False
    """Whether it needs the whole machine."""


SCENARIOS: Final = (
    Scenario("none", processes.undisturbed),
    Scenario("decoder killed", processes.decoder_killed),
    Scenario("node killed", processes.node_killed),
    Scenario("decoder frozen", processes.decoder_frozen),
    Scenario("node frozen", processes.node_frozen),
    Scenario("link cut", links.link_cut),
    Scenario("link half-open", links.link_half_open),
    Scenario("delay and jitter", links.link_late),
    Scenario("bits flipped", links.bits_flipped),
    Scenario("frames bad", links.frames_bad),
    Scenario("100 kbit/s", links.link_slow),
    Scenario("packets lost", links.packets_lost),
    Scenario("side information stalled", processes.side_information_stalled),
    Scenario("clock stepped", surroundings.clock_stepped),
    Scenario("spool full", surroundings.spool_full),
    Scenario("archive full", surroundings.archive_full),
    Scenario("certificate expired", surroundings.certificate_expired),
    Scenario("camera name taken", surroundings.name_taken),
    Scenario("subscriber slow", surroundings.subscriber_slow),
    Scenario("bundle changed", decoders.bundle_changed),
    Scenario("everything", processes.everything),
    Scenario("archive replayed", decoders.archive_replayed),
    Scenario("decoder 3 times too slow", decoders.decoder_slow, alone=True),
)
