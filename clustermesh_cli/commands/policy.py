# SPDX-License-Identifier: Apache-2.0
"""`clustermesh policy eval` and `lint`: what policies mean, without root, and without a cluster unless asked for one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import orjson

from clustermesh_cli.outcome import CommandError, ExitCode
from meshmodel.identity import NumericIdentity
from meshmodel.labels import Labels
from meshpolicy.context import PolicyContext
from meshpolicy.evaluate import CaseError, evaluate
from meshpolicy.lint import lint

if TYPE_CHECKING:
    from kube.client import KubeClient


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
    paths: Sequence[str],
    cluster: str,
    *,
    default_local_cluster: bool,
    identities: Mapping[NumericIdentity, Labels] | None = None,
    output: TextIO | None = None,
) -> ExitCode:
    """Print one line per finding of all files together. CHECK_FAILED when there is any.

    With identities, selectors that select none of them are findings too.
    """
    stream = output or sys.stdout
    texts = [_read(path) for path in paths]
    findings = lint(texts, PolicyContext(cluster=cluster, default_local_cluster=default_local_cluster), identities)
    for finding in findings:
        print(finding, file=stream)
    print(f"{len(findings)} findings in {len(paths)} files", file=stream)
    return ExitCode.CHECK_FAILED if findings else ExitCode.OK


def lint_live(paths: Sequence[str], client: KubeClient, system: str, output: TextIO | None = None) -> ExitCode:
    """As `lint_files`, for the running cluster: its name, its switch, and the identities that its agents know."""
    from clustermesh_cli.live_policy import read_agent, read_cluster  # offline verbs need no client

    live = read_cluster(client, system, client.context)
    view = read_agent(client, system, client.context)
    return lint_files(
        paths,
        live.name,
        default_local_cluster=live.default_local_cluster,
        identities=view.identities,
        output=output,
    )


def _read(path: str) -> str:
    if path == "-":
        return sys.stdin.read()
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise CommandError(f"{path}: {exc}", ExitCode.USAGE) from exc
