# SPDX-License-Identifier: Apache-2.0
"""Who may read what: the signer, the common name and users.yaml decide together."""

from __future__ import annotations

import time

import pytest

from certs import profile
from certs.authority import Authority
from certs.bundle import TrustBundle
from certs.profile import Profile
from clustermesh_apiserver.serve.access import Access
from clustermesh_apiserver.serve.users import User, UsersError, parse_users

OWN = Authority.create("own", time.time(), 2)
PEER = Authority.create("peer", time.time(), 2)
OTHER = Authority.create("other", time.time(), 2)
STRANGER = Authority.create("stranger", time.time(), 2)


def access(*users: str, shared: bool = False) -> Access:
    trust = TrustBundle({"blue": OWN.certificate_pem, "green": PEER.certificate_pem, "red": OTHER.certificate_pem})
    if shared:
        trust = TrustBundle({"blue": OWN.certificate_pem, "green": OWN.certificate_pem})
    return Access("blue", trust, [User(name, "remote") for name in users])


def cert(authority: Authority, name: str) -> bytes:
    return authority.issue(Profile(name), time.time()).cert_pem


def test_a_listed_peer_reads_our_state_and_only_ours() -> None:
    grant = access("remote-green").grant(cert(PEER, "remote-green"))
    assert grant is not None
    assert grant.name == "remote-green"
    assert grant.covers(b"cilium/state/services/v1/blue/", b"cilium/state/services/v1/blue0")
    assert grant.covers(b"cilium/synced/blue/", b"cilium/synced/blue0")
    assert grant.covers(b"cilium/cluster-config/blue", b"")
    assert grant.covers(b"cilium/.heartbeat", b"")
    for key, end in (
        (b"cilium/cluster-config/green", b""),
        (b"cilium/cluster-config/", b"cilium/cluster-config0"),
        (b"cilium/synced/blueberry/x", b""),
        (b"cilium/cache/", b"cilium/cache0"),
        (b"clustermesh/private/ip/v1/default/10.1.0.9", b""),
        (b"clustermesh/", b"clustermesh0"),
        (b"cilium/state", b"cilium/statf"),
        (b"\0", b"\0"),
    ):
        assert not grant.covers(key, end), key


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        (PEER, "remote-red"),
        (PEER, "admin-blue"),
        (PEER, "local-blue"),
        (PEER, "local-green"),
        (PEER, "root"),
        (PEER, "remote"),
        (OWN, "remote-green"),
        (OWN, "remote-blue"),
        (OWN, "admin-green"),
        (OWN, "root"),
        (STRANGER, "remote-green"),
        (STRANGER, "admin-blue"),
        (OTHER, "remote-red"),
    ],
)
def test_nobody_speaks_for_somebody_else(authority: Authority, name: str) -> None:
    assert access("remote-green").grant(cert(authority, name)) is None


def test_a_peer_that_is_not_listed_reads_nothing() -> None:
    assert access().grant(cert(PEER, "remote-green")) is None
    assert access("remote-red").grant(cert(PEER, "remote-green")) is None


def test_the_shared_name_is_for_peers_and_must_be_listed() -> None:
    assert access("remote").grant(cert(PEER, "remote")) is not None
    assert access("remote").grant(cert(OWN, "remote")) is None
    assert access("remote").grant(cert(STRANGER, "remote")) is None


def test_our_own_users_need_no_list() -> None:
    admin = access().grant(cert(OWN, "admin-blue"))
    assert admin is not None
    assert admin.covers(b"cilium/", b"cilium0")
    local = access().grant(cert(OWN, "local-blue"))
    assert local is not None
    assert local.covers(b"cilium/cache/ip/v1/green/", b"cilium/cache/ip/v1/green0")
    assert local.covers(b"cilium/state/identities/v1/id/", b"cilium/state/identities/v1/id0")
    assert local.covers(b"clustermesh/private/ip/v1/default/", b"clustermesh/private/ip/v1/default0")


def test_agents_share_a_name_and_not_their_limits() -> None:
    granting = access("remote-green")
    local, peer = granting.grant(cert(OWN, "local-blue")), granting.grant(cert(PEER, "remote-green"))
    assert local is not None
    assert peer is not None
    assert local.is_per_address, "a hundred nodes of ours are a hundred clients"
    assert not peer.is_per_address, "however many addresses a peer has"


def test_clusters_that_share_an_authority_are_told_apart_by_name() -> None:
    shared = access("remote-green", shared=True)
    assert shared.grant(cert(OWN, "remote-green")) is not None
    assert shared.grant(cert(OWN, "local-blue")) is not None
    assert shared.grant(cert(OWN, "remote-red")) is None


def test_what_is_no_certificate_gets_nothing() -> None:
    assert access("remote-green").grant(b"") is None
    assert access("remote-green").grant(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") is None


def test_users_are_read_and_our_own_names_left_out() -> None:
    text = (
        "users: [{name: remote-green, role: remote}, {name: blue}, {name: remote-blue}, {name: admin-blue, role: root}]"
    )
    assert parse_users(text, "blue") == (User("remote-green", "remote"),)
    assert parse_users("", "blue") == ()
    assert parse_users("users:", "blue") == ()
    assert parse_users("users: []", "blue") == ()


@pytest.mark.parametrize(
    "text", ["users: {}", "users: [1]", "users: [{role: remote}]", "users: [{name: a, role: king}]", "]", "text", "[]"]
)
def test_a_users_file_that_means_nothing_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(UsersError, match=r"users\.yaml"):
        parse_users(text, "blue")


def test_the_server_certificate_of_a_peer_is_no_client() -> None:
    made = PEER.issue(profile.server("green", "kube-system"), time.time())
    assert access("remote-green").grant(made.cert_pem) is None


@pytest.mark.parametrize(
    ("name", "is_admitted"),
    [
        ("remote-green", True),
        ("admin-blue", True),
        ("local-blue", True),
        ("remote-red", False),
        ("remote-nobody", False),
        ("remote", False),
        ("local-green", False),
    ],
)
def test_a_name_is_admitted_while_an_authority_may_certify_it(name: str, is_admitted: bool) -> None:
    assert access("remote-green", "remote-nobody").admits(name) is is_admitted
    assert access("remote").admits("remote")
    assert not Access("blue", TrustBundle(), [User("remote-green", "remote")]).admits(name)
