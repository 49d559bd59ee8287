# SPDX-License-Identifier: Apache-2.0
"""A server in a pod that keeps what it receives."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from tests.integration.datapath.datapath_topology import Pod
from tests.integration.datapath.node_envoy import WEB_PORT
from tests.packet.datapath_host import inside

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Recorder:
    """Each part of what is `received` is answered with what it `says`."""

    def __init__(self, pod: Pod) -> None:
        self.received, self.says = b"", OK
        self.opened = self.ended = 0
        self.waits_s = 0.0
        """Before it ends a connection that the other side has ended."""
        self.ports: list[int] = []
        """Of those that opened its connections."""
        with inside(pod.namespace):
            self._listener = socket.create_server(("", WEB_PORT))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                made, (_, port) = self._listener.accept()
                self.ports.append(port)
                self.opened += 1
                threading.Thread(target=self._serve, args=(made,), daemon=True).start()

    def _serve(self, made: socket.socket) -> None:
        with made, contextlib.suppress(OSError):
            while data := made.recv(65536):
                self.received += data
                made.sendall(self.says)
            time.sleep(self.waits_s)
        self.ended += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
