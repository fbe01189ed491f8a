"""Section 10 of proto/SPEC.md: the kinds of error."""

from __future__ import annotations


class SpecError(Exception):
    """Data that a reader must refuse; each kind is a class below."""


class BundleError(SpecError):
    """Use another bundle."""


class FrameFileError(SpecError):
    """Not a sound `.ndsc` file."""


class BitstreamMismatchError(SpecError):
    """Bits of another bundle."""


class RateLevelError(SpecError):
    """No such rate level."""


class GeometryError(SpecError):
    """A frame size that the bundle does not code."""


class PayloadSizeError(SpecError):
    """A length that no payload of this grid and rate level has."""


class PayloadCorruptError(SpecError):
    """A payload of a possible length that is not what was sent."""
