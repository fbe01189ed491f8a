"""Who a peer is: a role with a name in a rig, written in certificates as spiffe://ndsc/RIG/ROLE/NAME."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, Self, get_args

from ndsc.codec.errors import NdscError, printable

Role = Literal["camera", "side-information", "client"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
TRUST_DOMAIN: Final = "spiffe://ndsc/"
"""What the URI of every identity begins with."""

# Names become folder names, so "." and ".." are none.
_NAME: Final = re.compile(r"(?!\.+\Z)[A-Za-z0-9_.-]{1,64}")


class IdentityError(NdscError):
    """No identity of this system, or not the one it should be."""


def is_name(text: str) -> bool:
    """Whether `text` can name a rig, a camera or a stream: 1 to 64 of A-Z a-z 0-9 _ . -, not dots alone."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True)
class Identity:
    """A role with a name in a rig. Raises IdentityError when a part of it is not legal."""

    rig: str
    role: Role
    name: str

    def __post_init__(self) -> None:
        for what, text in (("rig", self.rig), ("name", self.name)):
            if not is_name(text):
                raise IdentityError(
                    f"{what} must be 1 to 64 of the characters A-Z a-z 0-9 _ . -, not {printable(text[:80])!r}"
                )
        if self.role not in ROLES:
            raise IdentityError(f"role must be one of {', '.join(ROLES)}, not {printable(self.role)!r}")

    def __str__(self) -> str:
        return f"{self.role} {self.rig}/{self.name}"

    @property
    def uri(self) -> str:
        """As certificates name it in their subject alternative name."""
        return f"{TRUST_DOMAIN}{self.rig}/{self.role}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> Self:
        """The identity that `uri` gives it. Raises IdentityError."""
        parts = uri.removeprefix(TRUST_DOMAIN).split("/")
        if not uri.startswith(TRUST_DOMAIN) or len(parts) != 3:
            raise IdentityError(f"{printable(uri)!r} is not {TRUST_DOMAIN}RIG/ROLE/NAME")
        rig, role, name = parts
        return cls(rig, role, name)  # type: ignore[arg-type]  # __post_init__ checks the role


@dataclass(frozen=True)
class Credential:
    """What a certificate or a token proves."""

    identity: Identity | None
    """None: a certificate that names no role, such as a server's."""
    expires_s: float
    """Seconds since the Unix epoch."""
