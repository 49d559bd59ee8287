# SPDX-License-Identifier: Apache-2.0
"""A new authority takes the old one's place; at every moment, and however late a Secret is seen, everybody who shows a
certificate is believed by everybody who was connected."""

from __future__ import annotations

import base64
import copy
import io
import itertools
from functools import lru_cache
from typing import Any, cast

import pytest

from certs import profile
from certs.authority import Authority
from certs.authority_secret import AuthorityPhase, read_authority
from certs.inspect import issued_by
from certs.store import CertFiles, decode_entry, encode_data, from_secret_data
from clustermesh_cli.commands.replace_authority import AuthorityReplacement, ReplacementOptions
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandRefusedError, ExitCode
from clustermesh_cli.link_proof import Patience
from clustermesh_cli.plan.authority_replacement import ReplacementStep
from kube.client import KubeClient
from meshapi.installed import (
    CA_BUNDLE,
    CA_SECRET,
    CERTIFICATE_SECRETS,
    LOCAL_SECRET,
    MIRROR_SECRET,
    PEERS_SECRET,
    REMOTE_SECRET,
    SERVER_SECRET,
)
from meshkit.clock import ManualClock
from tests.support.kept_objects import KeptObjects

SETTLE_S = 150.0
issued = lru_cache(None)(issued_by)
MIRROR_ENTRY = "north.etcd-client-ca.crt"


class KilledError(BaseException):
    """The command ends here."""


class World:
    """north replaces its authority; south reads it and is read by it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.writes = 0
        self.killed_at: int | None = None
        self.history: list[tuple[float, dict[str, Any]]] = []
        self.north, self.south = KeptObjects("north", self.wrote), KeptObjects("south", self.wrote)
        self.old = Authority.create("clustermesh north", self.clock.wall() - profile.DAY_S)
        self.north.install(self.old, self.clock.wall())
        theirs = Authority.create("clustermesh south", self.clock.wall())
        pems = {"north.crt": self.old.certificate_pem.decode(), "south.crt": theirs.certificate_pem.decode()}
        self.north.put(CA_BUNDLE, dict(pems))
        self.south.put(CA_BUNDLE, dict(pems))
        encoded = base64.b64encode(self.old.certificate_pem).decode()
        self.south.put(MIRROR_SECRET, {MIRROR_ENTRY: encoded})
        self.south.put(PEERS_SECRET, {"north": "", "other.etcd-client-ca.crt": "eA=="})
        self.north.put(MIRROR_SECRET, {"south.etcd-client-ca.crt": encode_data({"x": theirs.certificate_pem})["x"]})
        self.north.put(PEERS_SECRET, {})
        self.out = io.StringIO()
        self.wrote()
        self.writes = 0

    def wrote(self, _name: str = "") -> None:
        self.writes += 1
        self.history.append((self.clock.wall(), copy.deepcopy({"north": self.north.kept, "south": self.south.kept})))
        if self.writes == self.killed_at:
            raise KilledError

    def command(self, *, peers: bool = True, without: tuple[str, ...] = ()) -> AuthorityReplacement:
        options = ReplacementOptions(
            {"kind-south": cast(KubeClient, self.south)} if peers else {}, frozenset(without), SETTLE_S
        )
        console = Console(plain=True, stream=self.out)
        return AuthorityReplacement(cast(KubeClient, self.north), "ns", options, console, wall=self.clock.wall)

    def run(self, wait_s: float = 3600.0, **options: Any) -> ExitCode:
        patience = Patience(wait_s, self.clock.monotonic, lambda _: self.clock.advance(60.0))
        return self.command(**options).run(patience)

    def phase(self) -> AuthorityPhase:
        return read_authority(self.north.kept[CA_SECRET], CA_SECRET).phase

    def signing(self) -> bytes:
        return decode_entry(self.north.kept[CA_SECRET]["data"], "ca.crt")

    def check_history(self) -> None:
        """Whatever programs may see at one time, when every Secret reaches each of them up to SETTLE_S late, fits."""
        for first, second in itertools.combinations_with_replacement(range(len(self.history)), 2):
            replaced_s = self.history[first + 1][0] if first + 1 < len(self.history) else self.clock.wall()
            if self.history[second][0] < replaced_s + SETTLE_S:
                for shown, trusted in ((first, second), (second, first)):
                    seen = self.history[trusted][1]
                    check_trust(self.history[shown][1]["north"], seen["north"], seen["south"])


def check_trust(shown: dict[str, Any], own: dict[str, Any], peer: dict[str, Any]) -> None:
    def leaf(name: str) -> CertFiles:
        return from_secret_data(shown[name]["data"])

    assert issued(leaf(SERVER_SECRET).cert, from_secret_data(own[LOCAL_SECRET]["data"]).ca), "agents leave"
    assert issued(leaf(LOCAL_SECRET).cert, from_secret_data(own[SERVER_SECRET]["data"]).ca), "agents are refused"
    assert issued(leaf(SERVER_SECRET).cert, decode_entry(peer[MIRROR_SECRET]["data"], MIRROR_ENTRY)), "the peer leaves"
    assert issued(leaf(REMOTE_SECRET).cert, peer[CA_BUNDLE]["data"]["north.crt"].encode()), "the peer refuses"


@pytest.fixture
def world() -> World:
    return World()


def test_the_new_authority_ends_up_alone_everywhere(world: World) -> None:
    assert world.run() is ExitCode.OK
    new = world.signing()
    assert new != world.old.certificate_pem
    assert set(world.north.kept[CA_SECRET]["data"]) == {"ca.crt", "ca.key"}
    for name in CERTIFICATE_SECRETS:
        files = from_secret_data(world.north.kept[name]["data"])
        assert issued_by(files.cert, new)
        assert files.ca == new
    assert world.south.kept[CA_BUNDLE]["data"]["north.crt"].encode() == new
    assert world.north.kept[CA_BUNDLE]["data"]["north.crt"].encode() == new
    assert decode_entry(world.south.kept[MIRROR_SECRET]["data"], MIRROR_ENTRY) == new
    assert world.south.kept[PEERS_SECRET]["data"] == {"north": "", "other.etcd-client-ca.crt": "eA=="}
    world.check_history()


def test_killed_after_any_write_it_goes_on_and_nobody_is_refused_meanwhile() -> None:
    whole = World()
    whole.run()
    assert whole.writes > 15
    for number in range(1, whole.writes + 1):
        world = World()
        world.killed_at = number
        with pytest.raises(KilledError):
            world.run()
        began = world.signing() if world.phase() is not AuthorityPhase.SETTLED else None
        world.killed_at = None
        world.clock.advance(3.0)
        assert world.run() is ExitCode.OK
        assert world.phase() is AuthorityPhase.SETTLED
        world.check_history()
        if began is not None and number > whole.writes // 2:
            assert world.signing() == began, "one that was under way is finished, not begun again"


def test_it_stops_where_waiting_is_needed_and_says_how_to_go_on(world: World) -> None:
    assert world.run(wait_s=0.0) is ExitCode.TIMEOUT
    assert world.phase() is AuthorityPhase.ANNOUNCED
    assert world.signing() == world.old.certificate_pem
    assert "run clustermesh certs rotate --ca again" in world.out.getvalue()
    assert world.run(wait_s=0.0) is ExitCode.TIMEOUT
    world.clock.advance(SETTLE_S)
    assert world.run(wait_s=0.0) is ExitCode.TIMEOUT
    assert world.phase() is AuthorityPhase.REPLACED
    world.clock.advance(SETTLE_S)
    assert world.run(wait_s=0.0) is ExitCode.OK
    world.check_history()


def test_a_peer_that_cannot_be_told_is_named_before_anything_is_written(world: World) -> None:
    with pytest.raises(CommandRefusedError, match="south must be told"):
        world.run(peers=False)
    assert world.writes == 0
    assert world.run(peers=False, without=("south",)) is ExitCode.OK


def test_a_peer_connected_again_to_the_old_trust_is_told_again_before_the_next_write(world: World) -> None:
    world.run(wait_s=0.0)
    old = base64.b64encode(world.old.certificate_pem).decode()
    world.south.kept[MIRROR_SECRET]["data"][MIRROR_ENTRY] = old
    world.clock.advance(SETTLE_S)
    command = world.command()
    steps = [command.step() for _ in range(4)]
    assert steps == [ReplacementStep.UNMARK, ReplacementStep.TELL, ReplacementStep.MARK, ReplacementStep.WAIT]
    assert decode_entry(world.south.kept[MIRROR_SECRET]["data"], MIRROR_ENTRY) != world.old.certificate_pem


def test_a_clock_that_was_ahead_is_waited_for_anew(world: World) -> None:
    world.run(wait_s=0.0)
    world.clock.advance(-3600.0)
    assert world.run(wait_s=0.0) is ExitCode.TIMEOUT
    assert world.phase() is AuthorityPhase.ANNOUNCED
    world.clock.advance(SETTLE_S - 1)
    assert world.run(wait_s=0.0) is ExitCode.TIMEOUT
    assert world.phase() is AuthorityPhase.ANNOUNCED


def test_two_who_replace_it_at_the_same_time_replace_it_once(world: World) -> None:
    first, second = world.command(), world.command()
    steps: list[ReplacementStep] = []
    while len(steps) < 200:
        steps += [command.step() for command in (first, second)]
        world.clock.advance(1.0 if ReplacementStep.WAIT not in steps[-2:] else SETTLE_S)
        if steps[-2:] == [ReplacementStep.DONE] * 2:
            break
    assert steps.count(ReplacementStep.ANNOUNCE) == 1
    assert world.phase() is AuthorityPhase.SETTLED
    world.check_history()


def test_an_announced_key_that_was_edited_by_hand_stops_it(world: World) -> None:
    world.run(wait_s=0.0)
    world.north.kept[CA_SECRET]["data"]["next.key"] = "eA=="
    writes = world.writes
    with pytest.raises(Exception, match=r"CA key: not an unencrypted PEM private key"):
        world.run(wait_s=0.0)
    assert world.writes == writes
