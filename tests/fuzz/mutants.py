"""Mutants: sound payloads and files with one kind of damage each, every one a function of a seed and a number."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Final

import google_crc32c

from ndsc.codec.bitstream import PAYLOAD_CRC_BYTES, payload_bounds
from ndsc.codec.frames import Grid
from tests.fuzz.sound import OTHER_GRIDS, OWN, RENAMED, STATIC, Claim, Pool, Sound

WORD: Final = 4
FILE_CRC_BYTES: Final = 4
HEADER_BYTES: Final = 30
HEADER_FIELDS: Final[Mapping[str, tuple[int, int]]] = {
    # name: (start, end)
    "magic": (0, 4),
    "version": (4, 5),
    "rate level": (5, 6),
    "width": (6, 8),
    "height": (8, 10),
    "bitstream id": (10, 26),
    "payload length": (26, 30),
}


@dataclass(frozen=True)
class Mutant:
    """Bytes to decode."""

    kind: str
    """For the table of outcomes."""
    data: bytes
    claim: Claim | None
    """What a payload is said to be; None for the bytes of a `.ndsc` file, which say it themselves."""
    unchanged: bool = False
    """The damage gave the same bytes back."""


def flip_bits(rng: Random, data: bytes, other: bytes) -> bytes:
    """1 to 8 bits."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def change_bytes(rng: Random, data: bytes, other: bytes) -> bytes:
    """1 to 8 bytes get any value."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def flip_in_last_word(rng: Random, data: bytes, other: bytes) -> bytes:
    """Where the spare bits are, that no index hangs on."""
    place = max(0, len(data) - WORD)
    return data[:place] + flip_bits(rng, data[place:], other)


def truncate(rng: Random, data: bytes, other: bytes) -> bytes:
    """At the front or at the end, at any byte or at a word, by a little or to a little."""
    cut = rng.randint(0, len(data))
    cut = rng.choice([cut, cut // WORD * WORD, min(rng.randint(0, 12), len(data)), max(0, len(data) - 1)])
    cut = rng.choice([cut, max(0, len(data) - rng.randint(1, 4) * WORD)])
    return data[:cut] if rng.random() < 0.8 else data[len(data) - cut :]


def extend(rng: Random, data: bytes, other: bytes) -> bytes:
    """Zeros, ones, anything or a part of another, at the end or at the front, mostly a few whole words."""
    size = rng.choice([1, 2, 3, WORD, WORD, 2 * WORD, WORD * rng.randint(1, 16), rng.randint(1, 1 << 14)])
    more = rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size), (other or b"\0")[:size]])
    return data + more if rng.random() < 0.8 else more + data


def insert_words(rng: Random, data: bytes, other: bytes) -> bytes:
    """1 to 4 words, anywhere between two."""
    place, size = _place(rng, data), WORD * rng.randint(1, 4)
    more = rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size), data[place : place + size]])
    return data[:place] + more + data[place:]


def remove_words(rng: Random, data: bytes, other: bytes) -> bytes:
    """1 to 4 words out of the middle."""
    place = _place(rng, data)
    return data[:place] + data[place + WORD * rng.randint(1, 4) :]


def swap_words(rng: Random, data: bytes, other: bytes) -> bytes:
    """Two words, the two halves of one, or all of them turned around."""
    first, second = sorted((_place(rng, data), _place(rng, data)))
    a, b = data[first : first + WORD], data[second : second + WORD]
    how = rng.randrange(8)
    if how == 0:
        words = [data[i : i + WORD] for i in range(0, len(data), WORD)]
        return b"".join(reversed(words))
    if how == 1:
        return data[:first] + a[::-1] + data[first + WORD :]
    if first == second:
        return data
    return data[:first] + b + data[first + WORD : second] + a + data[second + WORD :]


def splice(rng: Random, data: bytes, other: bytes) -> bytes:
    """The start of one and the end of another, at one place or at two."""
    here = _place(rng, data) if rng.random() < 0.8 else rng.randint(0, len(data))
    there = here if rng.random() < 0.7 else _place(rng, other)
    return data[:here] + other[there:]


def transplant(rng: Random, data: bytes, other: bytes) -> bytes:
    """A part of another in the same place."""
    start, end = sorted((_place(rng, data), _place(rng, data)))
    return data[:start] + other[start : start + (end - start)] + data[end:]


def run_of_one_value(rng: Random, data: bytes, other: bytes) -> bytes:
    """Zeros or ones over a part, or over all."""
    start, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    if rng.random() < 0.2:
        start, end = 0, len(data)
    return data[:start] + rng.choice([b"\0", b"\xff"]) * (end - start) + data[end:]


def random_bytes(rng: Random, data: bytes, other: bytes) -> bytes:
    """As many as there were, or as there could be."""
    return rng.randbytes(len(data) if rng.random() < 0.7 else WORD * rng.randint(0, len(data) // 2))


Damage = Callable[[Random, bytes, bytes], bytes]
"""(random numbers, data, data of the same sort) → damaged data, sometimes as it was."""

DAMAGES: Final[Mapping[str, tuple[Damage, int]]] = {
    # name: (damage, how often)
    "bits flipped": (flip_bits, 20),
    "bytes changed": (change_bytes, 12),
    "bits flipped in the last word": (flip_in_last_word, 6),
    "truncated": (truncate, 12),
    "extended": (extend, 8),
    "words inserted": (insert_words, 6),
    "words removed": (remove_words, 6),
    "words swapped": (swap_words, 8),
    "spliced": (splice, 10),
    "part of another": (transplant, 6),
    "run of zeros or ones": (run_of_one_value, 6),
    "random bytes": (random_bytes, 6),
}


def _place(rng: Random, data: bytes) -> int:
    """Of a word."""
    return WORD * rng.randint(0, len(data) // WORD)


class Mutator:
    """Makes mutants of a pool's payloads; the same seed and number make the same one."""

    def __init__(self, pool: Pool, seed: int) -> None:
        self._pool = pool
        self._seed = seed
        self._damages = list(DAMAGES)
        self._damage_weights = [often for _, often in DAMAGES.values()]
        # Of residual stages level 0 takes the least time and says the most: each further level takes half as many.
        by_level = pool.bundle.prior.rate_levels is not None
        self._level_weights = [1.0 if by_level else 2.0**-level for level in range(pool.levels)]
        geometry = pool.bundle.geometry
        side = max(1, min(geometry.max_side // geometry.stride, 1024))
        self._largest_grid = Grid(side, max(1, min(side, geometry.max_pixels // geometry.stride**2 // side)))

    def make(self, number: int) -> Mutant:
        """The mutant of this number, 0 or more."""
        rng = Random(self._seed << 40 | number)
        makers = (self._payload, self._sealed_payload, self._file, self._sealed_header, self._announced)
        (maker,) = rng.choices(makers, (55, 15, 10, 12, 8))
        return maker(rng)

    def _payload(self, rng: Random) -> Mutant:
        """A damaged payload as it is."""
        sound = self._base(rng)
        name, data = self._damaged_payload(rng, sound)
        return Mutant(f"payload: {name}", data, sound.claim, unchanged=data == sound.payload)

    def _sealed_payload(self, rng: Random) -> Mutant:
        """A damaged payload in a file whose length and checksum fit."""
        sound = self._base(rng)
        name, data = self._damaged_payload(rng, sound)
        file = self._pool.file(replace(sound, payload=data))
        return Mutant(f"file, sealed: payload {name}", file, None, unchanged=data == sound.payload)

    def _file(self, rng: Random) -> Mutant:
        """A damaged file."""
        name, damage = self._damage(rng)
        sound = self._pool.file(self._base(rng))
        data = damage(rng, sound, self._pool.file(self._base(rng)))
        return Mutant(f"file: {name}", data, None, unchanged=data == sound)

    def _sealed_header(self, rng: Random) -> Mutant:
        """A file with a changed header, or any damage at all, whose checksum fits."""
        sound = self._any(rng) if rng.random() < 0.2 else self._base(rng)
        body = self._pool.file(sound)[:-FILE_CRC_BYTES]
        if rng.random() < 0.2:
            name, damage = self._damage(rng)
            changed = damage(rng, body, self._pool.file(self._base(rng))[:-FILE_CRC_BYTES])
            return Mutant(f"file, sealed: {name}", sealed(changed), None, unchanged=changed == body)
        field = rng.choice(list(HEADER_FIELDS))
        start, end = HEADER_FIELDS[field]
        value = self._field_value(rng, field, body[start:end])
        changed = body[:start] + value + body[end:]
        return Mutant(f"file, sealed: other {field}", sealed(changed), None, unchanged=changed == body)

    def _field_value(self, rng: Random, field: str, value: bytes) -> bytes:
        if field == "bitstream id" and rng.random() < 0.5:
            return self._pool.streams[rng.choice([OWN, RENAMED, STATIC])].bitstream_id
        if field in ("width", "height") and rng.random() < 0.9:
            geometry = self._pool.bundle.geometry
            most = geometry.max_side if rng.random() < 0.02 else 40 * geometry.stride
            edges = [0, 1, geometry.max_side, geometry.max_side + 1, 0xFFFF]
            near = int.from_bytes(value, "little") + rng.randint(-9, 9)
            chosen = rng.choices([rng.randint(0, most), near, rng.choice(edges)], (5, 4, 1))[0]
            return (max(0, chosen) & 0xFFFF).to_bytes(2, "little")
        if len(value) in (1, 4) and rng.random() < 0.7:
            near = int.from_bytes(value, "little") + rng.randint(-4, 4)
            return (near & ((1 << 8 * len(value)) - 1)).to_bytes(len(value), "little")
        return rng.choice([rng.randbytes(len(value)), bytes(len(value)), b"\xff" * len(value)])

    def _announced(self, rng: Random) -> Mutant:
        """A payload said to be another one than it is, or random bytes said to be one."""
        if rng.random() < 0.25:
            return self._invented(rng)
        sound = self._any(rng)
        claim = sound.claim
        how = rng.randrange(4)
        if how == 0:
            claim = replace(claim, rate_level=rng.choice([*range(self._pool.levels), self._pool.levels, 255]))
        elif how == 1:
            claim = replace(claim, grid=self._grid(rng, claim.grid))
        elif how == 2:
            claim = replace(claim, stream=rng.choice(list(self._pool.streams)))
        else:
            claim = self._any(rng).claim
        kind = ("another level", "another grid", "another bitstream", "another payload")[how]
        same = claim == sound.claim
        return Mutant(f"payload: said to be of {kind}", sound.payload, claim, unchanged=same)

    def _invented(self, rng: Random) -> Mutant:
        claim = self._any(rng).claim
        if rng.random() < 0.03:
            claim = replace(claim, grid=self._largest_grid)
        bounds = payload_bounds(self._pool.streams[claim.stream], claim.rate_level, claim.grid)
        least, most = (size // WORD for size in bounds)
        words = rng.choice([least, rng.randint(least, most), min(most, least + rng.randint(0, 64))])
        size = WORD * words
        data = rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size])
        return Mutant("payload: invented", data, claim)

    def _grid(self, rng: Random, grid: Grid) -> Grid:
        near = Grid(max(1, grid.height + rng.randint(-1, 1)), max(1, grid.width + rng.randint(-1, 1)))
        small = Grid(rng.randint(1, 40), rng.randint(1, 40))
        turned = Grid(grid.width, grid.height)
        halved = Grid(max(1, grid.height // 2), grid.width * 2)
        choices = [near, small, turned, halved, *OTHER_GRIDS, self._largest_grid]
        return rng.choices(choices, (30, 30, 10, 10, *(3 for _ in OTHER_GRIDS), 1))[0]

    def _damaged_payload(self, rng: Random, sound: Sound) -> tuple[str, bytes]:
        """Damage to all of a payload, or to its coded bytes with the checksum left as it was."""
        name, damage = self._damage(rng)
        data, other = sound.payload, self._base(rng, level=sound.claim.rate_level).payload
        if rng.random() < 0.5:
            return name, damage(rng, data, other)
        coded, crc = data[:-PAYLOAD_CRC_BYTES], data[-PAYLOAD_CRC_BYTES:]
        return name, damage(rng, coded, other[:-PAYLOAD_CRC_BYTES]) + crc

    def _damage(self, rng: Random) -> tuple[str, Damage]:
        (name,) = rng.choices(self._damages, self._damage_weights)
        return name, DAMAGES[name][0]

    def _base(self, rng: Random, level: int | None = None) -> Sound:
        if level is None:
            (level,) = rng.choices(range(self._pool.levels), self._level_weights)
        return rng.choice(self._pool.at_level[level])

    def _any(self, rng: Random) -> Sound:
        return rng.choice(self._pool.others) if rng.random() < 0.5 else self._base(rng)


def sealed(body: bytes) -> bytes:
    """A file's bytes with the checksum that fits them."""
    return body + struct.pack("<I", google_crc32c.value(body))
