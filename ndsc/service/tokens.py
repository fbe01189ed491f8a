"""Bearer tokens of people and tools: JSON Web Tokens signed with Ed25519. Servers hold the public key alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from ndsc.service.errors import UNAUTHENTICATED, RefusedError
from ndsc.service.identity import Credential, Identity, IdentityError
from ndsc.service.watched import KeyFileError, Watched, read_files

AUDIENCE: Final = "ndsc"
_ALGORITHM: Final = "EdDSA"
_CLAIMS: Final = ("sub", "rig", "role", "exp", "iat", "aud")


class TokenVerifier:
    """Verifies tokens with a public key, which is read again when its file changes."""

    def __init__(self, public_key: Path) -> None:
        """Raises KeyFileError."""
        self._key = Watched((public_key,), lambda contents: _public_key(public_key, contents[0]))

    def verify(self, token: str) -> Credential:
        """Who the token names. Raises RefusedError (UNAUTHENTICATED), which never quotes the token."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key.current(),
                algorithms=[_ALGORITHM],
                audience=AUDIENCE,
                # The clock of who issued the token may be ahead of ours.
                options={"require": list(_CLAIMS), "verify_iat": False},
            )
        except jwt.InvalidTokenError as error:
            raise RefusedError(UNAUTHENTICATED, _why(error)) from None
        if claims["role"] != "client":
            raise RefusedError(UNAUTHENTICATED, "the token is for another role than client")
        if not isinstance(claims["rig"], str):  # of `sub` the library knows that it is text
            raise RefusedError(UNAUTHENTICATED, "the token's claim rig is no text")
        try:
            identity = Identity(claims["rig"], "client", claims["sub"])
        except IdentityError as error:
            raise RefusedError(UNAUTHENTICATED, f"the token names no client: {error}") from None
        return Credential(identity, float(claims["exp"]))


def issue_token(private_key: Path, *, rig: str, name: str, valid_s: float) -> str:
    """A token for client `name` of `rig`, valid from now on. Raises KeyFileError and IdentityError."""
    identity = Identity(rig, "client", name)
    (pem,) = read_files((private_key,))
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{private_key} holds no private key of `ndsc token keys`")
    now_s = int(time.time())
    claims = {
        "sub": identity.name,
        "rig": identity.rig,
        "role": identity.role,
        "aud": AUDIENCE,
        "iat": now_s,
        "exp": int(now_s + valid_s),
    }
    return jwt.encode(claims, key, algorithm=_ALGORITHM)


def read_token(path: Path) -> str:
    """The token in a file. Raises KeyFileError."""
    (contents,) = read_files((path,))
    try:
        token = contents.decode("ascii").strip()
        jwt.get_unverified_header(token)
    except (UnicodeDecodeError, jwt.InvalidTokenError):
        raise KeyFileError(f"{path} holds no token of `ndsc token issue`") from None
    return token


def _public_key(path: Path, pem: bytes) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{path} holds no public key of `ndsc token keys`")
    return key


def _why(error: jwt.InvalidTokenError) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "the token has expired: issue a new one (`ndsc token issue`)"
        case jwt.MissingRequiredClaimError():
            return f"the token has no claim {error.claim}"
        case jwt.InvalidAudienceError():
            return f"the token is for another audience than {AUDIENCE}"
        case jwt.InvalidSignatureError():
            return (
                "the token was signed with another key than this server's: issue one with the key that fits"
            )
        case jwt.InvalidAlgorithmError():
            return f"the token is signed by another algorithm than {_ALGORITHM}"
        case _:
            return "the token is no JSON Web Token of `ndsc token issue`"
