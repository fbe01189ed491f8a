"""Every error of the package, grouped by what the caller can do about it.

    NdscError
    ├── BundleError             use another bundle: a file is missing or changed, the manifest is not valid or
    │                           of an unknown version, or the golden vectors do not come out
    ├── ProviderError           change the installation or the provider asked for: it is absent, fell back to
    │                           the CPU or cannot run the graph, or both onnxruntime builds are there
    ├── ImageError              give another image: not readable, or a suffix that cannot be written
    ├── GeometryError           give another frame: not uint8 RGB, a size the bundle cannot code, or side
    │                           information of another size than the frame
    ├── RateLevelError          ask for a rate level that the bundle has
    ├── OutputError             free the way for a result: no such folder, no permission, no space
    ├── DamagedError            get the data again: these bytes will never decode
    │   ├── PayloadSizeError    a payload shorter or longer than its geometry allows
    │   ├── PayloadCorruptError a payload of a possible length whose bits are not what was sent
    │   └── FrameFileError      not a .ndsc file, truncated, changed, or of an unknown version
    └── BitstreamMismatchError  load the bundle that the bits were made with

Every message is one line that says what is wrong and what to do.
"""

from __future__ import annotations

from pydantic import ValidationError

_LONGEST_TEXT = 300


class NdscError(Exception):
    """Base of all errors raised on purpose by this package."""


class BundleError(NdscError):
    """The bundle cannot be used; the message names the file at fault."""


class ProviderError(NdscError):
    """The execution provider asked for is not the one that would run, or cannot run the graph."""


class ImageError(NdscError):
    """Not a readable image, or not an image format that can be written."""


class GeometryError(NdscError):
    """A frame, or its side information, that the bundle cannot code because of its shape."""


class RateLevelError(NdscError):
    """The bundle has no such rate level."""


class OutputError(NdscError):
    """A result cannot be written where it was asked for."""


class DamagedError(NdscError):
    """Bytes from the wire or from a file are damaged; never retry with the same bytes."""


class PayloadSizeError(DamagedError):
    """Payload shorter or longer than its geometry and rate level allow."""


class PayloadCorruptError(DamagedError):
    """Payload whose bits are not the ones that were sent (CRC-32C or canonical form)."""


class FrameFileError(DamagedError):
    """Not a `.ndsc` file, or a damaged one."""


class BitstreamMismatchError(NdscError):
    """Bits made with another bitstream id than the bundle's."""


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's complaints in one line: where, and what."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return printable(f"{where}: {first['msg']}" if where else first["msg"])


def printable(text: str) -> str:
    """Text from a file that may come from anyone, fit for one line of a message."""
    line = "".join(c if c.isprintable() else "?" for c in text[:_LONGEST_TEXT])
    return f"{line}…" if len(text) > _LONGEST_TEXT else line
