# SPDX-License-Identifier: Apache-2.0
"""`clustermesh certs show | rotate`: what this cluster is known by and whom it trusts, and new certificates now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

import kube.resource as k
from certs.authority_secret import read_authority
from certs.errors import CertificateError
from certs.inspect import CertInfo
from certs.profile import own_shapes
from certs.validity import KeptCertificates
from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.certificate_rows import ShownCertificate, ShownCertificates, is_well, make_rows, table
from clustermesh_cli.cluster_certificates import ROTATE, read_certificates, replacement_notice
from clustermesh_cli.cluster_facts import read_config
from clustermesh_cli.console import Console
from clustermesh_cli.credentials import ensure_certificates, read_lifetime_s
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.plan.authority_choice import unusable_authority
from clustermesh_cli.program_client import ProgramClient
from kube.client import KubeClient
from kube.errors import Conflict, KubeError
from kube.server_clock import clock_notice
from meshapi.apiserver import CertificateRow
from meshapi.installed import CA_SECRET, CLUSTER_NAME_KEY
from meshapi.shown_times import rfc3339
from meshkit.answer_form import AnswerForm
from meshkit.decoding import decode_as

ATTEMPTS: Final = 5


def show(client: KubeClient, namespace: str, console: Console, form: AnswerForm, wall_s: float) -> ExitCode:
    """Print every certificate. Degraded if one is refused or nearly is. Raises: CommandError where the mesh is not enabled."""
    _cluster_name(client, namespace)
    rows = make_rows((*read_certificates(client, namespace), *_served(client, namespace)), wall_s)
    found = ShownCertificates(time=rfc3339(wall_s), certificates=rows)
    notice = replacement_notice(client, namespace) if form is AnswerForm.TABLE else ""
    print_answer(found, _lines(rows, notice), form, console)
    return ExitCode.OK if is_well(rows) else ExitCode.DEGRADED


def _lines(rows: Sequence[ShownCertificate], notice: str) -> Iterable[str]:
    lines = table(rows)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
    yield from (f"{row.kind} ({row.state}): {row.next}" for row in rows if row.next)
    if notice:
        yield notice


def rotate(client: KubeClient, namespace: str, console: Console, wall_s: float) -> None:
    """Every certificate of this cluster is issued anew by its authority; sessions that stand go on.

    Raises: CommandError if the authority cannot sign, or the Secrets keep changing.
    """
    config = read_config(client, namespace)
    name = _cluster_name(client, namespace)
    try:
        kept = read_authority(client.get(k.SECRETS, CA_SECRET, namespace), CA_SECRET)
    except CertificateError as exc:
        raise CommandError(unusable_authority(str(exc))) from exc
    if notice := clock_notice(client, wall_s):
        console.warn(notice)
    try:
        shapes = dict(own_shapes(name, namespace, read_lifetime_s(config)))
        for _ in range(ATTEMPTS):
            try:
                issued = ensure_certificates(client, namespace, kept, shapes, wall_s, is_forced=True)
                break
            except Conflict:
                continue  # the apiserver renewed one at the same moment
        else:
            raise CommandError("Secrets of certificates are changed by somebody else all the time; try again")
    except CertificateError as exc:
        raise CommandError(f"certificates cannot be issued: {exc}") from exc
    for secret in issued.written:
        console.ok(f"New certificate in Secret {secret}")
    for secret in issued.foreign:
        console.warn(f"Secret {secret} is kept by somebody else and was left alone")
    console.line("Programs use them from their next connection on; connections that stand go on.")


def _cluster_name(client: KubeClient, namespace: str) -> str:
    name = read_config(client, namespace).get(CLUSTER_NAME_KEY)
    if not name or (client.get(k.SECRETS, CA_SECRET, namespace) is None and not _has_any(client, namespace)):
        raise CommandError("the mesh is not enabled here: run clustermesh enable")
    return name


def _has_any(client: KubeClient, namespace: str) -> bool:
    return any(kept.certificates for kept in read_certificates(client, namespace))


def _served(client: KubeClient, namespace: str) -> list[KeptCertificates]:
    """What the apiserver shows to those who connect; nothing where it cannot be asked."""
    try:
        code, body = ProgramClient(client, namespace).get_apiserver("v1/certs")
        rows = decode_as(body, list[CertificateRow]) if code == 200 else []
    except (CommandError, KubeError, msgspec.DecodeError):
        return []
    shown = tuple(_info(row) for row in rows if row.role == "server")
    return [KeptCertificates("shown by clustermesh-apiserver", shown, ROTATE)] if shown else []


def _info(row: CertificateRow) -> CertInfo:
    serial = int(row.serial, 16)
    return CertInfo(
        row.subject_cn, row.not_before, row.not_after, tuple(row.sans), row.issuer, serial, False, row.fingerprint
    )
