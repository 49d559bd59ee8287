# SPDX-License-Identifier: Apache-2.0
"""Certificates that no reader accepts, in a Secret of a cluster: past, future, or signed by somebody else."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum

from certs import profile
from certs.authority import Authority
from certs.profile import Profile
from certs.store import CertFiles, secret_data
from e2e.mesh import SYSTEM, Cluster, Mesh

HOUR_S = 3600.0


class Fault(StrEnum):
    """What is wrong, in the words by which the command names it."""

    EXPIRED = "expired on"
    FUTURE = "is not valid before"
    FOREIGN = "is signed by somebody else, which is no authority of this cluster"


def keep_elsewhere(mesh: Mesh, cluster: Cluster, secret: str, *, is_elsewhere: bool) -> None:
    """Whether the Secret looks as if cert-manager kept it, so that it is not renewed."""
    word = "cert-manager.io/certificate-name" + ("=trial" if is_elsewhere else "-")
    mesh.kubectl(cluster, "annotate", "--overwrite", "secret", "-n", SYSTEM, secret, word)


@contextmanager
def bad_certificate(mesh: Mesh, cluster: Cluster, secret: str, shape: Profile) -> Iterator[Callable[[Fault], None]]:
    """Yields what puts a bad certificate into the cluster's Secret, which nobody renews until the end of the block."""
    kept = mesh.get(cluster, "secret", "-n", SYSTEM, "clustermesh-ca")["data"]
    authority = Authority.load(*(base64.b64decode(kept[entry]) for entry in ("ca.crt", "ca.key")))

    def spoil(fault: Fault) -> None:
        now_s = time.time()
        if fault is Fault.EXPIRED:
            past_s = max(authority.info.not_before_s, now_s - HOUR_S) + 1
            made = authority.issue(replace(shape, days=1 / profile.DAY_S), past_s)
        elif fault is Fault.FUTURE:
            made = authority.issue(shape, now_s + HOUR_S)
        else:
            made = Authority.create("somebody else", now_s, 1).issue(shape, now_s)
        data = secret_data(CertFiles(authority.certificate_pem, made.cert_pem, made.key_pem))
        mesh.kubectl(cluster, "patch", "secret", "-n", SYSTEM, secret, "-p", json.dumps({"data": data}))

    keep_elsewhere(mesh, cluster, secret, is_elsewhere=True)
    try:
        yield spoil
    finally:
        keep_elsewhere(mesh, cluster, secret, is_elsewhere=False)
        mesh.clustermesh("certs", "rotate", "--context", f"kind-{cluster}")
