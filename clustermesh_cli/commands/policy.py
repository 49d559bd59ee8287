# SPDX-License-Identifier: Apache-2.0
"""`clustermesh policy eval` and `lint`: what policies mean, without a cluster and without root."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import orjson

from clustermesh_cli.outcome import CommandError, ExitCode
from meshpolicy.context import PolicyContext
from meshpolicy.evaluate import CaseError, evaluate
from meshpolicy.lint import lint


def evaluate_file(text: str, output: TextIO) -> None:
    """Write the answer to a case, or to a list of cases, as JSON. Raises CommandError (usage) for a malformed case.

    An invalid policy is part of the answer, not an error of the command.
    """
    try:
        answer = evaluate(orjson.loads(text))
    except orjson.JSONDecodeError as exc:
        raise CommandError(f"the case is not JSON: {exc}", ExitCode.USAGE) from exc
    except CaseError as exc:
        raise CommandError(f"the case cannot be read: {exc}", ExitCode.USAGE) from exc
    output.write(orjson.dumps(answer).decode() + "\n")


def lint_files(
    paths: Sequence[str], cluster: str, *, default_local_cluster: bool, output: TextIO | None = None
) -> ExitCode:
    """Print one line per finding of all files together. CHECK_FAILED when there is any."""
    stream = output or sys.stdout
    texts = [_read(path) for path in paths]
    findings = lint(texts, PolicyContext(cluster=cluster, default_local_cluster=default_local_cluster))
    for finding in findings:
        print(finding, file=stream)
    print(f"{len(findings)} findings in {len(paths)} files", file=stream)
    return ExitCode.CHECK_FAILED if findings else ExitCode.OK


def _read(path: str) -> str:
    if path == "-":
        return sys.stdin.read()
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise CommandError(f"{path}: {exc}", ExitCode.USAGE) from exc
