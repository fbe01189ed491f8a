"""Names of peers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndsc.service.identity import ROLES, Identity, IdentityError, is_name


@pytest.mark.parametrize("role", ROLES)
def test_there_and_back(role: Any) -> None:
    identity = Identity("rig-1", role, "left.front_2")
    assert identity.uri == f"spiffe://ndsc/rig-1/{role}/left.front_2"
    assert Identity.parse(identity.uri) == identity
    assert str(identity) == f"{role} rig-1/left.front_2"


@given(
    st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True),
    st.sampled_from(ROLES),
    st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True),
)
def test_every_name_comes_back(rig: str, role: Any, name: str) -> None:
    if is_name(rig) and is_name(name):
        assert Identity.parse(Identity(rig, role, name).uri) == Identity(rig, role, name)
    else:
        assert set(rig) == {"."} or set(name) == {"."}
        with pytest.raises(IdentityError):
            Identity(rig, role, name)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://ndsc/",
        "spiffe://ndsc/rig/camera",
        "spiffe://ndsc/rig/camera/left/",
        "spiffe://ndsc/rig/camera/left/more",
        "spiffe://ndsc//camera/left",
        "spiffe://ndsc/rig/camera/",
        "spiffe://ndsc/rig/Camera/left",
        "spiffe://ndsc/rig/admin/left",
        "spiffe://ndsc/../camera/left",
        "spiffe://ndsc/rig/camera/..",
        "spiffe://ndsc/rig/camera/left\n",
        "spiffe://ndsc/rig/camera/le ft",
        "spiffe://ndsc/rig/camera/l%65ft",
        f"spiffe://ndsc/rig/camera/{'x' * 65}",
        "spiffe://ndsc.example/rig/camera/left",
        "SPIFFE://ndsc/rig/camera/left",
        "https://ndsc/rig/camera/left",
    ],
)
def test_what_is_no_identity(uri: str) -> None:
    with pytest.raises(IdentityError) as refused:
        Identity.parse(uri)
    assert "\n" not in str(refused.value)


@given(st.text() | st.text().map("spiffe://ndsc/rig/camera/ {}".format))
def test_any_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(IdentityError) as refused:
        Identity.parse(text)
    assert str(refused.value).isprintable()
