# SPDX-License-Identifier: Apache-2.0
"""gRPC's own lines go past our log: whoever reaches the facade's port could write them without end."""

from __future__ import annotations

import subprocess
import sys

SERVER = """
import asyncio, time
from kvstore.etcd import EtcdStore
from kvstore.facade.server import ReadOnlyFacade, ServerTls
from certs import profile
from certs.authority import Authority

async def main():
    authority = Authority.create("mesh CA", time.time(), 30)
    made = authority.issue(profile.server("north", "kube-system"), time.time())
    tls = ServerTls(authority.certificate_pem, made.cert_pem, made.key_pem)
    etcd = EtcdStore(["127.0.0.1:1"])  # nobody asks it
    facade = ReadOnlyFacade(etcd, lambda _: None, tls)
    port = await facade.start("127.0.0.1", 0)
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"no hello of TLS" * 40)
        await reader.read()
        writer.close()
    await facade.stop()
    await etcd.close()
    print("tried")

asyncio.run(main())
"""


def test_handshakes_that_fail_write_no_lines() -> None:
    done = subprocess.run([sys.executable, "-c", SERVER], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("tried\n", "")
