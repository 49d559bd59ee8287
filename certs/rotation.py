# SPDX-License-Identifier: Apache-2.0
"""When a certificate must be renewed. Pure: the caller brings the time."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from certs.inspect import CertInfo

RENEW_AFTER: Final = 2 / 3
ALARM_AFTER: Final = 0.9


class Rotation(StrEnum):
    """What to do about one certificate now."""

    KEEP = "keep"
    RENEW = "renew"
    ALARM = "alarm"


def decide(wall_s: float, cert: CertInfo) -> Rotation:
    """Keep until two thirds of the lifetime, then renew; alarm in the last tenth and for ever after."""
    lifetime_s = cert.not_after_s - cert.not_before_s
    if lifetime_s <= 0 or wall_s >= cert.not_before_s + ALARM_AFTER * lifetime_s:
        return Rotation.ALARM
    return Rotation.RENEW if wall_s >= renew_at_s(cert) else Rotation.KEEP


def renew_at_s(cert: CertInfo) -> float:
    """The wall-clock second at which a certificate becomes due for renewal."""
    return cert.not_before_s + RENEW_AFTER * (cert.not_after_s - cert.not_before_s)
