# SPDX-License-Identifier: Apache-2.0
"""What somebody gets who knocks at every door: REST paths with tokens, TLS ports with certificates, UDP ports with nonsense.

`knock` runs in a pod or on a node, with Python's own library alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from e2e.mesh import Result

SILENT: Final = ""
"""What a door says that says nothing, or cannot be reached."""
SCRIPT: Final = r"""
import http.client, json, socket, ssl, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
asked = json.load(sys.stdin)
LIMIT_S = 2

def rest(host, port, method, path, token):
    connection = http.client.HTTPConnection(host, port, timeout=LIMIT_S)
    connection.request(method, path, headers={"x-clustermesh-token": token} if token else {})
    return str(connection.getresponse().status)

def tls(host, port, pair):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if pair:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(pair)
            file.flush()
            context.load_cert_chain(file.name)
    with socket.create_connection((host, port), LIMIT_S) as plain, context.wrap_socket(plain) as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9).replace(b"\0\0\0\0", b"\0\0\0\4", 1))
        return "let in" if sock.recv(1) else ""

def udp(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(LIMIT_S)
        sock.connect((host, port))
        for size in (1, 40, 1200):
            sock.send(b"\x08" * size)
        return "answered" if sock.recv(1) else ""

def knock(door):
    kind, *how = door
    try:
        return {"rest": rest, "tls": tls, "udp": udp}[kind](*how)
    except (OSError, http.client.HTTPException):
        return ""

with ThreadPoolExecutor(32) as threads:
    print(json.dumps(list(threads.map(knock, asked))))
"""


@dataclass(frozen=True)
class Door:
    """One thing that is listened on: `kind` is rest, tls or udp; `paths` are those of REST."""

    kind: str
    host: str
    port: int
    paths: tuple[str, ...] = ()


Run = Callable[[Sequence[str], str], Result]
"""Runs a command somewhere, with this input."""


def knock(
    run: Run, doors: Sequence[Door], tokens: Mapping[str, str], certificates: Mapping[str, str]
) -> dict[str, str]:
    """What each way of asking got, by its name: an HTTP status, `let in`, `answered`, or SILENT.

    `tokens` and `certificates` (key and certificate, PEM) are named; "" is nobody's.
    """
    asked: dict[str, list[object]] = {}
    for door in doors:
        where = f"{door.host}:{door.port}"
        if door.kind == "rest":
            for name, token in tokens.items():
                for path in door.paths:
                    asked[f"GET {where}{path} as {name}"] = ["rest", door.host, door.port, "GET", path, token]
                    if name:
                        continue
                    asked[f"POST {where}{path} as {name}"] = ["rest", door.host, door.port, "POST", path, token]
        elif door.kind == "tls":
            for name, pair in certificates.items():
                asked[f"TLS {where} as {name}"] = ["tls", door.host, door.port, pair]
        else:
            asked[f"UDP {where}"] = ["udp", door.host, door.port]
    done = run(("python3", "-c", SCRIPT), json.dumps(list(asked.values())))
    return dict(zip(asked, json.loads(done.stdout), strict=True))
