# SPDX-License-Identifier: Apache-2.0
"""An observer or a relay that a verb was told to ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clustermesh_cli.exit_code import CommandError, ExitCode
from flows.client import FlowClient, NoAnswerFromServerError, ServerAccess
from flows.errors import RequestError


@contextmanager
def flow_server(
    server: str,
    authorities: Sequence[str],
    cert: str,
    key: str,
    name: str,
    *,
    tls: bool = False,
    timeout_s: float = 5.0,
) -> Iterator[FlowClient]:
    """Connected. Raises: CommandError where it does not answer, or was named wrongly."""
    try:
        access = ServerAccess(
            server=server,
            tls=tls,
            ca=b"".join(_read(path) for path in authorities) or None,
            cert=_read(cert) if cert else None,
            key=_read(key) if key else None,
            server_name=name,
            timeout_s=timeout_s,
        )
        client = FlowClient(access)
    except RequestError as exc:
        raise CommandError(str(exc), ExitCode.USAGE) from exc
    try:
        yield client
    except NoAnswerFromServerError as exc:
        raise CommandError(str(exc)) from exc
    finally:
        client.close()


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise CommandError(f"{path}: {exc.strerror or exc}", ExitCode.USAGE) from exc
