# SPDX-License-Identifier: Apache-2.0
"""Whether `enable` may make a certificate authority. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from clustermesh_cli.exit_code import CommandRefusedError
from meshapi.installed import CA_SECRET

RESTORE: Final = (
    "put the Secret back from a backup; without one delete it if it is there, "
    "run clustermesh enable --new-ca, then clustermesh connect with every peer"
)
"""What to do about an authority that is missing or cannot be read."""


def unusable_authority(reason: str) -> str:
    """What a person is told of a Secret that is there and holds no authority that can sign."""
    return f"Secret {CA_SECRET} holds no authority that can be used ({reason}): {RESTORE}"


def check_authority(*, is_kept: bool, may_be_new: bool, peers: Iterable[str], flaw: str = "") -> None:
    """A cluster whose authority is kept keeps it; one that nobody trusts yet gets one. `flaw` is why a kept one cannot sign.

    Raises: CommandRefusedError where the authority cannot sign; where it is lost and peers trust it, unless `may_be_new`;
    and where `may_be_new` is asked for an authority that is not lost.
    """
    if is_kept and flaw:
        raise CommandRefusedError(f"{unusable_authority(flaw)}; nothing was changed")
    if is_kept and may_be_new:
        raise CommandRefusedError(f"Secret {CA_SECRET} holds the authority: --new-ca replaces a lost one only")
    trusting = sorted(peers)
    if not is_kept and trusting and not may_be_new:
        raise CommandRefusedError(
            f"Secret {CA_SECRET} is lost, and {', '.join(trusting)} trust the authority that was in it: put the Secret back "
            "from a backup, or run enable --new-ca and then clustermesh connect to each of them; nothing was changed"
        )
