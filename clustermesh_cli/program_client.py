# SPDX-License-Identifier: Apache-2.0
"""The mesh's programs of one cluster, asked through its Kubernetes API with a short-lived token made for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from clustermesh_cli.exit_code import CommandError
from kube.client import KubeClient
from kube.errors import Forbidden, KubeError, NotFound, Unauthorized
from kube.transport import LineStream, OpenAnswer, Query
from meshapi.installed import (
    AGENT_PORT,
    APISERVER_PORT,
    RELAY_HTTP_PORT,
    RELAY_HTTP_SERVICE,
    STATUS_SERVICE,
    TOKEN_AUDIENCE,
    TOKEN_HEADER,
    VIEWER,
)

TOKEN_LIFETIME_S: Final = 3600


class ProgramClient:
    """Reads the REST interfaces of the apiserver and the agents. One token is made at first use and kept; another
    one in place of one that is refused: its account was made anew, by `disable` and `enable` for example, or it has ended.

    The API server passes requests on to pods but never the caller's own credentials; the token is for the mesh's programs
    alone, so that it is of no use to anybody else who sees it.
    """

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self.client, self.namespace = client, namespace
        self._headers: Mapping[str, str] | None = None

    def get_apiserver(self, path: str) -> tuple[int, bytes]:
        """HTTP status and body. Raises: KubeError, CommandError if no token can be made."""
        return self._ask(
            lambda headers: self.client.service_proxy_get(
                self.namespace, STATUS_SERVICE, APISERVER_PORT, path, headers=headers
            )
        )

    def get_agent(self, pod: str, path: str) -> tuple[int, bytes]:
        """HTTP status and body of the agent in a pod. Raises: KubeError, CommandError if no token can be made."""
        return self._ask(
            lambda headers: self.client.pod_proxy_get(self.namespace, pod, AGENT_PORT, path, headers=headers)
        )

    def get_relay(self, path: str) -> tuple[int, bytes]:
        """HTTP status and body of the relay of flows. Raises: KubeError, CommandError if no token can be made."""
        return self._ask(
            lambda headers: self.client.service_proxy_get(
                self.namespace, RELAY_HTTP_SERVICE, RELAY_HTTP_PORT, path, headers=headers
            )
        )

    def follow_relay(self, path: str, query: Query, silence_s: float) -> LineStream:
        """An answer of it that is read as it comes. Raises: KubeError, CommandError if no token can be made."""
        return self._follow(f"services/{RELAY_HTTP_SERVICE}:{RELAY_HTTP_PORT}/proxy/{path}", query, silence_s)

    def open_relay(self, path: str, silence_s: float) -> OpenAnswer:
        """The same whatever its status, with its headers, for who passes it on."""
        place = f"services/{RELAY_HTTP_SERVICE}:{RELAY_HTTP_PORT}/proxy/{path}"
        where = f"/api/v1/namespaces/{quote(self.namespace)}/{place}"
        answer = self.client.transport.open(where, read_timeout_s=silence_s, headers=self._credentials())
        if answer.status != HTTPStatus.UNAUTHORIZED:
            return answer
        answer.body.close()
        self._headers = None
        return self.client.transport.open(where, read_timeout_s=silence_s, headers=self._credentials())

    def follow_apiserver(self, path: str, query: Query, silence_s: float) -> LineStream:
        """An answer that is read as it comes. Raises: KubeError, CommandError if no token can be made."""
        return self._follow(f"services/{STATUS_SERVICE}:{APISERVER_PORT}/proxy/{path}", query, silence_s)

    def follow_agent(self, pod: str, path: str, query: Query, silence_s: float) -> LineStream:
        """The same of the agent in a pod."""
        return self._follow(f"pods/{quote(pod)}:{AGENT_PORT}/proxy/{path}", query, silence_s)

    def _follow(self, place: str, query: Query, silence_s: float) -> LineStream:
        where, transport = f"/api/v1/namespaces/{quote(self.namespace)}/{place}", self.client.transport
        try:
            return transport.stream(where, query=query, read_timeout_s=silence_s, headers=self._credentials())
        except Unauthorized:
            self._headers = None
            return transport.stream(where, query=query, read_timeout_s=silence_s, headers=self._credentials())

    def _ask(self, get: Callable[[Mapping[str, str]], tuple[int, bytes]]) -> tuple[int, bytes]:
        code, body = get(self._credentials())
        if code == HTTPStatus.UNAUTHORIZED:
            self._headers = None
            code, body = get(self._credentials())
        return code, body

    def _credentials(self) -> Mapping[str, str]:
        if self._headers is None:
            self._headers = {TOKEN_HEADER: self._make_token()}
        return self._headers

    def _make_token(self) -> str:
        try:
            return self.client.service_account_token(
                self.namespace, VIEWER, audience=TOKEN_AUDIENCE, lifetime_s=TOKEN_LIFETIME_S
            )
        except NotFound as exc:
            raise CommandError(
                f"there is no ServiceAccount {self.namespace}/{VIEWER} to ask the mesh's programs with: "
                "run clustermesh enable again"
            ) from exc
        except Forbidden as exc:
            raise CommandError(f"{exc}; this needs to create serviceaccounts/token of {VIEWER}") from exc
        except KubeError as exc:
            raise CommandError(f"no token to ask the mesh's programs with: {exc}") from exc
