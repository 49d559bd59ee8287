# SPDX-License-Identifier: Apache-2.0
"""A cluster's authority in its Secret, and how a new one takes its place in three writes, each of them safe to stop after.

ANNOUNCED: the new one is trusted beside the one that signs. REPLACED: the new one signs, the old one is still trusted.
RETIRED: no cluster that could be told trusts the old one any more; it is deleted then, and the authority is SETTLED again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from certs.errors import CertificateError
from certs.inspect import CertInfo, describe, load
from certs.store import CA_FILE, CA_KEY_FILE, decode_entry, encode_data
from meshapi.installed import OWN_PREFIX

if TYPE_CHECKING:
    from certs.authority import Authority

NEXT: Final = ("next.crt", "next.key")
PREVIOUS_FILE: Final = "previous.crt"
RETIRED_FILE: Final = "retired.crt"
TOLD_ANNOTATION: Final = OWN_PREFIX + "trust-told"
"""Wall seconds at which all were told whom to trust in the present phase; what is mounted follows a little later."""


class AuthorityPhase(StrEnum):
    """Where the replacement of an authority stands."""

    SETTLED = "settled"
    ANNOUNCED = "announced"
    REPLACED = "replaced"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class KeptAuthority:
    """The authority that signs now; `trust_pem` is what everybody must trust in this phase, the signing one first."""

    authority: Authority
    phase: AuthorityPhase
    trust_pem: bytes
    told_s: float = 0.0

    @property
    def trusted(self) -> tuple[CertInfo, ...]:
        """The certificates of `trust_pem`."""
        return tuple(describe(cert) for cert in load(self.trust_pem))


def read_authority(secret: Mapping[str, Any] | None, name: str) -> KeptAuthority:
    """What the Secret holds. Raises: CertificateError saying what is missing or does not fit."""
    what = f"Secret {name}"
    if secret is None:
        raise CertificateError(what, "is missing")
    data = secret.get("data") or {}
    cert, key = (decode_entry(data, entry, what) for entry in (CA_FILE, CA_KEY_FILE))
    from certs.authority import Authority  # who only reads certificates does not load what signs them

    authority = Authority.load(cert, key)
    phase = phase_of(data)
    if phase is AuthorityPhase.ANNOUNCED:
        Authority.load(*(decode_entry(data, entry, what) for entry in NEXT))
    return KeptAuthority(authority, phase, read_trust(secret, name), _told_s(secret))


def read_trust(secret: Mapping[str, Any] | None, name: str) -> bytes:
    """What others must trust, the signing authority first; no key is looked at.

    Raises: CertificateError saying which certificate is missing or cannot be read.
    """
    from cryptography.hazmat.primitives import serialization

    data = (secret or {}).get("data") or {}
    beside = {AuthorityPhase.ANNOUNCED: NEXT[0], AuthorityPhase.REPLACED: PREVIOUS_FILE}.get(phase_of(data))
    names = (CA_FILE, beside) if beside else (CA_FILE,)
    found = (load(decode_entry(data, entry, f"Secret {name}"), entry) for entry in names)
    return b"".join(cert.public_bytes(serialization.Encoding.PEM) for certs in found for cert in certs)


def phase_of(data: Mapping[str, str]) -> AuthorityPhase:
    """The phase, from the names of the entries."""
    if NEXT[0] in data:
        return AuthorityPhase.ANNOUNCED
    if PREVIOUS_FILE in data:
        return AuthorityPhase.REPLACED
    return AuthorityPhase.RETIRED if RETIRED_FILE in data else AuthorityPhase.SETTLED


def announce(secret: Mapping[str, Any], new: Authority) -> dict[str, Any]:
    """The Secret with a new authority beside the one that signs."""
    return _changed(secret, encode_data(dict(zip(NEXT, (new.certificate_pem, new.key_pem), strict=True))))


def replace_authority(secret: Mapping[str, Any]) -> dict[str, Any]:
    """The Secret in which the announced authority signs; the old key is gone."""
    data = secret["data"]
    taken = {CA_FILE: data[NEXT[0]], CA_KEY_FILE: data[NEXT[1]], PREVIOUS_FILE: data[CA_FILE]}
    return _changed(secret, taken, without=NEXT)


def retire(secret: Mapping[str, Any]) -> dict[str, Any]:
    """The Secret in which the old authority is not trusted any more; others have to be told."""
    return _changed(secret, {RETIRED_FILE: secret["data"][PREVIOUS_FILE]}, without=(PREVIOUS_FILE,))


def forget(secret: Mapping[str, Any]) -> dict[str, Any]:
    """The Secret in which nothing of the old authority is left."""
    return _changed(secret, {}, without=(RETIRED_FILE,))


def told(secret: Mapping[str, Any], wall_s: float | None) -> dict[str, Any]:
    """The Secret that says since when all know whom to trust; None: not all do."""
    return _annotated(secret, None if wall_s is None else f"{wall_s:.0f}")


def _changed(secret: Mapping[str, Any], entries: Mapping[str, str], without: tuple[str, ...] = ()) -> dict[str, Any]:
    data = {name: value for name, value in {**secret["data"], **entries}.items() if name not in without}
    return {**_annotated(secret, None), "data": data}


def _annotated(secret: Mapping[str, Any], value: str | None) -> dict[str, Any]:
    metadata = secret.get("metadata") or {}
    kept = {n: v for n, v in (metadata.get("annotations") or {}).items() if n != TOLD_ANNOTATION}
    return {
        **secret,
        "metadata": {**metadata, "annotations": kept if value is None else {**kept, TOLD_ANNOTATION: value}},
    }


def _told_s(secret: Mapping[str, Any]) -> float:
    text = ((secret.get("metadata") or {}).get("annotations") or {}).get(TOLD_ANNOTATION, "0")
    try:
        return float(text)
    except ValueError:
        return 0.0
