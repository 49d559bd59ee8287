# SPDX-License-Identifier: Apache-2.0
"""Whether certificates are good now, and the sentence that says why not. Pure: the caller brings the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from certs.inspect import CertInfo
from certs.rotation import Rotation, decide


class Validity(StrEnum):
    """Whether a verifier accepts a certificate, if there is one; ENDING ones are still accepted.

    UNTRUSTED: none of the authorities that readers are told to trust signed it.
    """

    VALID = "valid"
    ENDING = "ending"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    UNTRUSTED = "untrusted"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class CertificateState:
    """How the certificates kept for one purpose stand, and what mends it; both are empty while they are valid."""

    validity: Validity
    finding: str = ""
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """What is wrong and what to do; empty while they are valid."""
        return f"{self.finding}: {self.remedy}" if self.finding else ""

    @property
    def is_refused(self) -> bool:
        """True if every reader refuses the certificate."""
        return self.validity not in (Validity.VALID, Validity.ENDING)


@dataclass(frozen=True, slots=True)
class KeptCertificates:
    """What is kept for one purpose, and what renews it. `reason` says why there is none that can be read.

    `is_trusted` is false where readers do not have the authority that signed it.
    """

    what: str
    certificates: tuple[CertInfo, ...]
    remedy: str
    reason: str = ""
    is_trusted: bool = True


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
        return CertificateState(Validity.MISSING, f"{what}: {kept.reason}", remedy)
    if not kept.is_trusted:
        signer = certificates[0].issuer or "somebody without a name"
        return CertificateState(
            Validity.UNTRUSTED, f"{what} is signed by {signer}, which is no authority of this cluster", remedy
        )
    order = list(Validity)
    best = min(certificates, key=lambda cert: (order.index(judge_dates(wall_s, cert)), -cert.not_after_s))
    match judge_dates(wall_s, best):
        case Validity.VALID:
            return CertificateState(Validity.VALID)
        case Validity.NOT_YET_VALID as verdict:
            words, remedy = f"{what} is not valid before {date(best.not_before_s)}", f"correct the clocks, or {remedy}"
        case Validity.EXPIRED as verdict:
            words = f"{what} expired on {date(best.not_after_s)}"
        case verdict:
            words = f"{what} is in the last tenth of its life and expires on {date(best.not_after_s)}"
    return CertificateState(verdict, words, remedy)


def date(wall_s: float) -> str:
    """A moment as people read it."""
    return f"{datetime.fromtimestamp(wall_s, UTC):%Y-%m-%d %H:%M} UTC"
