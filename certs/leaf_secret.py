# SPDX-License-Identifier: Apache-2.0
"""Whether the certificate in a Secret stays, is issued anew, or is not ours to touch. The caller brings the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from certs.authority import Issued
from certs.authority_secret import KeptAuthority
from certs.errors import CertificateError
from certs.inspect import CertInfo, issued_by, parse
from certs.pair import check_pair
from certs.profile import Profile
from certs.rotation import Rotation, decide
from certs.store import CertFiles, from_secret_data

MANAGED_BY: Final = "cert-manager.io/"
DAY_S: Final = 86_400.0
TOLERANCE: Final = 1.1
"""A certificate that lasts this many times longer from now than it should is of an earlier, longer setting, or of a clock
that was ahead."""


class LeafAction(StrEnum):
    """What to do about one Secret."""

    KEEP = "keep"
    ISSUE = "issue"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class LeafVerdict:
    """`reason` is a part of a sentence; `shape` has every name that the next certificate must have."""

    action: LeafAction
    reason: str
    shape: Profile
    current: CertInfo | None = None


def is_foreign(metadata: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """True for a Secret that somebody else keeps: it lacks our labels, has an owner, or cert-manager made it."""
    annotations = metadata.get("annotations") or {}
    return (
        not labels.items() <= (metadata.get("labels") or {}).items()
        or bool(metadata.get("ownerReferences"))
        or any(name.startswith(MANAGED_BY) for name in annotations)
    )


def judge_leaf(
    secret: Mapping[str, Any] | None,
    name: str,
    shape: Profile,
    kept: KeptAuthority,
    *,
    labels: Mapping[str, str],
    wall_s: float,
) -> LeafVerdict:
    """A certificate of ours is issued anew where it is missing, cannot be read, is not of this authority, lacks a name, is
    due, or lasts longer than it should; not where a new one would end no later.

    Names beyond those of `shape` that the current certificate has are kept.
    """
    if secret is not None and is_foreign(secret.get("metadata") or {}, labels):
        return LeafVerdict(LeafAction.FOREIGN, "is kept by somebody else", shape, _first(secret, name))
    if secret is None:
        return LeafVerdict(LeafAction.ISSUE, "is missing", shape)
    try:
        files = from_secret_data(secret.get("data"), name)
        info = parse(files.cert, name)[0]
        check_pair(files.cert, files.key)
    except CertificateError as exc:
        return LeafVerdict(LeafAction.ISSUE, str(exc), shape)
    if info.subject_cn != shape.common_name:
        return LeafVerdict(LeafAction.ISSUE, f"is of {info.subject_cn}", shape, info)
    wanted = _with_names(shape, info)
    if reason := _why_issue(files, info, shape, kept, wall_s):
        return LeafVerdict(LeafAction.ISSUE, reason, wanted, info)
    return LeafVerdict(LeafAction.KEEP, "", wanted, info)


def issue_leaf(kept: KeptAuthority, verdict: LeafVerdict, wall_s: float, behind_s: float) -> Issued:
    """The next certificate; `behind_s` is how far the API server's clock is behind ours.

    Raises: CertificateError if the authority signs nothing now, or the present certificate is valid by the API server's clock and
    the next one would not be: a clock that is far ahead must not take away what everybody else accepts.
    """
    issued, theirs_s, now = (
        kept.authority.issue(verdict.shape, wall_s, behind_s=behind_s),
        wall_s - behind_s,
        verdict.current,
    )
    is_accepted = now is not None and now.not_before_s <= theirs_s < now.not_after_s
    if is_accepted and theirs_s < parse(issued.cert_pem)[0].not_before_s:
        problem = (
            f"a new one would not be valid yet by the API server's clock, which is {behind_s:.0f} s behind this one; the "
            "present one stays: correct the clock that is wrong"
        )
        raise CertificateError(f"certificate of {verdict.shape.common_name}", problem)
    return issued


def _why_issue(files: CertFiles, info: CertInfo, shape: Profile, kept: KeptAuthority, wall_s: float) -> str:
    authority, life_s = kept.authority, shape.days * DAY_S
    if not issued_by(files.cert, authority.certificate_pem):
        return "is not of this cluster's authority"
    if files.ca != kept.trust_pem:
        return "has other authorities beside it than are trusted now"
    if not {*shape.dns_names, *shape.addresses} <= set(info.sans):
        return "lacks a name"
    if wall_s < info.not_before_s:
        return "is not valid yet"
    if info.not_after_s > wall_s + life_s * TOLERANCE:
        return "lasts longer than it should"
    is_due = decide(wall_s, info) is not Rotation.KEEP
    return "is due" if is_due and min(wall_s + life_s, authority.info.not_after_s) > info.not_after_s else ""


def _with_names(shape: Profile, info: CertInfo) -> Profile:
    if not shape.is_server:
        return shape
    extra = [name for name in info.sans if name not in (*shape.dns_names, *shape.addresses)]
    is_address = {name: name.replace(".", "").isdigit() or ":" in name for name in extra}
    return replace(
        shape,
        dns_names=(*shape.dns_names, *(name for name in extra if not is_address[name])),
        addresses=(*shape.addresses, *(name for name in extra if is_address[name])),
    )


def _first(secret: Mapping[str, Any], name: str) -> CertInfo | None:
    try:
        return parse(from_secret_data(secret.get("data"), name).cert, name)[0]
    except CertificateError:
        return None
