# SPDX-License-Identifier: Apache-2.0
"""What Envoy is started by: one option of one call is refused, and nothing else."""

from __future__ import annotations

import subprocess
import sys

from meshkit import original_destination

ASK = """
import errno, socket
made = socket.socket()
for level in (0, 41):
    try:
        made.getsockopt(level, 80, 16)
    except OSError as exc:
        print(level, errno.errorcode[exc.errno])
print(made.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM, made.getsockopt(0, socket.IP_TTL) > 0)
"""


def test_a_program_is_not_told_what_the_stack_tracks_and_all_else() -> None:
    command = (sys.executable, "-I", "-S", original_destination.__file__, sys.executable, "-c", ASK)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["0 ENOENT", "41 ENOENT", "True True"], done.stderr
