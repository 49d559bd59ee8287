# SPDX-License-Identifier: Apache-2.0
"""What the facade makes of its files: nothing is served without all of them, and what cannot be used changes nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from certs import profile
from certs.authority import Authority
from certs.profile import Profile
from clustermesh_apiserver.serve.facade_server import FacadeServer
from clustermesh_apiserver.settings import ApiserverSettings

NOW = time.time()
OWN, GREEN = Authority.create("own", NOW, 200), Authority.create("green", NOW, 200)
SERVER = OWN.issue(profile.server("blue", "kube-system"), NOW)
OTHER = OWN.issue(profile.server("blue", "kube-system"), NOW)
PEER = GREEN.issue(Profile("remote-green"), NOW).cert_pem
LISTED = b"users: [{name: remote-green, role: remote}]"


class World:
    """The directories of a facade, and the facade that looks at them."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for name in ("server", "ca-bundle", "users"):
            (base / name).mkdir()
        self.facade = FacadeServer(
            ApiserverSettings(
                cluster_name="blue",
                cluster_id=1,
                server_cert_dir=base / "server",
                ca_file=base / "ca.crt",
                ca_bundle_dir=base / "ca-bundle",
                users_file=base / "users/users.yaml",
            )
        )

    def write(self, **files: bytes) -> None:
        places = {
            "cert": "server/tls.crt",
            "key": "server/tls.key",
            "ca": "server/ca.crt",
            "ca_file": "ca.crt",
            "green": "ca-bundle/green.crt",
            "blue": "ca-bundle/blue.crt",
            "users": "users/users.yaml",
        }
        for name, content in files.items():
            (self.base / places[name]).write_bytes(content)

    def complete(self) -> None:
        self.write(
            cert=SERVER.cert_pem,
            key=SERVER.key_pem,
            ca=OWN.certificate_pem,
            green=GREEN.certificate_pem,
            users=LISTED,
        )
        assert self.facade.look()

    @property
    def peer_may_read(self) -> bool:
        return self.facade.grant(PEER) is not None


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("missing", ["cert", "key", "ca"])
def test_nothing_is_served_before_certificate_key_and_authority_are_there(world: World, missing: str) -> None:
    files = {"cert": SERVER.cert_pem, "key": SERVER.key_pem, "ca": OWN.certificate_pem}
    world.write(**{name: content for name, content in files.items() if name != missing})
    assert not world.facade.look()
    assert len(world.facade.problems) == 1
    assert world.facade.problems[0].startswith("no certificate, key and authority in ")
    world.write(**files)
    assert world.facade.look()
    assert world.facade.problems == []
    assert world.facade.not_after_s > NOW


def test_the_authority_file_stands_in_where_the_server_directory_has_none(world: World) -> None:
    world.write(cert=SERVER.cert_pem, key=SERVER.key_pem, ca_file=OWN.certificate_pem)
    assert world.facade.look()


def test_a_listed_user_of_a_trusted_authority_may_read_until_it_is_listed_no_more(world: World) -> None:
    assert not world.peer_may_read
    world.complete()
    assert world.peer_may_read
    world.write(users=b"users: []")
    assert world.facade.look()
    assert not world.peer_may_read


def test_a_users_file_that_cannot_be_read_leaves_the_users_as_they_were_and_is_said(world: World) -> None:
    world.complete()
    world.write(users=b"users: [")
    assert world.facade.look()
    assert world.peer_may_read
    assert len(world.facade.problems) == 1
    world.write(users=LISTED)
    assert world.facade.look()
    assert world.facade.problems == []


def test_a_users_file_that_is_gone_lists_nobody(world: World) -> None:
    world.complete()
    (world.base / "users/users.yaml").unlink()
    assert world.facade.look()
    assert not world.peer_may_read


def test_a_certificate_of_another_key_is_a_problem_and_what_was_read_before_stays(world: World) -> None:
    world.complete()
    before = world.facade.certificates()
    world.write(cert=OTHER.cert_pem, users=b"users: []")
    assert not world.facade.look()
    assert world.peer_may_read
    assert world.facade.certificates() == before
    assert len(world.facade.problems) == 1
    world.write(key=OTHER.key_pem)
    assert world.facade.look()
    assert world.facade.problems == []
    assert not world.peer_may_read


def test_a_file_that_is_no_authority_is_said_and_leaves_the_others_trusted(world: World) -> None:
    world.complete()
    (world.base / "ca-bundle/red.crt").write_bytes(b"not a certificate")
    assert world.facade.look()
    assert [text.partition(":")[0] for text in world.facade.problems] == ["authority of red"]
    assert world.peer_may_read
    assert [role for role, _ in world.facade.certificates()] == ["server", "authority of blue", "authority of green"]


def test_the_bundle_cannot_name_another_authority_of_our_own(world: World) -> None:
    world.write(blue=GREEN.certificate_pem)
    world.complete()
    assert world.facade.grant(GREEN.issue(profile.local("blue"), NOW).cert_pem) is None
    assert world.facade.grant(OWN.issue(profile.local("blue"), NOW).cert_pem) is not None


def test_an_authority_that_could_not_be_read_is_forgotten_with_its_file(world: World) -> None:
    world.complete()
    world.write(green=b"")
    assert world.facade.look()
    assert world.facade.problems == ["authority of green: CA of green: not a PEM certificate"]
    (world.base / "ca-bundle/green.crt").unlink()
    assert world.facade.look()
    assert world.facade.problems == []
