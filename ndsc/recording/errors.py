"""What goes wrong with recordings."""

from __future__ import annotations

from ndsc.codec.errors import NdscError


class RecordingError(NdscError):
    """The file is no recording, or damaged where it is read; or the packages that read it are missing."""
