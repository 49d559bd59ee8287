# SPDX-License-Identifier: Apache-2.0
"""`clustermesh ui`: the relay's page at localhost, through the API server.

A browser has no token of ours, so this server adds it. It answers who knows the key in the address that is printed: the first
request with it gets a cookie, which scripts and other sites do not see. Nothing but GET is passed on, and the name by which it
is asked must be this machine's, so that no other site's name leads here.
"""

from __future__ import annotations

import secrets
import webbrowser
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError
from clustermesh_cli.flow_sources import ADVICE, SILENCE_S, ClusterRelay
from clustermesh_cli.program_client import ProgramClient
from kube.errors import KubeError

COOKIE: Final = "clustermesh-ui"
KEY: Final = "key"
HOME: Final = "/ui/"
PASSED: Final = (
    "content-type",
    "content-security-policy",
    "cache-control",
    "x-content-type-options",
    "referrer-policy",
    "location",
)
_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")


def show_page(programs: ProgramClient, port: int, console: Console, *, opens: bool) -> None:
    """Until interrupted. Raises: CommandError where there is no relay, or the port is taken."""
    if not ClusterRelay(programs).is_installed():
        raise CommandError(f"this cluster has no relay, which serves the page: {ADVICE}")
    try:
        server = PageServer(programs, port)
    except OSError as exc:
        raise CommandError(f"127.0.0.1 port {port}: {exc.strerror or exc}: choose another with --port-forward") from exc
    with server:
        console.line(f"The page is at {server.address}")
        if opens:
            webbrowser.open(server.address)
        server.serve_forever()


class PageServer(ThreadingHTTPServer):
    """One thread for each connection; `address` has the key."""

    daemon_threads = True

    def __init__(self, programs: ProgramClient, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.programs, self.key = programs, secrets.token_urlsafe(24)

    @property
    def address(self) -> str:
        """Where the page is, for who started this."""
        return f"http://127.0.0.1:{self.server_port}{HOME}?{urlencode({KEY: self.key})}"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        host = (self.headers.get("host") or "").rpartition(":")[0]
        if host not in _HOSTS:
            self._refuse(HTTPStatus.FORBIDDEN, "this address is for the machine it runs on")
            return
        parts = urlsplit(self.path)
        query = parse_qsl(parts.query, keep_blank_values=True)
        if any(
            secrets.compare_digest(value.encode(), self.server.key.encode()) for name, value in query if name == KEY
        ):
            self._greet(parts.path, [(name, value) for name, value in query if name != KEY])
        elif self._is_known():
            self._pass_on(parts.path, parts.query)
        else:
            self._refuse(HTTPStatus.FORBIDDEN, "open the address that clustermesh ui printed")

    def _is_known(self) -> bool:
        try:
            found = SimpleCookie(self.headers.get("cookie") or "").get(COOKIE)
        except CookieError:
            return False
        return found is not None and secrets.compare_digest(found.value.encode(), self.server.key.encode())

    def _greet(self, path: str, query: list[tuple[str, str]]) -> None:
        """The key leaves the address bar."""
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", path + (f"?{urlencode(query)}" if query else ""))
        self.send_header("Set-Cookie", f"{COOKIE}={self.server.key}; HttpOnly; SameSite=Strict; Path=/")
        self.end_headers()

    def _pass_on(self, path: str, query: str) -> None:
        where = path.lstrip("/") + (f"?{query}" if query else "")
        try:
            answer = self.server.programs.open_relay(where, SILENCE_S)
        except (KubeError, CommandError) as exc:
            self._refuse(HTTPStatus.BAD_GATEWAY, f"the relay does not answer: {exc}")
            return
        try:
            self.send_response(answer.status)
            for name in PASSED:
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            while part := answer.body.read():
                self.wfile.write(part)
                self.wfile.flush()
        except (OSError, KubeError):
            self.close_connection = True  # the browser has left, or the relay has
        finally:
            answer.body.close()

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.end_headers()
        self.wfile.write(f"{text}\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Requests are nobody's news."""
