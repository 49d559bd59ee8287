# SPDX-License-Identifier: Apache-2.0
"""Certificates that live for seconds are renewed under load: no request fails, no session ends, no stream is late.

`CLUSTERMESH_ROTATION_S` and `CLUSTERMESH_LIFETIME_S` choose how long: 600 and 60 are the full trial.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import pytest

from certs import profile
from certs.authority import Authority
from certs.profile import Profile
from certs.store import CertFiles, secret_data
from e2e.command import CHECK_FAILED, DEGRADED, REFUSED, assert_one_line
from e2e.mesh import CLUSTERS, SYSTEM, Cluster, Mesh
from e2e.traffic import undisturbed

ROTATION_S: Final = float(os.environ.get("CLUSTERMESH_ROTATION_S", "45"))
LIFETIME_S: Final = float(os.environ.get("CLUSTERMESH_LIFETIME_S", "20"))
GAP_S: Final = 1.0
KEY: Final = "cilium/cache/services/v1/tion/default/rebel-base"
CERTIFICATES: Final = ("server", "admin", "local", "remote")
YEAR: Final = "8760h"


def set_lifetime(mesh: Mesh, lifetime: str) -> None:
    for cluster in CLUSTERS:
        words = ("--context", f"kind-{cluster}", "--service-type", "NodePort", "--certificate-lifetime", lifetime)
        mesh.clustermesh("enable", *words)
    for cluster in CLUSTERS:
        mesh.kubectl(cluster, "rollout", "status", "deployment/clustermesh-apiserver", "-n", SYSTEM, "--timeout=60s")
        mesh.clustermesh("status", "--context", f"kind-{cluster}", "--wait", "--wait-duration", "60s")


@pytest.fixture
def short_lived(whole: Mesh) -> Iterator[Mesh]:
    """Certificates of both clusters live for seconds."""
    try:
        set_lifetime(whole, f"{LIFETIME_S:g}s")
        yield whole
    finally:
        set_lifetime(whole, YEAR)


def serials(mesh: Mesh, cluster: Cluster) -> Mapping[str, str]:
    names = {kind: f"clustermesh-apiserver-{kind}-cert" for kind in CERTIFICATES}
    return {kind: mesh.get(cluster, "secret", "-n", SYSTEM, name)["data"]["tls.crt"] for kind, name in names.items()}


def sessions(mesh: Mesh) -> Mapping[str, tuple[float, int]]:
    """Since when every session of every program stands, and how often it failed before."""
    found: dict[str, tuple[float, int]] = {}
    for cluster in CLUSTERS:
        rows: dict[str, list[Any]] = {"mirror": mesh.apiserver_rest(cluster, "/v1/clusters")}
        for node in mesh.get(cluster, "nodes")["items"]:
            name = node["metadata"]["name"]
            rows[name] = mesh.agent_rest(cluster, name, "/v1/clusters")
        for who, peers in rows.items():
            for row in peers:
                found[f"{cluster} {who} {row['name']}"] = (row["session-since"], row["num-failures"])
    return found


def failures(mesh: Mesh) -> Mapping[str, int]:
    """How often every session of every program ended."""
    return {who: failed for who, (_, failed) in sessions(mesh).items()}


@dataclass
class Pulse:
    """Changes of one service in tion, and how long each took to be in koornacht's store."""

    mesh: Mesh
    delays_s: list[float] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def beat(self) -> None:
        number = next(self._numbers)
        self.mesh.kubectl("tion", "label", "service", "rebel-base", f"pulse=p{number}", "--overwrite")
        began = time.monotonic()
        self.mesh.wait_until("the change is in the other cluster's store", lambda: self._is_there(f"p{number}"), 20)
        self.delays_s.append(time.monotonic() - began)

    def _is_there(self, value: str) -> bool:
        entries = self.mesh.apiserver_rest("koornacht", f"/v1/kv?prefix={KEY}")["entries"]
        return any(value in base64.b64decode(entry["value"]).decode() for entry in entries)


@pytest.mark.timeout(ROTATION_S + 400)
def test_short_lived_certificates_rotate_under_load(short_lived: Mesh) -> None:
    mesh, pulse = short_lived, Pulse(short_lived)
    seen = {cluster: {kind: {pem} for kind, pem in serials(mesh, cluster).items()} for cluster in CLUSTERS}
    with undisturbed(mesh):
        before = sessions(mesh)
        end = time.monotonic() + ROTATION_S
        while time.monotonic() < end:
            pulse.beat()
            for cluster in CLUSTERS:
                for kind, pem in serials(mesh, cluster).items():
                    seen[cluster][kind].add(pem)
        assert sessions(mesh) == before
    counts = {f"{cluster} {kind}": len(pems) for cluster, kinds in seen.items() for kind, pems in kinds.items()}
    figures = {
        "seconds": ROTATION_S,
        "lifetime_s": LIFETIME_S,
        "beats": len(pulse.delays_s),
        "slowest_s": round(max(pulse.delays_s), 3),
        "certificates": counts,
    }
    print(json.dumps(figures))
    assert max(pulse.delays_s) < GAP_S, figures
    assert min(counts.values()) > ROTATION_S / LIFETIME_S, figures
    # connections made now use the renewed certificates: the first ones ended long ago
    mesh.kubectl("tion", "delete", "pod", "-n", SYSTEM, "-l", "k8s-app=clustermesh-apiserver", "--wait=false")
    mesh.wait_until("every session was made anew", lambda: all_made_anew(mesh, "tion", before), 60)


def all_made_anew(mesh: Mesh, restarted: Cluster, before: Mapping[str, tuple[float, int]]) -> bool:
    """Whoever reads the apiserver of the cluster has another session, and all are ready."""
    try:
        now = sessions(mesh)
    except AssertionError:  # an apiserver that is not there answers nothing
        return False
    readers = {who for who in before if who.startswith(f"{restarted} ") or "mirror" in who}
    if any(now.get(who, before[who])[0] <= before[who][0] for who in readers):
        return False
    return all(
        mesh.clustermesh("status", "--context", f"kind-{cluster}", check=False).returncode == 0 for cluster in CLUSTERS
    )


@pytest.mark.runbook("authority-ends")
def test_an_authority_is_replaced_under_load(whole: Mesh) -> None:
    def authority() -> str:
        return str(whole.get("koornacht", "secret", "-n", SYSTEM, "clustermesh-ca")["data"]["ca.crt"])

    before, words = authority(), ("certs", "rotate", "--ca", "--settle", "10s")
    assert_one_line(whole.clustermesh(*words, check=False), REFUSED, "tion must be told", "nothing was changed")
    assert authority() == before
    with undisturbed(whole):
        failed_before = failures(whole)
        to_tion = ("--destination-context", "kind-tion")
        done = whole.clustermesh(*words, *to_tion, "--no-wait")
        assert "Not done yet" in done.stdout
        assert "is being replaced" in whole.clustermesh("status").stdout
        whole.clustermesh(*words, *to_tion)
        assert authority() != before
        for cluster in CLUSTERS:
            whole.clustermesh("status", "--context", f"kind-{cluster}", "--wait", "--wait-duration", "30s")
            shown = json.loads(whole.clustermesh("certs", "show", "--context", f"kind-{cluster}", "-o", "json").stdout)
            assert {row["state"] for row in shown["certificates"]} == {"valid"}
        assert failures(whole) == failed_before, "no session ended: streams go on where they were"
    # who connects now knows the new authority only
    for cluster in CLUSTERS:
        standing = sessions(whole)
        whole.kubectl(cluster, "delete", "pod", "-n", SYSTEM, "-l", "k8s-app=clustermesh-apiserver", "--wait=false")
        whole.wait_until(
            f"every session with {cluster} was made anew", partial(all_made_anew, whole, cluster, standing), 60
        )


def keep_elsewhere(mesh: Mesh, cluster: Cluster, secret: str, *, is_elsewhere: bool) -> None:
    """Whether the Secret looks as if cert-manager kept it, so that it is not renewed."""
    word = "cert-manager.io/certificate-name" + ("=trial" if is_elsewhere else "-")
    mesh.kubectl(cluster, "annotate", "--overwrite", "secret", "-n", SYSTEM, secret, word)


@contextmanager
def expired(mesh: Mesh, cluster: Cluster, secret: str, shape: Profile) -> Iterator[None]:
    """The cluster's Secret holds a certificate that ended up to an hour ago, and nobody renews it."""
    kept = mesh.get(cluster, "secret", "-n", SYSTEM, "clustermesh-ca")["data"]
    authority = Authority.load(*(base64.b64decode(kept[entry]) for entry in ("ca.crt", "ca.key")))
    past = max(authority.info.not_before_s, time.time() - 3600) + 1
    made = authority.issue(replace(shape, days=1 / profile.DAY_S), past)
    data = secret_data(CertFiles(authority.certificate_pem, made.cert_pem, made.key_pem))
    keep_elsewhere(mesh, cluster, secret, is_elsewhere=True)
    try:
        mesh.kubectl(cluster, "patch", "secret", "-n", SYSTEM, secret, "-p", json.dumps({"data": data}))
        yield
    finally:
        keep_elsewhere(mesh, cluster, secret, is_elsewhere=False)
        mesh.clustermesh("certs", "rotate", "--context", f"kind-{cluster}")


def connect_anew(mesh: Mesh, cluster: Cluster) -> None:
    """The cluster's apiserver starts again, and with it every session that it has part in."""
    mesh.kubectl(cluster, "delete", "pod", "-n", SYSTEM, "-l", "k8s-app=clustermesh-apiserver", "--wait=false")


@pytest.mark.runbook("certificate-expired")
def test_a_client_certificate_that_expired_is_named_with_its_date(whole: Mesh) -> None:
    with expired(whole, "koornacht", "clustermesh-apiserver-remote-cert", profile.remote("koornacht")):
        connect_anew(whole, "tion")

        def is_named() -> bool:
            done = whole.clustermesh("status", check=False)
            (peer,) = whole.apiserver_rest("koornacht", "/v1/clusters")
            return (
                done.returncode == DEGRADED
                and "certificate that peers know this cluster by expired on" in done.stdout
                and "our certificate remote-koornacht expired on" in peer["last-error"]
            )

        whole.wait_until("both the command and the mirror name the certificate", is_named, 60)
        assert whole.clustermesh("certs", "show", check=False).returncode == DEGRADED
    whole.clustermesh("status", "--wait", "--wait-duration", "60s")


@pytest.mark.runbook("certificate-expired")
def test_a_server_certificate_that_expired_is_named_by_its_cluster_and_by_the_peer(whole: Mesh) -> None:
    with expired(whole, "tion", "clustermesh-apiserver-server-cert", profile.server("tion", SYSTEM)):
        whole.wait_until(
            "the facade shows it",
            lambda: any(
                row["role"] == "server" and row["not-after"] < time.time()
                for row in whole.apiserver_rest("tion", "/v1/certs")
            ),
            60,
        )
        connect_anew(whole, "koornacht")
        own = whole.clustermesh("status", "--context", "kind-tion", check=False)
        assert own.returncode == DEGRADED
        assert "FAIL server certificate expired on" in own.stdout

        def is_named() -> bool:
            (peer,) = whole.apiserver_rest("koornacht", "/v1/clusters")
            return "expired" in peer["last-error"]

        whole.wait_until("koornacht's mirror names the cause", is_named, 60)
        for cluster, words in (
            ("tion", "server certificate expired on"),
            ("koornacht", "koornacht cannot use tion at"),
        ):
            done = whole.clustermesh("check", "--context", f"kind-{cluster}", check=False)
            assert done.returncode == CHECK_FAILED
            assert words in done.stdout
    for cluster in CLUSTERS:
        whole.clustermesh("status", "--context", f"kind-{cluster}", "--wait", "--wait-duration", "60s")


@pytest.mark.runbook("key-known")
def test_certs_show_and_rotate(whole: Mesh) -> None:
    before = serials(whole, "koornacht")
    shown = json.loads(whole.clustermesh("certs", "show", "-o", "json").stdout)
    kinds = [row["kind"] for row in shown["certificates"]]
    assert {"server certificate", "authority of peer tion", "shown by clustermesh-apiserver"} <= set(kinds)
    assert {row["state"] for row in shown["certificates"]} == {"valid"}
    with undisturbed(whole):
        standing = sessions(whole)
        whole.clustermesh("certs", "rotate")
        after = serials(whole, "koornacht")
        assert all(after[kind] != before[kind] for kind in CERTIFICATES)
        wanted = {
            row["fingerprint"]
            for row in json.loads(whole.clustermesh("certs", "show", "-o", "json").stdout)["certificates"]
            if row["kind"] == "server certificate"
        }

        def is_shown() -> bool:
            rows = whole.apiserver_rest("koornacht", "/v1/certs")
            return {row["fingerprint"] for row in rows if row["role"] == "server"} == wanted

        whole.wait_until("the facade shows the new certificate", is_shown)
        assert sessions(whole) == standing
