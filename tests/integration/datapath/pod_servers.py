# SPDX-License-Identifier: Apache-2.0
"""What pods of a topology answer with: their name, and the address of whoever asked."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading


def listen(
    selector: selectors.BaseSelector, name: str, family: socket.AddressFamily, tcp_port: int, udp_port: int
) -> None:
    """Sockets of this thread's namespace, of this family alone, are among those that `answer` answers for, as this pod."""
    stream = socket.create_server(("", tcp_port), backlog=64, family=family)
    datagram = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        datagram.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    datagram.bind(("", udp_port))
    stream.setblocking(False)
    for made, role in ((stream, "listen"), (datagram, "datagram")):
        selector.register(made, selectors.EVENT_READ, (role, name, ""))


def answer(selector: selectors.BaseSelector, stop: threading.Event) -> None:
    """Until `stop` is set; then all sockets are closed."""
    while not stop.is_set():
        for key, _ in selector.select(0.1):
            made, (role, name, peer) = key.fileobj, key.data
            assert isinstance(made, socket.socket)
            with contextlib.suppress(OSError):
                if role == "listen":
                    opened, (peer, *_) = made.accept()
                    selector.register(opened, selectors.EVENT_READ, ("stream", name, peer))
                elif role == "datagram":
                    _, address = made.recvfrom(256)
                    made.sendto(f"{name} {address[0]}".encode(), address)
                elif made.recv(4096):
                    made.sendall(f"{name} {peer}".encode())
                else:
                    selector.unregister(made)
                    made.close()
    for key in list(selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
    selector.close()
