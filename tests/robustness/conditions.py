"""What was done to a run from outside: the part of the truth that its history cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.robustness.archives import Archived
from tests.robustness.history import Key


@dataclass(frozen=True)
class Window:
    """A time in which a fault worked on some cameras."""

    start_us: int
    """CLOCK_MONOTONIC."""
    end_us: int
    """When the last of them was well again."""
    cameras: frozenset[str]

    def overlap_us(self, start_us: int, end_us: int) -> int:
        """How much of a span lies within."""
        return max(0, min(end_us, self.end_us) - max(start_us, self.start_us))


@dataclass(frozen=True)
class Reference:
    """What a frame must have come to, by an encoder and a decoder without any service around them."""

    payload_crc: int
    image_crc: int


@dataclass(frozen=True)
class Conditions:
    """What the checkers may expect of a run."""

    windows: tuple[Window, ...] = ()
    killed: frozenset[int] = frozenset()
    """Processes that were killed: they wrote no account of their end."""
    age_bound_ms: int = 1_500
    """Age that no LIVE frame exceeds when no fault works on its camera, from capture to decoding."""
    pair_tolerance_ms: int = 50
    frames_in_hand: int = 8
    """Frames that a camera node holds at most between capture and its account, lost when it is killed."""
    references: Mapping[Key, Reference] = field(default_factory=dict)
    """Of a sample of the decoded frames."""
    archived: Archived = field(default_factory=Archived)
    """What the archive held after the run."""
    spoilt: frozenset[Key] = frozenset()
    """Frames whose payload was changed on the way, which must fail."""
    lossless: bool = False
    """No camera may lose any frame, LIVE ones included."""

    @property
    def victims(self) -> frozenset[str]:
        """Cameras that a fault worked on."""
        return frozenset[str]().union(*(window.cameras for window in self.windows))

    def undisturbed_us(self, camera: str, start_us: int, end_us: int) -> int:
        """How much of a span no fault worked on a camera."""
        return (
            end_us
            - start_us
            - sum(window.overlap_us(start_us, end_us) for window in self.windows if camera in window.cameras)
        )
