# SPDX-License-Identifier: Apache-2.0
"""Certificates between clusters: authorities, what they issued, and whether a store lets a client in that shows its files."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Final

from certs.authority import Authority
from certs.inspect import issued_by, parse
from certs.profile import DAY_S, remote
from certs.validity import Validity, judge_dates
from kvstore.clientconfig import ClientConfig
from kvstore.errors import Rejected
from tests.simulation.clock import EPOCH_S

AUTHORITY_AGE_S: Final = 1000 * DAY_S
STRANGER: Final = "stranger"
VALID: Final = (Validity.VALID, Validity.ENDING)


class Credential(StrEnum):
    """What the files of one connection to a peer hold."""

    GOOD = "good"
    RENEWED = "renewed"
    EXPIRED = "expired"
    STRANGER = "stranger"
    MISPLACED = "misplaced"

    @property
    def is_accepted(self) -> bool:
        return self in (Credential.GOOD, Credential.RENEWED)


@cache
def authority_of(cluster: str) -> Authority:
    """Each process makes its own; nothing depends on which keys these are."""
    return Authority.create(cluster, EPOCH_S - AUTHORITY_AGE_S)


@cache
def issued(cluster: str, credential: Credential) -> tuple[bytes, bytes]:
    """Certificate and key of a cluster towards its peers."""
    signer = authority_of(STRANGER if credential is Credential.STRANGER else cluster)
    age_days = 500 if credential is Credential.EXPIRED else 2 if credential is Credential.GOOD else 1
    found = signer.issue(remote(cluster), EPOCH_S - age_days * DAY_S)
    return found.cert_pem, found.key_pem


def write(directory: Path, cluster: str, peer: str, credential: Credential) -> str:
    """The files are there; returns what a connection file says of them."""
    authority = authority_of(STRANGER if credential is Credential.MISPLACED else peer)
    certificate, key = issued(cluster, credential)
    lines = []
    for name, suffix, content in (
        ("trusted-ca-file", "ca.crt", authority.certificate_pem),
        ("cert-file", "tls.crt", certificate),
        ("key-file", "tls.key", key),
    ):
        path = directory / f"{peer}.{suffix}"
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
        lines.append(f"{name}: {path.name}\n")
    return "".join(lines)


def refusal(config: ClientConfig, cluster: str, peer: str, wall_s: float) -> str:
    """Why no connection of a peer to the cluster's store comes about with these files, as they are now; empty if one does."""
    try:
        tls = config.tls(None)
    except Rejected as exc:
        return str(exc)
    if tls is None:
        return ""
    if authority_of(cluster).certificate_pem not in tls.ca:
        return "certificate signed by unknown authority"
    if not _is_signed(tls.cert, peer):
        return "remote error: bad certificate"
    if judge_dates(wall_s, _parse(tls.cert)[0]) not in VALID:
        return "remote error: expired certificate"
    return ""


@cache
def _is_signed(certificate: bytes, peer: str) -> bool:
    return issued_by(certificate, authority_of(peer).certificate_pem)


_parse = cache(parse)
