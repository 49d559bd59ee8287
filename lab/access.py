# SPDX-License-Identifier: Apache-2.0
"""How people and pods are let in: the API servers' certificates, and kubeconfigs with the names the walkthrough uses."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from certs.authority import Authority
from certs.profile import Profile
from lab.devkube.api.server import TlsFiles
from lab.topology import ClusterPlan
from meshkit.atomic import write_atomic
from meshkit.clock import SystemClock

DAYS: Final = 365


@dataclass(frozen=True, slots=True)
class ClusterLogin:
    """One way into one cluster, as its administrator."""

    plan: ClusterPlan
    port: int
    ca_certificate_pem: str
    token: str


def issue_certificates(directory: Path, plan: ClusterPlan) -> tuple[TlsFiles, str]:
    """A new authority for the cluster's API server; returns the server's files and the authority's certificate."""
    wall_s = SystemClock().wall()
    authority = Authority.create(f"kubernetes-{plan.name}", wall_s, DAYS)
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    addresses = ("127.0.0.1", plan.kubernetes_address, plan.api_address)
    profile = Profile("kube-apiserver", ("localhost", plan.nodes[0].name, *names), addresses, is_server=True)
    issued = authority.issue(profile, wall_s)
    directory.mkdir(parents=True, exist_ok=True)
    files = TlsFiles(directory / "tls.crt", directory / "tls.key")
    write_atomic(files.certificate, issued.cert_pem)
    write_atomic(files.key, issued.key_pem)
    return files, authority.certificate_pem.decode()


def write_kubeconfig(path: Path, accesses: Sequence[ClusterLogin]) -> None:
    """The file has one context per access, named as kind names them; the first one is current."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": accesses[0].plan.context,
        "clusters": [{"name": a.plan.context, "cluster": _cluster(a)} for a in accesses],
        "users": [{"name": a.plan.context, "user": {"token": a.token}} for a in accesses],
        "contexts": [
            {"name": a.plan.context, "context": {"cluster": a.plan.context, "user": a.plan.context}} for a in accesses
        ],
    }
    write_atomic(path, yaml.safe_dump(document, sort_keys=False).encode())


def merge_kubeconfigs(path: Path, sources: Sequence[Path]) -> None:
    """The file has the contexts of all sources; the first one's is current."""
    documents = [yaml.safe_load(source.read_text()) for source in sources]
    merged = dict(documents[0])
    for field in ("clusters", "users", "contexts"):
        merged[field] = [entry for document in documents for entry in document[field]]
    write_atomic(path, yaml.safe_dump(merged, sort_keys=False).encode())


def _cluster(access: ClusterLogin) -> dict[str, str]:
    ca = base64.b64encode(access.ca_certificate_pem.encode()).decode()
    return {"server": f"https://127.0.0.1:{access.port}", "certificate-authority-data": ca}
