# SPDX-License-Identifier: Apache-2.0
"""Certificates are renewed before they end, whoever edits, steps the clock, or does the same at the same time."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from typing import Any, cast

import pytest

from certs import profile
from certs.authority import Authority
from certs.inspect import CertInfo, issued_by, parse
from certs.store import CertFiles, decode_entry, encode_data, from_secret_data, secret_data
from certs.validity import Validity, judge_dates
from clustermesh_apiserver.renewal.keeper import CertificateKeeper, CertificateOwner
from kube.client import KubeClient
from kube.errors import Conflict, Unreachable
from kube.resource import Resource
from meshapi.installed import CA_SECRET, CERTIFICATE_SECRETS, LOCAL_SECRET, PART_OF, REMOTE_SECRET, SERVER_SECRET
from meshkit.clock import ManualClock

DAY = 86_400.0


class KilledError(BaseException):
    """The program ends here."""


class Secrets:
    """Secrets with resource versions, of an API server whose clock shows `shown_s` (0: it does not say).

    `before_write` happens between a read and the write after it, once.
    """

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        self.version, self.shown_s = 0, 0.0
        self.before_write: Callable[[], None] | None = None
        self.fails_at: int | None = None
        self.failure: BaseException = Unreachable("PUT", detail="the API server went away")
        self.writes: list[str] = []

    def put(self, name: str, data: dict[str, str], **metadata: Any) -> None:
        self.version += 1
        meta = {"name": name, "namespace": "ns", "labels": dict(PART_OF), "resourceVersion": str(self.version)}
        self.kept[name] = {"metadata": {**meta, **metadata}, "data": data}

    def answer_headers(self, _path: str) -> dict[str, str]:
        return {"date": formatdate(self.shown_s, usegmt=True)} if self.shown_s else {}

    def get(self, _resource: Resource, name: str, _namespace: str) -> dict[str, Any] | None:
        return self.kept.get(name)

    def replace(self, _resource: Resource, obj: dict[str, Any]) -> None:
        hook, self.before_write = self.before_write, None
        if hook is not None:
            hook()
        name = obj["metadata"]["name"]
        if len(self.writes) == self.fails_at:
            self.fails_at = None
            raise self.failure
        if obj["metadata"]["resourceVersion"] != self.kept[name]["metadata"]["resourceVersion"]:
            raise Conflict("PUT", 409, "Conflict")
        self.version += 1
        self.kept[name] = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        self.writes.append(name)


class World:
    def __init__(self, lifetime_s: float = 90 * DAY, ca_days: float = 3650) -> None:
        self.clock, self.secrets = ManualClock(), Secrets()
        self.lifetime_s = lifetime_s
        self.authority = Authority.create("clustermesh north", self.clock.wall(), ca_days)
        data = {"ca.crt": self.authority.certificate_pem, "ca.key": self.authority.key_pem}
        self.secrets.put(CA_SECRET, encode_data(data))
        for name, shape in profile.own_shapes("north", "ns", lifetime_s, ["192.0.2.7", "mesh.example"]).items():
            self.put_leaf(name, shape, self.authority)
        self.keeper = self.replica()

    def put_leaf(self, name: str, shape: profile.Profile, authority: Authority, **metadata: Any) -> None:
        made = authority.issue(shape, self.clock.wall())
        files = CertFiles(authority.certificate_pem, made.cert_pem, made.key_pem)
        self.secrets.put(name, secret_data(files), **metadata)

    def replica(self) -> CertificateKeeper:
        owner = CertificateOwner("north", "ns", self.lifetime_s)
        return CertificateKeeper(cast(KubeClient, self.secrets), owner, self.clock)

    def look(self) -> list[str]:
        """Which Secrets one look wrote."""
        before = len(self.secrets.writes)
        self.keeper.look()
        return self.secrets.writes[before:]

    def leaf(self, name: str) -> CertInfo:
        return parse(from_secret_data(self.secrets.kept[name]["data"]).cert)[0]


@pytest.fixture
def world() -> World:
    return World()


def test_all_are_renewed_at_two_thirds_of_their_life_and_not_before(world: World) -> None:
    world.clock.advance(59 * DAY)
    assert world.look() == []
    world.clock.advance(DAY)
    assert sorted(world.look()) == sorted(CERTIFICATE_SECRETS)
    assert world.look() == []
    assert world.keeper.problems == ()
    for name in CERTIFICATE_SECRETS:
        files = from_secret_data(world.secrets.kept[name]["data"])
        assert issued_by(files.cert, world.authority.certificate_pem)
        assert world.leaf(name).not_after_s == pytest.approx(world.clock.wall() + 90 * DAY, abs=1)


def test_names_that_the_operator_advertised_are_kept(world: World) -> None:
    before = world.leaf(SERVER_SECRET)
    world.clock.advance(70 * DAY)
    world.look()
    assert world.leaf(SERVER_SECRET).sans == before.sans
    assert {"192.0.2.7", "mesh.example"} <= set(before.sans)


def test_a_certificate_of_a_minute_is_not_due_when_it_is_new() -> None:
    world = World(lifetime_s=60.0)
    assert world.look() == []
    world.clock.advance(37.0)
    assert world.look() == []
    world.clock.advance(2.0)
    assert len(world.look()) == len(CERTIFICATE_SECRETS)


async def test_certificates_of_a_shorter_setting_are_looked_at_often_until_they_are_replaced() -> None:
    """A year is asked for while certificates of twenty seconds are in place: they are renewed before they end."""
    world = World(lifetime_s=20.0)
    world.lifetime_s = 365 * DAY
    world.keeper = world.replica()
    ends_s = {name: world.leaf(name).not_after_s for name in CERTIFICATE_SECRETS}
    assert world.look() == []
    while len(world.secrets.writes) < len(CERTIFICATE_SECRETS):
        world.clock.advance(world.keeper.pause_s)
        world.look()
        assert world.clock.wall() < min(ends_s.values())
    world.look()
    assert world.keeper.pause_s == 60.0


@pytest.mark.parametrize("writes", range(len(CERTIFICATE_SECRETS)))
def test_a_program_that_is_killed_between_two_writes_is_followed_by_one_that_writes_the_rest(
    world: World, writes: int
) -> None:
    world.clock.advance(61 * DAY)
    world.secrets.fails_at, world.secrets.failure = writes, KilledError()
    with pytest.raises(KilledError):
        world.keeper.look()
    assert len(world.secrets.writes) == writes
    world.keeper = world.replica()
    assert len(world.look()) == len(CERTIFICATE_SECRETS) - writes
    assert world.look() == []


def test_a_write_that_the_api_server_does_not_answer_is_named_and_made_by_the_next_look(world: World) -> None:
    world.clock.advance(61 * DAY)
    world.secrets.fails_at = 1
    assert len(world.look()) == len(CERTIFICATE_SECRETS) - 1
    assert "is not renewed" in world.keeper.problems[0]
    assert len(world.look()) == 1
    assert world.keeper.problems == ()


def test_of_two_replicas_one_renews_and_the_other_takes_what_it_wrote(world: World) -> None:
    world.clock.advance(61 * DAY)
    other = world.replica()
    world.secrets.before_write = other.look
    world.keeper.look()
    assert sorted(world.secrets.writes) == sorted(CERTIFICATE_SECRETS)  # each was written once
    assert (world.keeper.problems, other.problems) == ((), ())
    assert (world.keeper.renewed, other.renewed) == (0, len(CERTIFICATE_SECRETS))


def test_what_was_edited_by_hand_is_put_right(world: World) -> None:
    stranger = Authority.create("stranger", world.clock.wall())
    data = dict(world.secrets.kept[REMOTE_SECRET]["data"])
    other_key = world.secrets.kept[LOCAL_SECRET]["data"]["tls.key"]
    shape = profile.own_shapes("north", "ns", world.lifetime_s)[REMOTE_SECRET]
    edits: list[Callable[[], None]] = [
        lambda: world.secrets.put(REMOTE_SECRET, {**data, "tls.crt": "bm90IGEgY2VydGlmaWNhdGU="}),
        lambda: world.secrets.put(REMOTE_SECRET, {**data, "tls.key": other_key}),
        lambda: world.secrets.put(REMOTE_SECRET, {}),
        lambda: world.put_leaf(REMOTE_SECRET, shape, stranger),
        lambda: world.secrets.put(REMOTE_SECRET, world.secrets.kept[LOCAL_SECRET]["data"]),
    ]
    for edit in edits:
        edit()
        assert world.look() == [REMOTE_SECRET]
        assert world.leaf(REMOTE_SECRET).subject_cn == "remote-north"
        assert world.look() == []


def test_a_clock_that_was_ahead_or_behind_leaves_no_certificate_that_nobody_accepts(world: World) -> None:
    world.clock.advance(-30 * DAY)
    assert world.look() == []  # the authority is not valid yet either: nothing better can be made
    assert "not valid now" in " ".join(world.keeper.problems)
    world.clock.advance(130 * DAY)  # beyond the end
    assert len(world.look()) == len(CERTIFICATE_SECRETS)
    world.clock.advance(-95 * DAY)  # what was issued begins in the future now
    assert len(world.look()) == len(CERTIFICATE_SECRETS)
    assert all(world.leaf(name).not_before_s < world.clock.wall() for name in CERTIFICATE_SECRETS)


@pytest.mark.parametrize("ahead_s", [20 * 60.0, -20 * 60.0, 6 * 3600.0])
def test_where_clocks_differ_a_certificate_is_valid_by_ours_and_the_api_servers(world: World, ahead_s: float) -> None:
    """Whoever agrees with one of them accepts it: peers are not made to wait until time has caught up."""
    world.clock.advance(60 * DAY)
    world.secrets.shown_s = world.clock.wall() - ahead_s
    assert len(world.look()) == len(CERTIFICATE_SECRETS)
    for name in CERTIFICATE_SECRETS:
        made = world.leaf(name)
        for wall_s in (world.clock.wall(), world.secrets.shown_s):
            assert judge_dates(wall_s, made) is Validity.VALID
    assert world.look() == []


@pytest.mark.parametrize("ahead_days", [20.0, 46.0, 61.0, 3000.0])
def test_a_clock_far_ahead_of_the_api_servers_takes_no_certificate_away(world: World, ahead_days: float) -> None:
    """Up to half a life a new one is backdated by the difference; beyond that the present one stays, and a sentence says why."""
    world.clock.advance(55 * DAY)
    world.secrets.shown_s = world.clock.wall()
    world.clock.advance(ahead_days * DAY)
    written = world.look()
    for name in CERTIFICATE_SECRETS:
        assert judge_dates(world.secrets.shown_s, world.leaf(name)) in (Validity.VALID, Validity.ENDING)
    assert bool(written) is (ahead_days == 20.0)
    assert ("correct the clock" in " ".join(world.keeper.problems)) is not bool(written)
    world.clock.advance((5 - ahead_days) * DAY)
    world.secrets.shown_s = world.clock.wall()
    world.look()
    assert world.keeper.problems == ()
    assert all(judge_dates(world.secrets.shown_s, world.leaf(name)) is Validity.VALID for name in CERTIFICATE_SECRETS)


@pytest.mark.parametrize("ahead_s", [15.0, 3600.0, 60 * 365 * DAY])
def test_a_certificate_of_half_a_minute_is_not_due_when_it_is_new_however_far_clocks_differ(ahead_s: float) -> None:
    world = World(lifetime_s=30.0)
    world.clock.advance(25.0)
    world.secrets.shown_s = world.clock.wall() - ahead_s
    assert len(world.look()) == len(CERTIFICATE_SECRETS)
    assert world.look() == []
    world.clock.advance(5.0)
    assert world.look() == []


def test_an_authority_that_ended_signs_nothing_and_says_so() -> None:
    world = World(ca_days=100)
    world.clock.advance(101 * DAY)
    assert world.look() == []
    assert "CA certificate: is not valid now" in " ".join(world.keeper.problems)


def test_an_authority_that_ends_before_a_certificate_would_is_asked_once_only() -> None:
    world = World(ca_days=100)
    world.clock.advance(61 * DAY)
    assert len(world.look()) == len(CERTIFICATE_SECRETS)
    assert world.leaf(SERVER_SECRET).not_after_s == world.authority.info.not_after_s
    for _ in range(38):
        world.clock.advance(DAY)
        assert world.look() == []


def test_a_shorter_lifetime_takes_hold_before_the_long_one_ends(world: World) -> None:
    world.lifetime_s = 3600.0
    world.keeper = world.replica()
    assert len(world.look()) == len(CERTIFICATE_SECRETS)
    assert world.look() == []


@pytest.mark.parametrize(
    "metadata",
    [
        {"annotations": {"cert-manager.io/certificate-name": "mesh"}},
        {"labels": {}},
        {"ownerReferences": [{"kind": "SealedSecret", "name": "x"}]},
    ],
)
def test_a_secret_that_somebody_else_keeps_is_never_written(world: World, metadata: dict[str, Any]) -> None:
    stranger = Authority.create("company", world.clock.wall())
    shape = profile.own_shapes("north", "ns", world.lifetime_s)[SERVER_SECRET]
    world.put_leaf(SERVER_SECRET, shape, stranger, **metadata)
    before = world.secrets.kept[SERVER_SECRET]
    world.clock.advance(200 * DAY)
    assert SERVER_SECRET not in world.look()
    assert world.secrets.kept[SERVER_SECRET] == before


@pytest.mark.runbook("not-renewed")
def test_without_the_authoritys_key_nothing_is_written_and_the_reason_is_said(world: World) -> None:
    world.clock.advance(80 * DAY)
    authority = world.secrets.kept.pop(CA_SECRET)
    assert world.look() == []
    assert world.keeper.problems == (f"certificates are not renewed: Secret {CA_SECRET}: is missing",)
    data = {"ca.crt": authority["data"]["ca.crt"]}
    world.secrets.put(CA_SECRET, data)
    assert world.look() == []
    assert "has no entry ca.key" in world.keeper.problems[0]
    assert decode_entry(data, "ca.crt")


def test_a_missing_secret_is_named_and_the_others_are_renewed(world: World) -> None:
    world.clock.advance(61 * DAY)
    del world.secrets.kept[LOCAL_SECRET]
    assert len(world.look()) == len(CERTIFICATE_SECRETS) - 1
    assert world.keeper.problems == (f"Secret {LOCAL_SECRET} is missing: run clustermesh enable",)
