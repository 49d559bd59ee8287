# SPDX-License-Identifier: Apache-2.0
"""`clustermesh policy eval` and `lint`: what policies mean, without root, and without a cluster unless asked for one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

import orjson

from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.lint_report import make_report, report_lines
from clustermesh_cli.policy_settings import DEFAULTS, PolicySettings
from clustermesh_cli.policy_summary import summarise
from clustermesh_cli.verdict_lines import verdict_lines
from meshkit import yamltext
from meshkit.answer_form import AnswerForm
from meshmodel.identity import NumericIdentity
from meshmodel.labels import Labels
from meshpolicy.context import PolicyContext
from meshpolicy.evaluate import CaseError, evaluate
from meshpolicy.lint import NOT_ENFORCED, Finding, Severity, lint
from meshpolicy.proxy_ports import ProxyPorts
from meshpolicy.range_shares import LIMITS, ShareLimits

if TYPE_CHECKING:
    from kube.client import KubeClient

_NO_DOCUMENT: Final = Finding(
    Severity.ERROR,
    "no-document",
    "nothing to read",
    "no file holds a document",
    "begin with apiVersion, kind, metadata and spec",
)
_MANIFESTS: Final = (".yaml", ".yml", ".json")


def evaluate_file(text: str, form: AnswerForm, output: TextIO, limits: ShareLimits = LIMITS) -> None:
    """Write the answer to a case, or to a list of cases (JSON or YAML): JSON in one line, YAML, or a verdict a line.

    An invalid policy is part of the answer, not an error of the command. Raises: CommandError (usage) for a malformed case.
    """
    cases = _read_case(text)
    try:
        answer = evaluate(cases, limits)
    except CaseError as exc:
        raise CommandError(f"the case cannot be read: {exc}", ExitCode.USAGE) from exc
    if form is AnswerForm.JSON:
        output.write(orjson.dumps(answer).decode() + "\n")
    else:
        print_answer(answer, verdict_lines(cases, answer), form, Console(plain=True, stream=output))


def _read_case(text: str) -> object:
    """The one case, or the list of cases. Several YAML documents are a list of cases too."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as not_json:
        try:
            found = [item for item in yamltext.load_documents(text) if item is not None]
        except yamltext.YamlTextError as exc:
            raise CommandError(f"the case is neither JSON ({not_json}) nor YAML ({exc})", ExitCode.USAGE) from exc
    return found[0] if len(found) == 1 else found


def lint_files(
    paths: Sequence[str],
    cluster: str,
    settings: PolicySettings = DEFAULTS,
    *,
    identities: Mapping[NumericIdentity, Labels] | None = None,
    is_summary: bool = False,
    form: AnswerForm = AnswerForm.TABLE,
    output: TextIO | None = None,
) -> ExitCode:
    """Print one line per finding, file by file, then those that only all files together have; of a summary counts and reasons.

    A directory stands for the manifests in it and below.

    CHECK_FAILED by errors; DEGRADED where a valid policy has a part that is not enforced as written. Other warnings
    and notes are about correct policies. With identities, selectors that select none of them are findings too.
    """
    context = PolicyContext(cluster, settings.default_local_cluster, proxy_ports=ProxyPorts(), ipv6=settings.ipv6)
    limits = settings.limits
    texts = {path: _read(path) for path in _files(paths)}
    own = {path: lint([text], context, identities, limits) for path, text in texts.items()}
    found = [(path, finding) for path, findings in own.items() for finding in findings]
    known = {finding for findings in own.values() for finding in findings}
    found += [("", _NO_DOCUMENT)] if not any(_has_document(text) for text in texts.values()) else []
    found += [("", finding) for finding in lint(texts.values(), context, identities, limits) if finding not in known]
    summary = summarise(texts.values(), context) if is_summary else None
    report = make_report(len(texts), found, summary)
    print_answer(report, report_lines(report, found, summary), form, Console(plain=True, stream=output))
    if report.counts[Severity.ERROR]:
        return ExitCode.CHECK_FAILED
    return ExitCode.DEGRADED if any(finding.code == NOT_ENFORCED for _, finding in found) else ExitCode.OK


def lint_live(
    paths: Sequence[str],
    client: KubeClient,
    system: str,
    *,
    is_summary: bool = False,
    form: AnswerForm = AnswerForm.TABLE,
    output: TextIO | None = None,
) -> ExitCode:
    """As `lint_files`, for the running cluster: its name, its settings, and the identities that its agents know."""
    from clustermesh_cli.live_policy import read_agent, read_cluster  # offline verbs need no client
    from clustermesh_cli.program_client import ProgramClient

    live = read_cluster(client, system, client.context)
    view = read_agent(ProgramClient(client, system), client.context)
    return lint_files(
        paths,
        live.name,
        live.settings,
        identities=view.identities,
        is_summary=is_summary,
        form=form,
        output=output,
    )


def _files(paths: Sequence[str]) -> list[str]:
    """The paths, each directory replaced by the manifests in it and below. Raises: CommandError for one without any."""
    found: list[str] = []
    for path in paths:
        if not Path(path).is_dir():
            found.append(path)
            continue
        inside = sorted(str(file) for file in Path(path).rglob("*") if file.suffix in _MANIFESTS and file.is_file())
        if not inside:
            raise CommandError(f"{path}: holds no manifest ({', '.join(_MANIFESTS)})", ExitCode.USAGE)
        found += inside
    return list(dict.fromkeys(found))


def _has_document(text: str) -> bool:
    """A document, or what cannot be read as one, which is told as such."""
    try:
        return any(item is not None for item in yamltext.load_documents(text))
    except yamltext.YamlTextError:
        return True


def _read(path: str) -> str:
    if path == "-":
        return sys.stdin.read()
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise CommandError(f"{path}: {exc}", ExitCode.USAGE) from exc
