# SPDX-License-Identifier: Apache-2.0
"""A proxy of TCP in one node: it asks the server in the client's name, and says in every answer that it was between them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from agent.datapath.layout import Direction
from agent.datapath.proxy_marks import PROXY_ADDRESS, ProxyMark
from agent.datapath.proxy_routes import prepare_stack
from tests.integration.datapath.datapath_topology import Node
from tests.packet.datapath_host import inside

_MARKS = {
    Direction.EGRESS: (ProxyMark.EGRESS_REPLY, ProxyMark.EGRESS_UPSTREAM),
    Direction.INGRESS: (ProxyMark.INGRESS_REPLY, ProxyMark.INGRESS_UPSTREAM),
}


def _transparent(node: Node, mark: int) -> socket.socket:
    with inside(node.namespace):
        made = socket.socket()
    made.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.settimeout(3)
    return made


@contextlib.contextmanager
def transparent_proxy(node: Node, direction: Direction, port: int) -> Iterator[None]:
    """What policies of this node hand to `port` is passed on, and its answers begin with "<direction>:"."""
    reply, upstream = _MARKS[direction]
    with inside(node.namespace):
        assert prepare_stack() == ""
    listener = _transparent(node, reply)
    listener.bind((PROXY_ADDRESS, port))
    listener.listen(64)
    stop = threading.Event()

    def serve(client: socket.socket) -> None:
        with client, _transparent(node, upstream) as server, contextlib.suppress(OSError):
            client.settimeout(3)
            server.bind((client.getpeername()[0], 0))
            server.connect(client.getsockname())
            while asked := client.recv(65536):
                server.sendall(asked)
                client.sendall(direction.name.lower().encode() + b":" + server.recv(65536))

    def accept() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError, OSError):
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    listener.settimeout(0.1)
    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)
        listener.close()
