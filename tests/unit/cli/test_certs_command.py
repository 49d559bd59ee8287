# SPDX-License-Identifier: Apache-2.0
"""What `clustermesh certs` shows of good, old and missing certificates, and that rotating touches what is ours only."""

from __future__ import annotations

import io
import json
from email.utils import formatdate
from typing import Any, cast

import pytest
import yaml

from certs import profile
from certs.authority import Authority
from certs.inspect import parse
from certs.store import CertFiles, encode_data, from_secret_data, secret_data
from certs.validity import Validity, judge_dates
from clustermesh_cli.commands.certs import rotate, show
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from kube.client import KubeClient
from kube.errors import Conflict, NotFound
from kube.resource import Resource
from meshapi.installed import (
    CA_SECRET,
    CERTIFICATE_SECRETS,
    CLUSTER_NAME_KEY,
    CONFIG_MAP,
    LIFETIME_KEY,
    MIRROR_SECRET,
    PART_OF,
    REMOTE_SECRET,
    SERVER_SECRET,
)
from meshkit.answer_form import AnswerForm

NOW = 1_800_000_000.0
DAY = 86_400.0


class Cluster:
    """A cluster that is enabled, knows peer south, and whose apiserver cannot be asked."""

    def __init__(self, lifetime_s: float = 90 * DAY) -> None:
        self.authority = Authority.create("clustermesh north", NOW)
        south = Authority.create("clustermesh south", NOW - 360 * DAY, 390)
        config = {CLUSTER_NAME_KEY: "north", LIFETIME_KEY: f"{lifetime_s:g}"}
        self.objects: dict[str, dict[str, Any]] = {CONFIG_MAP: {"data": config}}
        ca = encode_data({"ca.crt": self.authority.certificate_pem, "ca.key": self.authority.key_pem})
        self.put(CA_SECRET, ca)
        self.put(MIRROR_SECRET, encode_data({"south.etcd-client-ca.crt": south.certificate_pem}))
        for name, shape in profile.own_shapes("north", "ns", lifetime_s, ["192.0.2.7"]).items():
            made = self.authority.issue(shape, NOW)
            files = CertFiles(self.authority.certificate_pem, made.cert_pem, made.key_pem)
            self.put(name, secret_data(files))
        self.out = io.StringIO()
        self.conflicts, self.shown_s = 0, 0.0

    def put(self, name: str, data: dict[str, str], **metadata: Any) -> None:
        self.objects[name] = {"metadata": {"name": name, "labels": dict(PART_OF), **metadata}, "data": data}

    def answer_headers(self, _path: str) -> dict[str, str]:
        return {"date": formatdate(self.shown_s, usegmt=True)} if self.shown_s else {}

    def get(self, _resource: Resource, name: str, _namespace: str) -> dict[str, Any] | None:
        return self.objects.get(name)

    def replace(self, _resource: Resource, obj: dict[str, Any]) -> None:
        if self.conflicts:
            self.conflicts -= 1
            raise Conflict("PUT", 409, "Conflict")
        self.objects[obj["metadata"]["name"]] = obj

    def create(self, _resource: Resource, obj: dict[str, Any]) -> None:
        self.objects[obj["metadata"]["name"]] = obj

    def service_account_token(self, *_: object, **__: object) -> str:
        raise NotFound("POST", 404, "NotFound")

    def service_proxy_get(self, *_: object, **__: object) -> tuple[int, bytes]:
        raise AssertionError("nobody asks without a token")

    def show(self, wall_s: float, form: AnswerForm = AnswerForm.TABLE) -> ExitCode:
        return show(cast(KubeClient, self), "ns", Console(plain=True, stream=self.out), form, wall_s)

    def rotate(self, wall_s: float = NOW) -> None:
        rotate(cast(KubeClient, self), "ns", Console(plain=True, stream=self.out), wall_s)

    def certificate(self, name: str) -> bytes:
        return from_secret_data(self.objects[name]["data"]).cert


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_every_certificate_and_authority_is_a_row(cluster: Cluster) -> None:
    assert cluster.show(NOW + DAY, AnswerForm.JSON) is ExitCode.DEGRADED  # south's authority is in its last tenth
    found = json.loads(cluster.out.getvalue())
    rows = {row["kind"]: row for row in found["certificates"]}
    assert set(rows) == {
        "authority of this cluster",
        "server certificate",
        "certificate of the store's administrator",
        "certificate of this cluster's agents",
        "certificate that peers know this cluster by",
        "certificate of the nodes' observers of flows",
        "certificate that observers and peers know the relay by",
        "certificate of the relay",
        "authority of peer south",
    }
    assert rows["server certificate"]["state"] == "valid"
    assert rows["server certificate"]["left"] == pytest.approx(89 / 90, abs=0.001)
    assert "192.0.2.7" in rows["server certificate"]["sans"]
    assert rows["authority of peer south"]["state"] == "ending"
    assert "clustermesh connect with south" in rows["authority of peer south"]["next"]


def test_yaml_and_json_say_the_same(cluster: Cluster) -> None:
    cluster.show(NOW, AnswerForm.JSON)
    first, cluster.out = cluster.out.getvalue(), io.StringIO()
    cluster.show(NOW, AnswerForm.YAML)
    assert yaml.safe_load(cluster.out.getvalue()) == json.loads(first)


@pytest.mark.parametrize("name", CERTIFICATE_SECRETS)
def test_one_that_expired_is_degraded_with_the_command_to_run(cluster: Cluster, name: str) -> None:
    del cluster.objects[MIRROR_SECRET]
    assert cluster.show(NOW) is ExitCode.OK
    shape = profile.own_shapes("north", "ns", DAY)[name]
    made = cluster.authority.issue(shape, NOW)
    cluster.put(name, secret_data(CertFiles(cluster.authority.certificate_pem, made.cert_pem, made.key_pem)))
    assert cluster.show(NOW + 2 * DAY) is ExitCode.DEGRADED
    last = cluster.out.getvalue().splitlines()[-1]
    assert "(expired): run clustermesh certs rotate" in last


def test_one_that_is_missing_has_a_row(cluster: Cluster) -> None:
    del cluster.objects[SERVER_SECRET]
    assert cluster.show(NOW) is ExitCode.DEGRADED
    assert f"Secret {SERVER_SECRET} is missing" in cluster.out.getvalue()


def test_rotating_issues_all_four_anew_by_the_same_authority_with_all_names(cluster: Cluster) -> None:
    before = {name: cluster.certificate(name) for name in CERTIFICATE_SECRETS}
    cluster.rotate()
    assert all(cluster.certificate(name) != before[name] for name in CERTIFICATE_SECRETS)
    cluster.out = io.StringIO()
    cluster.show(NOW, AnswerForm.JSON)
    rows = json.loads(cluster.out.getvalue())["certificates"]
    assert "192.0.2.7" in next(row for row in rows if row["kind"] == "server certificate")["sans"]


def test_rotating_goes_on_when_the_apiserver_renews_at_the_same_moment(cluster: Cluster) -> None:
    cluster.conflicts = 2
    cluster.rotate()
    cluster.conflicts = 100
    with pytest.raises(CommandError, match="changed by somebody else"):
        cluster.rotate()


def test_rotating_leaves_a_secret_of_somebody_else_alone_and_says_so(cluster: Cluster) -> None:
    cluster.put(
        REMOTE_SECRET,
        cluster.objects[REMOTE_SECRET]["data"],
        annotations={"cert-manager.io/certificate-name": "mesh"},
    )
    before = cluster.certificate(REMOTE_SECRET)
    cluster.rotate()
    assert cluster.certificate(REMOTE_SECRET) == before
    assert f"Secret {REMOTE_SECRET} is kept by somebody else" in cluster.out.getvalue()


def test_rotating_makes_no_authority_in_place_of_a_lost_one(cluster: Cluster) -> None:
    del cluster.objects[CA_SECRET]
    with pytest.raises(CommandError, match=f"Secret {CA_SECRET}: is missing"):
        cluster.rotate()
    assert CA_SECRET not in cluster.objects


def test_an_authority_that_ended_signs_nothing(cluster: Cluster) -> None:
    with pytest.raises(CommandError, match="is not valid now"):
        cluster.rotate(NOW + 3651 * DAY)


def test_a_certificate_of_another_authority_is_named_unless_that_one_is_kept_beside_it() -> None:
    """Somebody else may keep the Secret, and then with its own authority."""
    cluster, stranger = Cluster(), Authority.create("stranger", NOW)
    made = stranger.issue(profile.remote("north"), NOW)
    for beside, state in ((cluster.authority, "untrusted"), (stranger, "valid")):
        cluster.put(REMOTE_SECRET, secret_data(CertFiles(beside.certificate_pem, made.cert_pem, made.key_pem)))
        cluster.out.truncate(0)
        cluster.out.seek(0)
        cluster.show(NOW + 1, AnswerForm.JSON)
        rows = json.loads(cluster.out.getvalue())["certificates"]
        (row,) = [row for row in rows if row["kind"] == "certificate that peers know this cluster by"]
        assert (row["state"], row["issuer"]) == (state, "stranger")
        assert (row["next"] == "run clustermesh certs rotate") == (state == "untrusted")


def test_rotating_on_a_machine_that_is_ahead_makes_certificates_that_are_valid_now_and_says_so() -> None:
    cluster = Cluster()
    cluster.shown_s = NOW + DAY
    client, console = cast(KubeClient, cluster), Console(plain=True, stream=cluster.out)
    rotate(client, "ns", console, cluster.shown_s + 20 * 60)
    assert "the clock of this machine is 1200 s ahead of the API server's" in cluster.out.getvalue()
    for name in CERTIFICATE_SECRETS:
        (made,) = parse(from_secret_data(cluster.objects[name]["data"]).cert)
        assert judge_dates(cluster.shown_s, made) is Validity.VALID
