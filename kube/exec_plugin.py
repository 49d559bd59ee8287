# SPDX-License-Identifier: Apache-2.0
"""Credentials from a program that the kubeconfig names (`exec`), run again when what it gave has ended.

Source: client.authentication.k8s.io/v1 and v1beta1, ExecCredential.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from kube.errors import ConfigError, Unauthorized
from kube.kubeconfig import EXEC_EXTENSION
from meshkit.clock import Clock, SystemClock

KNOWN_VERSIONS: Final = tuple(f"client.authentication.k8s.io/{v}" for v in ("v1", "v1beta1", "v1alpha1"))
RENEW_BEFORE_S: Final = 10.0
_CLUSTER_FACTS: Final = (
    "server",
    "tls-server-name",
    "insecure-skip-tls-verify",
    "certificate-authority-data",
    "proxy-url",
    "disable-compression",
)


@dataclass(frozen=True, slots=True)
class ExecCredential:
    """What the program gave: a token, a client certificate, or both; `ends_s` in wall seconds, None where it lasts."""

    token: str
    certificate_pem: str
    key_pem: str
    ends_s: float | None


class ExecPlugin:
    """The program of one user. Safe to use from several threads."""

    def __init__(
        self, spec: Mapping[str, Any], folder: Path, cluster: Mapping[str, Any], clock: Clock | None = None
    ) -> None:
        self._spec, self._folder, self._cluster = spec, folder, cluster
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._kept: ExecCredential | None = None

    def credential(self) -> ExecCredential:
        """What the program gives, at most once until that ends. Raises: ConfigError naming the program."""
        with self._lock:
            kept = self._kept
            if kept is None or (kept.ends_s is not None and kept.ends_s - RENEW_BEFORE_S <= self._clock.wall()):
                kept = self._kept = self._run()
            return kept

    def authorization(self) -> str | None:
        """The header for a request now. Raises: Unauthorized where the program fails; it is asked again next time."""
        try:
            token = self.credential().token
        except ConfigError as exc:
            raise Unauthorized(exc.what, detail=exc.detail) from exc
        return f"Bearer {token}" if token else None

    def renew(self, refused: str | None) -> bool:
        """Run the program again unless another thread did. Raises: Unauthorized where it fails."""
        with self._lock:
            if self._kept is not None and refused == f"Bearer {self._kept.token}":
                self._kept = None
        return self.authorization() != refused

    def _run(self) -> ExecCredential:
        command = str(self._spec.get("command") or "")
        what = f"credential plugin {command}"
        version = str(self._spec.get("apiVersion") or "")
        if version not in KNOWN_VERSIONS:
            raise ConfigError(what, detail=f"its apiVersion {version!r} is none of {', '.join(KNOWN_VERSIONS)}")
        mode = str(self._spec.get("interactiveMode") or "IfAvailable")
        is_interactive = mode != "Never" and sys.stdin is not None and sys.stdin.isatty()
        if mode == "Always" and not is_interactive:
            raise ConfigError(what, detail="it needs a terminal to ask on, and there is none")
        program = str(self._folder / command) if "/" in command else command
        try:
            ended = subprocess.run(
                [program, *(str(arg) for arg in self._spec.get("args") or ())],
                env={**os.environ, **self._environment(version, is_interactive=is_interactive)},
                stdin=None if is_interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                check=False,
            )
        except OSError as exc:
            hint = f"; {self._spec['installHint']}" if self._spec.get("installHint") else ""
            raise ConfigError(what, detail=f"{exc.strerror or exc}{hint}") from exc
        if ended.returncode != 0:
            raise ConfigError(what, detail=f"it ended with code {ended.returncode}")
        return _read(what, version, ended.stdout)

    def _environment(self, version: str, *, is_interactive: bool) -> Mapping[str, str]:
        given = {str(pair["name"]): str(pair.get("value") or "") for pair in self._spec.get("env") or ()}
        spec: dict[str, Any] = {"interactive": is_interactive}
        if self._spec.get("provideClusterInfo"):
            spec["cluster"] = {name: self._cluster[name] for name in _CLUSTER_FACTS if name in self._cluster}
            for extension in self._cluster.get("extensions") or ():
                if extension.get("name") == EXEC_EXTENSION:
                    spec["cluster"]["config"] = extension.get("extension")
        info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
        return {**given, "KUBERNETES_EXEC_INFO": orjson.dumps(info).decode()}


def _read(what: str, version: str, output: bytes) -> ExecCredential:
    try:
        document = orjson.loads(output)
        status = document["status"]
        if document.get("apiVersion") != version:
            raise ValueError(f"it answers in {document.get('apiVersion')}, asked for {version}")
        ends = status.get("expirationTimestamp")
        found = ExecCredential(
            token=str(status.get("token") or ""),
            certificate_pem=str(status.get("clientCertificateData") or ""),
            key_pem=str(status.get("clientKeyData") or ""),
            ends_s=_wall_s(str(ends)) if ends else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ConfigError(what, detail=f"what it printed is no ExecCredential with a status: {exc}") from exc
    if not found.token and not (found.certificate_pem and found.key_pem):
        raise ConfigError(what, detail="it gave neither a token nor a client certificate with its key")
    return found


def _wall_s(text: str) -> float:
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
