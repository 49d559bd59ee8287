# SPDX-License-Identifier: Apache-2.0
"""Trusted authorities, and the cluster whose programs each of them may certify."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from certs.errors import CertificateError
from certs.inspect import load, signed


class TrustBundle:
    """The authorities of each peer by its name, our own under our own name.

    A client belongs to the cluster whose authority signed its certificate, so one peer's authority can never make a
    certificate of another peer or of one of our own users, whatever the subject says.
    """

    def __init__(self, authorities: Mapping[str, bytes] | None = None) -> None:
        self._pems: dict[str, bytes] = {}
        self._authorities: dict[str, tuple[x509.Certificate, ...]] = {}
        for name, pem in sorted((authorities or {}).items()):
            self.set_authority(name, pem)

    def set_authority(self, name: str, pem: bytes) -> None:
        """From now on exactly these authorities certify the named cluster.

        Raises: CertificateError if one cannot be read; what was known before stays.
        """
        authorities = tuple(load(pem, f"CA of {name}"))
        self._authorities[name] = authorities
        self._pems[name] = b"".join(ca.public_bytes(serialization.Encoding.PEM) for ca in authorities)

    def forget(self, name: str) -> None:
        """No authority certifies the named cluster any more."""
        self._authorities.pop(name, None)
        self._pems.pop(name, None)

    def names(self) -> tuple[str, ...]:
        """The clusters that have a trusted authority."""
        return tuple(sorted(self._authorities))

    def pem(self, name: str) -> bytes:
        """The authorities of one cluster, empty if it has none."""
        return self._pems.get(name, b"")

    @property
    def union_pem(self) -> bytes:
        """Every authority once: what a TLS server accepts at the door, before the apiserver decides by `signers`."""
        unique = dict.fromkeys(
            ca.public_bytes(serialization.Encoding.PEM) for name in self.names() for ca in self._authorities[name]
        )
        return b"".join(unique)

    def signers(self, cert_pem: bytes) -> tuple[str, ...]:
        """Every cluster one of whose authorities signed the certificate: more than one if they share an authority."""
        try:
            leaf = load(cert_pem)[0]
        except CertificateError:
            return ()
        return tuple(name for name in self.names() if any(signed(leaf, ca) for ca in self._authorities[name]))
