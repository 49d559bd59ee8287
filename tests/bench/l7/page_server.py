# SPDX-License-Identifier: Apache-2.0
"""A server of one small page that costs as little as Python can: what is measured is the way to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import threading
from collections.abc import Iterator

from tests.integration.datapath.datapath_topology import Pod
from tests.packet.datapath_host import inside

PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.contextmanager
def served_pages(pod: Pod, port: int) -> Iterator[None]:
    """The pod answers each request on the port with the page, from a process of its own."""
    with inside(pod.namespace):
        listener = socket.create_server(("", port))
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(listener,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()
        listener.close()


def _serve(listener: socket.socket) -> None:
    while True:
        made, _ = listener.accept()
        threading.Thread(target=_answer, args=(made,), daemon=True).start()


def _answer(made: socket.socket) -> None:
    with made, contextlib.suppress(OSError):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := made.recv(65536):
            made.sendall(PAGE * data.count(b"\r\n\r\n"))
