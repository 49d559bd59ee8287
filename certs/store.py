# SPDX-License-Identifier: Apache-2.0
"""Certificates where they are kept: files in one directory, and the data of Kubernetes Secrets."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from certs.errors import CertificateError

CA_FILE: Final = "ca.crt"
CERT_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"
CA_KEY_FILE: Final = "ca.key"


@dataclass(frozen=True, slots=True)
class CertFiles:
    """The three parts a TLS endpoint needs, as PEM; `key` is secret and never shown."""

    ca: bytes
    cert: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"CertFiles(ca={len(self.ca)} bytes, cert={len(self.cert)} bytes)"


def secret_data(files: CertFiles) -> dict[str, str]:
    """The `data` of a Secret with these parts."""
    return encode_data({CA_FILE: files.ca, CERT_FILE: files.cert, KEY_FILE: files.key})


def from_secret_data(data: Mapping[str, str] | None, what: str = "Secret") -> CertFiles:
    """The three parts in a Secret's `data`.

    Raises: CertificateError naming the entry that is missing or not base64.
    """
    return CertFiles(*(decode_entry(data, name, what) for name in (CA_FILE, CERT_FILE, KEY_FILE)))


def encode_data(parts: Mapping[str, bytes]) -> dict[str, str]:
    """Any parts as the `data` of a Secret."""
    return {name: base64.b64encode(content).decode("ascii") for name, content in parts.items()}


def decode_entry(data: Mapping[str, str] | None, name: str, what: str = "Secret") -> bytes:
    """One entry of a Secret's `data`.

    Raises: CertificateError if it is missing, empty or not base64.
    """
    text = (data or {}).get(name)
    if not text:
        raise CertificateError(what, f"has no entry {name}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise CertificateError(what, f"entry {name} is not base64") from exc
