# SPDX-License-Identifier: Apache-2.0
"""Many SYNs that nobody answers, from one pod and as fast as its node takes them."""

from __future__ import annotations

from typing import Final

from agent.datapath import spec
from e2e.mesh import Cluster, Mesh

TIMES: Final = 10
OPENING_FLOWS: Final = spec.CONNTRACK_OPENING.max_entries
NOBODY: Final = "192.0.2.0"
# every source port to one address, then to the next: no two packets are of one flow
FLOOD: Final = f"""
import ctypes, socket, struct
SIZE, PACKET = 65536, 40
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
class Message(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint), ("parts", ctypes.POINTER(Part)),
                ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_int), ("sent", ctypes.c_uint)]
one = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
one.connect(("{NOBODY}", 0))
head = struct.pack("!BBHHHBBH4s4s", 69, 0, PACKET, 0, 0, 64, 6, 0, socket.inet_aton(one.getsockname()[0]),
                   socket.inet_aton("{NOBODY}"))
tcp = [struct.pack("!HHIIBBHHH", port, 80, 0, 0, 80, 2, 1024, 0, 0) for port in range(SIZE)]
packets = bytearray(b"".join(head + body for body in tcp))
base = ctypes.addressof((ctypes.c_char * len(packets)).from_buffer(packets))
parts = (Part * SIZE)(*[Part(base + n * PACKET, PACKET) for n in range(SIZE)])
step = ctypes.sizeof(Part)
messages = (Message * SIZE)()
for n, message in enumerate(messages):
    message.parts = ctypes.cast(ctypes.byref(parts, n * step), ctypes.POINTER(Part))
    message.count = 1
libc = ctypes.CDLL(None, use_errno=True)
sent = 0
for last in range({TIMES} * {OPENING_FLOWS} // SIZE):
    packets[19::PACKET] = bytes([last + 1]) * SIZE
    done = 0
    while done < SIZE:
        found = libc.sendmmsg(one.fileno(), ctypes.byref(messages, done * ctypes.sizeof(Message)), min(1024, SIZE - done), 0)
        if found <= 0:
            raise OSError(ctypes.get_errno(), "sendmmsg")
        done += found
    sent += done
print(sent)
"""


def flood(mesh: Mesh, cluster: Cluster, pod: str) -> int:
    """So many SYNs were sent: ten times what the table of opening flows holds."""
    return int(mesh.kubectl(cluster, "exec", pod, "--", "python3", "-c", FLOOD).stdout)
