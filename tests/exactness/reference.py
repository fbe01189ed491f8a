"""The reference set: indices and the payloads they became in one process, for any other to come to as well.

One .npz holds it: `bitstream_id` uint8 [16]; `kinds` text [n]; `shapes` int64 [n, 5], rate level, stages, rows,
columns and payload bytes of each entry; `indices` uint16 and `payloads` uint8, entry after entry.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from ndsc.codec.bitstream import encode_payload
from ndsc.codec.bundle import Bundle
from ndsc.codec.files import write_whole
from ndsc.codec.frames import Frame, Grid, pad, to_float
from ndsc.codec.runtime import EncoderSession

SMALL: Final = Grid(16, 32)
"""A frame of the 128 × 256 protocol."""
LARGE: Final = Grid(47, 156)
"""A frame of about 1242 × 375 pixels."""
ODD: Final = (Grid(1, 1), Grid(1, 7), Grid(3, 5), Grid(2, 2), Grid(5, 4), Grid(17, 33))
"""Padded cells, lone rows and columns, empty phases."""
REAL, DRAWN, UNIFORM = "real", "drawn", "uniform"
KINDS: Final = (REAL, DRAWN, UNIFORM)
"""Made by the encoder of a picture, drawn from the prior, each index as likely as any other."""


class ReferenceSetError(Exception):
    """A reference set cannot be made or read; the message is one line that says why."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One frame's indices and their payload."""

    kind: str
    rate_level: int
    indices: NDArray[np.int32]
    """[stages sent, rows, columns]."""
    payload: bytes

    @property
    def grid(self) -> Grid:
        """Rows and columns of positions."""
        return Grid(*self.indices.shape[1:])

    @property
    def grid_name(self) -> str:
        """Such as 16x32, rows first."""
        return f"{self.grid.height}x{self.grid.width}"


@dataclass(frozen=True, eq=False)
class Reference:
    """Entries of one bitstream: the odd grids first, then the small ones, then the large ones."""

    bitstream_id: bytes
    entries: tuple[Entry, ...]

    def of(self, *grids: Grid) -> tuple[Entry, ...]:
        """The entries of these grids."""
        return tuple(entry for entry in self.entries if entry.grid in grids)

    def part(self, entries: Sequence[Entry]) -> Reference:
        """A reference set of just these."""
        return Reference(self.bitstream_id, tuple(entries))

    def summary(self) -> dict[str, object]:
        """How many entries of each kind, level and grid, how many different ones, and the payloads' bytes."""
        return {
            "frames": len(self.entries),
            "different": len(
                {entry.indices.tobytes() + bytes(entry.grid_name, "ascii") for entry in self.entries}
            ),
            "kinds": dict(Counter(entry.kind for entry in self.entries)),
            "rate_levels": dict(Counter(str(entry.rate_level) for entry in self.entries)),
            "grids": dict(Counter(entry.grid_name for entry in self.entries)),
            "payload_bytes": sum(len(entry.payload) for entry in self.entries),
        }

    def save(self, path: Path) -> None:
        """Write the .npz, whole or not at all. Raises OutputError."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            bitstream_id=np.frombuffer(self.bitstream_id, np.uint8),
            kinds=np.array([entry.kind for entry in self.entries]),
            shapes=np.array(
                [(e.rate_level, *e.indices.shape, len(e.payload)) for e in self.entries], np.int64
            ),
            indices=np.concatenate([entry.indices.astype(np.uint16).ravel() for entry in self.entries]),
            payloads=np.frombuffer(b"".join(entry.payload for entry in self.entries), np.uint8),
        )
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an .npz of `save`. Raises ReferenceSetError."""
        try:
            # From memory: numpy leaves a damaged file open.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                kinds, shapes = file["kinds"].tolist(), file["shapes"].tolist()
                indices, payloads = file["indices"].astype(np.int32), file["payloads"].tobytes()
                bitstream_id = file["bitstream_id"].tobytes()
            entries, at, byte = [], 0, 0
            for kind, (level, stages, height, width, size) in zip(kinds, shapes, strict=True):
                end, last = at + stages * height * width, byte + size
                grids = indices[at:end].reshape(stages, height, width)
                entries.append(Entry(kind, level, grids, payloads[byte:last]))
                at, byte = end, last
            if (at, byte) != (indices.size, len(payloads)) or not entries:
                raise ValueError("its parts do not fit together")
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ReferenceSetError(f"{path}: not a reference set: {error}") from error
        return cls(bitstream_id, tuple(entries))


def make(
    bundle: Bundle, small: Iterator[Frame], large: Iterator[Frame], *, frames: int, larges: int, seed: int = 0
) -> Reference:
    """Draw the indices and encode them with the bundle's own sessions.

    Of every three frames one is real, one drawn and one uniform, and each kind goes through all rate levels.
    The odd grids come in every level, drawn and uniform.

    Args:
        bundle: its encoder makes the real indices, its prior the drawn ones.
        small: pictures of a 16 × 32 grid, a third of `frames`.
        large: pictures of a 47 × 156 grid, a third of `larges`.
        frames: entries of 16 × 32.
        larges: entries of 47 × 156.
        seed: of everything that is drawn.

    Raises ReferenceSetError when there are too few pictures or one makes another grid.
    """
    rng = np.random.default_rng(seed)
    encoder = EncoderSession(bundle.encoder_onnx, by_level=bundle.prior.rate_levels is not None)
    levels = bundle.rate_level_count
    wanted = [(kind, level, grid) for grid in ODD for level in range(levels) for kind in (DRAWN, UNIFORM)]
    for count, grid in ((frames, SMALL), (larges, LARGE)):
        wanted += [(KINDS[n % 3], n // 3 % levels, grid) for n in range(count)]
    entries = []
    for kind, level, grid in wanted:
        stages = bundle.stages_sent(level)
        if kind == REAL:
            picture = next(small if grid == SMALL else large, None)
            if picture is None:
                raise ReferenceSetError(
                    f"too few pictures of a {grid.height}x{grid.width} grid; ask for fewer frames"
                )
            padded = pad(picture, bundle.geometry.stride)
            indices = encoder.run(to_float(padded)[None], np.array([level], np.int64))[0, :stages]
        elif kind == DRAWN:
            indices = bundle.prior.sample(rng, stages, grid.height, grid.width, level)
        else:
            sizes = bundle.prior.codebook_sizes[:stages]
            shape = (grid.height, grid.width)
            indices = np.stack([rng.integers(size, size=shape, dtype=np.int32) for size in sizes])
        if indices.shape != (stages, grid.height, grid.width):
            raise ReferenceSetError(
                f"a picture made indices {list(indices.shape)} for {grid.height}x{grid.width}"
            )
        entries.append(Entry(kind, level, indices, encode_payload(indices, level, bundle.bitstream)))
    return Reference(bundle.bitstream_id, tuple(entries))
