"""Bearer tokens: what is taken, what is refused, and that neither is quoted."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ndsc.service.certificates import PRIVATE, PUBLIC, make_token_keys
from ndsc.service.errors import UNAUTHENTICATED, RefusedError
from ndsc.service.identity import Identity, IdentityError
from ndsc.service.tokens import TokenVerifier, issue_token, read_token
from ndsc.service.watched import KeyFileError


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    make_token_keys(folder)
    return folder


@pytest.fixture(scope="module")
def verifier(keys: Path) -> TokenVerifier:
    return TokenVerifier(keys / PUBLIC)


def signed(keys: Path, *, algorithm: str = "EdDSA", key: Any = None, **claims: Any) -> str:
    """A token with these claims in place of legal ones; None leaves a claim out."""
    legal = {
        "sub": "alice",
        "rig": "rig",
        "role": "client",
        "aud": "ndsc",
        "iat": int(time.time()),
        "exp": int(time.time()) + 60,
    }
    chosen = {name: value for name, value in (legal | claims).items() if value is not None}
    own: Any = load_pem_private_key((keys / PRIVATE).read_bytes(), password=None)
    return jwt.encode(chosen, key or own, algorithm=algorithm)


def refusal(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(RefusedError) as refused:
        verifier.verify(token)
    assert refused.value.reason == UNAUTHENTICATED
    message = str(refused.value)
    assert message.isprintable()
    assert len(token) < 16 or token not in message
    return message


def test_an_issued_token_is_taken(keys: Path, verifier: TokenVerifier) -> None:
    credential = verifier.verify(issue_token(keys / PRIVATE, rig="rig", name="alice", valid_s=60))
    assert credential.identity == Identity("rig", "client", "alice")
    assert 50 < credential.expires_s - time.time() <= 60
    assert verifier.verify(signed(keys, iat=int(time.time()) + 30)).identity == credential.identity


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"exp": 1}, "the token has expired: issue a new one (`ndsc token issue`)"),
        ({"exp": None}, "the token has no claim exp"),
        ({"sub": None}, "the token has no claim sub"),
        ({"rig": None}, "the token has no claim rig"),
        ({"role": None}, "the token has no claim role"),
        ({"iat": None}, "the token has no claim iat"),
        ({"aud": None}, "the token has no claim aud"),
        ({"aud": "other"}, "the token is for another audience than ndsc"),
        ({"role": "camera"}, "the token is for another role than client"),
        ({"rig": ".."}, "the token names no client: rig must be"),
        ({"rig": 3.5}, "the token's claim rig is no text"),
        ({"sub": 3}, "the token is no JSON Web Token"),
        ({"sub": "a/b"}, "the token names no client: name must be"),
        ({"exp": "soon"}, "the token is no JSON Web Token"),
        ({"exp": float("inf")}, "the token is no JSON Web Token"),
    ],
)
def test_claims_that_are_refused(
    keys: Path, verifier: TokenVerifier, claims: dict[str, Any], message: str
) -> None:
    assert refusal(verifier, signed(keys, **claims)).startswith(message)


def test_signatures_that_are_refused(keys: Path, verifier: TokenVerifier) -> None:
    foreign = signed(keys, key=Ed25519PrivateKey.generate())
    assert refusal(verifier, foreign).startswith("the token was signed with another key than this server's")
    public = base64.b64encode((keys / PUBLIC).read_bytes()).decode()
    shared = signed(keys, algorithm="HS256", key=public)
    assert refusal(verifier, shared) == "the token is signed by another algorithm than EdDSA"
    head = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).rstrip(b"=").decode()
    body = signed(keys).split(".")[1]
    assert refusal(verifier, f"{head}.{body}.") == "the token is signed by another algorithm than EdDSA"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_changed_token_is_refused(keys: Path, verifier: TokenVerifier, data: st.DataObject) -> None:
    token = issue_token(keys / PRIVATE, rig="rig", name="alice", valid_s=60)
    at = data.draw(st.integers(0, len(token) - 2))  # the last character's low bits mean nothing
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != token[at]))
    refusal(verifier, token[:at] + other + token[at + 1 :])


@given(st.text())
def test_any_text_is_refused(verifier: TokenVerifier, text: str) -> None:
    refusal(verifier, text)


def test_a_new_key_ends_old_tokens(tmp_path: Path) -> None:
    make_token_keys(tmp_path / "old")
    make_token_keys(tmp_path / "new")
    old = issue_token(tmp_path / "old" / PRIVATE, rig="rig", name="alice", valid_s=60)
    new = issue_token(tmp_path / "new" / PRIVATE, rig="rig", name="alice", valid_s=60)
    verifier = TokenVerifier(tmp_path / "old" / PUBLIC)
    verifier.verify(old)
    refusal(verifier, new)
    (tmp_path / "new" / PUBLIC).replace(tmp_path / "old" / PUBLIC)
    verifier.verify(new)
    refusal(verifier, old)


def test_key_files_that_cannot_be_used(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="holds no public key of `ndsc token keys`"):
        TokenVerifier(keys / PRIVATE)
    with pytest.raises(KeyFileError, match="cannot be read: No such file"):
        TokenVerifier(tmp_path / "nowhere")
    with pytest.raises(KeyFileError, match="holds no private key of `ndsc token keys`"):
        issue_token(keys / PUBLIC, rig="rig", name="alice", valid_s=60)
    with pytest.raises(IdentityError, match="rig must be"):
        issue_token(keys / PRIVATE, rig="", name="alice", valid_s=60)


def test_token_files(keys: Path, tmp_path: Path) -> None:
    token = issue_token(keys / PRIVATE, rig="rig", name="alice", valid_s=60)
    path = tmp_path / "token"
    path.write_text(f"{token}\n")
    assert read_token(path) == token
    for contents in (b"", b"secret", b"\xff", b"a.b.c", (keys / PRIVATE).read_bytes()):
        path.write_bytes(contents)
        with pytest.raises(KeyFileError, match="holds no token of `ndsc token issue`") as refused:
            read_token(path)
        assert str(path) in str(refused.value)
        assert "secret" not in str(refused.value)
