# SPDX-License-Identifier: Apache-2.0
"""`clustermesh-apiserver troubleshoot`: why a peer is not mirrored, tried from where the apiserver runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from meshapi.installed import APISERVER, PEER_DIRECTORY
from meshkit.answer_form import FORMS, AnswerForm
from meshkit.arguments import Arguments
from meshpeer.troubleshoot import Limits, troubleshoot


def make_parser() -> Arguments:
    """Flags of the verb."""
    parser = Arguments(prog=f"{APISERVER} troubleshoot", description="Why is a peer not mirrored?")
    parser.add_argument("cluster", nargs="*", help="only these peers")
    parser.add_argument(
        "--mirror-config-dir", type=Path, default=Path(PEER_DIRECTORY), help="one connection file per peer"
    )
    parser.add_argument("-o", "--output", choices=FORMS, default=AnswerForm.TABLE, help="form of the answer")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds for each step")
    return parser


def try_mirrored(words: Sequence[str]) -> int:
    """Try the connection of each peer that is mirrored, or of those that are named: 0 if all is well, else 4."""
    given = make_parser().parse_args(words)
    limits = Limits(given.timeout, lambda _host: None)
    return troubleshoot(given.mirror_config_dir, given.cluster, limits, AnswerForm(given.output), sys.stdout.write)
