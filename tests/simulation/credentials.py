# SPDX-License-Identifier: Apache-2.0
"""Certificates between clusters: authorities, what they issued, who believes them, and whether a store lets a client in."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from itertools import permutations, product
from pathlib import Path
from typing import Final

from certs.authority import Authority
from certs.diagnose import client_context
from certs.inspect import issued_by, parse
from certs.profile import DAY_S, remote
from certs.store import CertFiles
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


class Signer(StrEnum):
    """Which of a cluster's two authorities issues: the one that it was installed with, or the one that replaces it."""

    OLD = "old"
    NEW = "new"


class Trust(StrEnum):
    """Which of another cluster's authorities are believed."""

    OLD = "old"
    BOTH = "both"
    NEW = "new"

    def has(self, signer: Signer) -> bool:
        return self is Trust.BOTH or self.value == signer.value


class Credentials:
    """Of one mesh. `files[a, b]` is what a shows to b's store, `trust[a, b]` which authorities of b are believed in a: by who
    reads b's store, and by a's store of b's clients.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], Credential] = {}
        self.trust: dict[tuple[str, str], Trust] = {}
        self.signers: dict[str, Signer] = {}

    @property
    def are_good(self) -> bool:
        """Whether every cluster that connects anew with any other is let in."""
        if not (self.files or self.trust or Signer.NEW in self.signers.values()):
            return True
        is_believed = all(self.trust_of(a, b).has(self.signer(b)) for a in self.signers for b in self.signers if a != b)
        return is_believed and all(credential.is_accepted for credential in self.files.values())

    def join(self, cluster: str) -> None:
        """The cluster has the authority that it was installed with."""
        self.signers[cluster] = Signer.OLD

    def settle(self) -> None:
        """All files are good, and everybody believes whoever signs now, and nobody else."""
        self.files.clear()
        self.trust = {(a, b): Trust(self.signer(b).value) for a in self.signers for b in self.signers if a != b}

    def signer(self, cluster: str) -> Signer:
        return self.signers[cluster]

    def trust_of(self, cluster: str, other: str) -> Trust:
        return self.trust.get((cluster, other), Trust.OLD)

    def write(self, directory: Path, cluster: str, peer: str) -> str:
        """The files are there; returns what a connection file says of them."""
        credential = self.files.get((cluster, peer), Credential.GOOD)
        believed = _certificates(peer, self.trust_of(cluster, peer))
        if credential is Credential.MISPLACED:
            believed = (authority_of(STRANGER).certificate_pem,)
        certificate, key = issued(cluster, credential, self.signer(cluster))
        lines = []
        for name, suffix, content in (
            ("trusted-ca-file", "ca.crt", b"".join(believed)),
            ("cert-file", "tls.crt", certificate),
            ("key-file", "tls.key", key),
        ):
            path = directory / f"{peer}.{suffix}"
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)
            lines.append(f"{name}: {path.name}\n")
        return "".join(lines)

    def refusal(self, config: ClientConfig, cluster: str, peer: str, wall_s: float) -> str:
        """Why no connection of a peer to the cluster's store comes about with these files, as they are now; empty if one does."""
        try:
            tls = config.tls(None)
        except Rejected as exc:
            return str(exc)
        if tls is None:
            return ""
        if authority_of(cluster, self.signer(cluster)).certificate_pem not in tls.ca:
            return "certificate signed by unknown authority"
        if not any(_is_signed(tls.cert, pem) for pem in _certificates(peer, self.trust_of(cluster, peer))):
            return "remote error: bad certificate"
        if judge_dates(wall_s, _parse(tls.cert)[0]) not in VALID:
            return "remote error: expired certificate"
        return ""


def prepare(clusters: Sequence[str]) -> None:
    """Everything of these clusters that a history may need is issued and read, for the forks that run histories share it."""
    for cluster in clusters:
        for credential, signer in product(Credential, Signer):
            certificate, _ = issued(cluster, credential, signer)
            _parse(certificate)
    for cluster, peer in permutations(clusters, 2):
        for trust in Trust:
            for pem in _certificates(peer, trust):
                _is_signed(issued(peer, Credential.GOOD, Signer.OLD)[0], pem)
        believed = b"".join(_certificates(peer, Trust.OLD))
        client_context(CertFiles(believed, *issued(cluster, Credential.GOOD, Signer.OLD)))


@cache
def authority_of(cluster: str, signer: Signer = Signer.OLD) -> Authority:
    """Each process makes its own; nothing depends on which keys these are. Both of a cluster have the same name."""
    del signer
    return Authority.create(cluster, EPOCH_S - AUTHORITY_AGE_S)


@cache
def issued(cluster: str, credential: Credential, signer: Signer) -> tuple[bytes, bytes]:
    """Certificate and key of a cluster towards its peers."""
    authority = authority_of(STRANGER) if credential is Credential.STRANGER else authority_of(cluster, signer)
    age_days = 500 if credential is Credential.EXPIRED else 2 if credential is Credential.GOOD else 1
    found = authority.issue(remote(cluster), EPOCH_S - age_days * DAY_S)
    return found.cert_pem, found.key_pem


def _certificates(cluster: str, trust: Trust) -> tuple[bytes, ...]:
    return tuple(authority_of(cluster, signer).certificate_pem for signer in Signer if trust.has(signer))


@cache
def _is_signed(certificate: bytes, authority_pem: bytes) -> bool:
    return issued_by(certificate, authority_pem)


_parse = cache(parse)
