# SPDX-License-Identifier: Apache-2.0
"""Proof that clusters can read each other: before anything is written from where the reader stands, afterwards by a session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

import msgspec

from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.plan.check_row import CheckResult, CheckRow, failures
from clustermesh_cli.plan.connect import PeerLink, check_access
from clustermesh_cli.plan.endpoint import GIVEN, judge_reach, reach_text
from clustermesh_cli.plan.program_rules import apiserver_problem
from clustermesh_cli.plan.session import session_problem
from clustermesh_cli.program_client import ProgramClient
from kube.errors import KubeError
from meshapi.apiserver import Reach, decode_apiserver
from meshkit.clock import SystemClock
from meshkit.decoding import decode_as
from meshkit.refusal import read_refusal

RETRY_S = 0.5
APPEAR_S = 10.0
"""How long the addresses of a Service may take to work after the apiserver behind it is ready."""


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited, in seconds, and by which clock."""

    wait_s: float
    now: Callable[[], float] = field(default=time.monotonic)
    pause: Callable[[float], None] = field(default=_pause)
    wall: Callable[[], float] = field(default=SystemClock().wall)

    def until_none(self, look: Callable[[], str | None], wait_s: float | None = None) -> str | None:
        """The last answer: None as soon as there is nothing to complain about, else the complaint when the time is over."""
        deadline = self.now() + (self.wait_s if wait_s is None else min(wait_s, self.wait_s))
        while (last := look()) is not None and self.now() < deadline:
            self.pause(RETRY_S)
        return last


def prove_reach(link: PeerLink, programs: Mapping[str, ProgramClient], patience: Patience, console: Console) -> None:
    """The reader's apiserver reaches the target's store by TLS, and the store proves to be the target's.

    Raises: CommandError: timeout if a program does not run yet, else a failed check; nothing was written.
    """
    for cluster in (link.reader, link.target):
        wanted = programs[cluster.context]
        last = patience.until_none(lambda wanted=wanted: _unready(wanted))  # type: ignore[misc]
        if last is not None:
            raise CommandError(f"{cluster.name}: {last}; nothing was changed", ExitCode.TIMEOUT)
    rows: list[CheckRow] = []

    def look() -> str | None:
        nonlocal rows
        rows = look_at_reach(link, programs[link.reader.context])
        return next((reach_text(row) for row in failures(rows)), None)

    refusal = patience.until_none(look, 0.0 if check_access(link.target).service_type == GIVEN else APPEAR_S)
    if refusal is not None:
        raise CommandError(f"{refusal}; nothing was changed", ExitCode.CHECK_FAILED)
    for row in rows:
        if row.result is CheckResult.WARN:
            console.warn(reach_text(row))


def look_at_reach(link: PeerLink, programs: ProgramClient) -> list[CheckRow]:
    """What the reader's apiserver sees at each address of the target now. Raises: CommandError if it cannot try."""
    access = check_access(link.target)
    answers = {address: _ask(link, programs, address) for address in access.addresses}
    return judge_reach(link.reader, link.target, access, answers)


def prove_session(link: PeerLink, programs: ProgramClient, patience: Patience) -> None:
    """The reader has a session with the target and has read all of it. Raises: CommandError (timeout)."""

    def look() -> str | None:
        try:
            code, body = programs.get_apiserver("v1/status?nodes=true")
            if code != 200:
                return f"clustermesh-apiserver does not answer (HTTP {code}: {read_refusal(body)})"
            return session_problem(decode_apiserver(body), link.target.name)
        except (KubeError, msgspec.DecodeError) as exc:
            return str(exc)

    last = patience.until_none(look)
    if last is not None:
        raise CommandError(
            f"{link.reader.name} has no session with {link.target.name} after {patience.wait_s:g} s: {last}",
            ExitCode.TIMEOUT,
        )


def _unready(programs: ProgramClient) -> str | None:
    try:
        code, body = programs.get_apiserver("v1/status")
        if code != 200:
            return f"clustermesh-apiserver does not answer (HTTP {code}: {read_refusal(body)})"
        return apiserver_problem(decode_apiserver(body))
    except (CommandError, KubeError, msgspec.DecodeError) as exc:
        return f"clustermesh-apiserver cannot be asked: {exc}"


def _ask(link: PeerLink, programs: ProgramClient, address: str) -> Reach:
    target = link.target
    query = urlencode(
        {
            "host": address,
            "port": check_access(target).port,
            "name": f"{target.name}.mesh.cilium.io",
            "ca": target.ca_pem.decode(),
        }
    )
    try:
        code, body = programs.get_apiserver(f"v1/reach?{query}")
    except KubeError as exc:  # its text is the whole request, with the certificate
        raise CommandError(
            f"{link.reader.name} cannot use {target.name} at {address} port {check_access(target).port}: "
            f"its clustermesh-apiserver gave no answer ({exc.detail or exc.reason or exc.status}); nothing was changed",
            ExitCode.CHECK_FAILED,
        ) from exc
    if code == 404:
        raise CommandError(
            f"{link.reader.name}: its clustermesh-apiserver cannot try endpoints: update it, or connect with --no-verify; "
            "nothing was changed",
            ExitCode.CHECK_FAILED,
        )
    if code != 200:
        raise CommandError(
            f"{link.reader.name}: clustermesh-apiserver cannot try {address} (HTTP {code}: {read_refusal(body)}); "
            "nothing was changed",
            ExitCode.CHECK_FAILED,
        )
    return decode_as(body, Reach)
