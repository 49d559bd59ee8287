# SPDX-License-Identifier: Apache-2.0
"""The certificates of a cluster as rows for people and programs. Pure: the caller brings the time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from certs.inspect import CertInfo
from certs.validity import KeptCertificates, Validity, judge_dates
from meshapi.row import SCHEMA, Row
from meshapi.shown_times import rfc3339

HEADERS: Final = ("KIND", "SUBJECT", "ISSUER", "NOT BEFORE", "NOT AFTER", "LEFT", "STATE", "NAMES")
ALARMS: Final = frozenset(Validity) - {Validity.VALID}


class ShownCertificate(Row, kw_only=True):
    """One certificate; `left` is the share of its life that is left, 0 to 1. Times are RFC 3339; empty where there is none."""

    kind: str
    state: str
    subject: str = ""
    issuer: str = ""
    sans: list[str] = msgspec.field(default_factory=list)
    not_before: str = ""
    not_after: str = ""
    left: float = 0.0
    fingerprint: str = ""
    next: str = ""


class ShownCertificates(Row, kw_only=True):
    """All of them, as of `time`."""

    schema: int = SCHEMA
    time: str
    certificates: list[ShownCertificate]


def make_rows(kept: Iterable[KeptCertificates], wall_s: float) -> list[ShownCertificate]:
    """A row for each certificate, and one for each that should be there and is not."""
    return [row for purpose in kept for row in _rows(purpose, wall_s)]


def is_well(rows: Iterable[ShownCertificate]) -> bool:
    """False if one is not accepted, or is in the last tenth of its life."""
    return not any(row.state in ALARMS for row in rows)


def table(rows: Iterable[ShownCertificate]) -> list[tuple[str, ...]]:
    """Headers, then the cells of each certificate."""
    return [
        HEADERS,
        *(
            (
                row.kind,
                row.subject or "-",
                row.issuer or "-",
                row.not_before or "-",
                row.not_after or "-",
                f"{row.left:.0%}" if row.not_after else "-",
                row.state,
                ",".join(row.sans) or "-",
            )
            for row in rows
        ),
    ]


def _rows(purpose: KeptCertificates, wall_s: float) -> Iterable[ShownCertificate]:
    if not purpose.certificates:
        yield ShownCertificate(kind=purpose.what, state=Validity.MISSING, next=f"{purpose.reason}; {purpose.remedy}")
    for cert in purpose.certificates:
        yield _row(purpose, cert, wall_s)


def _row(purpose: KeptCertificates, cert: CertInfo, wall_s: float) -> ShownCertificate:
    state = judge_dates(wall_s, cert) if purpose.is_trusted else Validity.UNTRUSTED
    life_s = cert.not_after_s - cert.not_before_s
    return ShownCertificate(
        kind=purpose.what,
        state=state,
        subject=cert.subject_cn,
        issuer=cert.issuer,
        sans=list(cert.sans),
        not_before=rfc3339(cert.not_before_s),
        not_after=rfc3339(cert.not_after_s),
        left=round(min(max((cert.not_after_s - wall_s) / life_s, 0.0), 1.0), 4) if life_s > 0 else 0.0,
        fingerprint=cert.fingerprint,
        next=purpose.remedy if state in ALARMS else "",
    )
