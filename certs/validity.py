# SPDX-License-Identifier: Apache-2.0
"""Whether certificates are good now, and the sentence that says why not. Pure: the caller brings the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from certs.inspect import CertInfo
from certs.rotation import Rotation, decide


class Validity(StrEnum):
    """Whether a verifier accepts the dates of a certificate, if there is one; ENDING ones are still accepted."""

    VALID = "valid"
    ENDING = "ending"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class CertificateState:
    """How the certificates kept for one purpose stand; `sentence` is empty while they are valid."""

    validity: Validity
    sentence: str = ""

    @property
    def is_refused(self) -> bool:
        """True if every reader refuses the certificate."""
        return self.validity in (Validity.EXPIRED, Validity.NOT_YET_VALID, Validity.MISSING)


@dataclass(frozen=True, slots=True)
class KeptCertificates:
    """What is kept for one purpose, and what renews it. `reason` says why there is none that can be read."""

    what: str
    certificates: tuple[CertInfo, ...]
    remedy: str
    reason: str = ""


def judge_dates(wall_s: float, cert: CertInfo) -> Validity:
    """Both ends are part of the life, as RFC 5280 has it; the last tenth of it is ENDING."""
    if wall_s > cert.not_after_s:
        return Validity.EXPIRED
    if wall_s < cert.not_before_s:
        return Validity.NOT_YET_VALID
    return Validity.ENDING if decide(wall_s, cert) is Rotation.ALARM else Validity.VALID


def judge(wall_s: float, kept: KeptCertificates) -> CertificateState:
    """How they stand: as the best of them, since an old authority may stay beside the new one; none at all is MISSING."""
    what, certificates, remedy = kept.what, kept.certificates, kept.remedy
    if not certificates:
        return CertificateState(Validity.MISSING, f"{what}: {kept.reason}; {remedy}")
    order = list(Validity)
    best = min(certificates, key=lambda cert: (order.index(judge_dates(wall_s, cert)), -cert.not_after_s))
    match judge_dates(wall_s, best):
        case Validity.VALID:
            return CertificateState(Validity.VALID)
        case Validity.NOT_YET_VALID as verdict:
            words = f"{what} is not valid before {date(best.not_before_s)}: correct the clocks, or {remedy}"
        case Validity.EXPIRED as verdict:
            words = f"{what} expired on {date(best.not_after_s)}: {remedy}"
        case verdict:
            words = f"{what} is in the last tenth of its life and expires on {date(best.not_after_s)}: {remedy}"
    return CertificateState(verdict, words)


def date(wall_s: float) -> str:
    """A moment as people read it."""
    return f"{datetime.fromtimestamp(wall_s, UTC):%Y-%m-%d %H:%M} UTC"
