# SPDX-License-Identifier: Apache-2.0
"""A pod in tion that tries certificates on koornacht's store with an unmodified etcdctl, through koornacht's NodePort."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from certs.authority import Authority
from certs.profile import Profile
from e2e.mesh import SYSTEM, Mesh, Result
from meshkit.clock import SystemClock

DOOR: Final = "172.18.0.2:32379"
HOME: Final = "/certificates"
FORGED: Final = ("admin-koornacht", "local-koornacht", "remote-koornacht", "root", "remote-tion ")
POD: Final = f"""
apiVersion: v1
kind: Pod
metadata: {{name: intruder, namespace: kube-system}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: shell
    image: debian
    volumeMounts: [{{name: certificates, mountPath: {HOME}}}]
  volumes:
  - name: certificates
    secret: {{secretName: intruder}}
"""


@dataclass(frozen=True)
class Intruder:
    """Everything tion has: its own credential for koornacht, and an authority that signs whatever it likes."""

    mesh: Mesh

    def etcdctl(self, certificate: str, *words: str, check: bool = False, input: str | None = None) -> Result:  # noqa: A002
        options = ("-i",) if input is not None else ()
        return self.mesh.kubectl(
            "tion", *self._command(certificate, *options, "--", words=words), check=check, input=input
        )

    def start_etcdctl(self, certificate: str, *words: str) -> subprocess.Popen[str]:
        """The command begins; nothing waits for it."""
        kubeconfig = f"--kubeconfig={self.mesh.names.kubeconfig('tion')}"
        command = ["kubectl", kubeconfig, *self._command(certificate, "--", words=words, limit_s=60)]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def shell(self, script: str) -> Result:
        return self.mesh.kubectl("tion", "exec", "-n", SYSTEM, "intruder", "--", "/bin/sh", "-c", script, check=False)

    def _command(self, certificate: str, *options: str, words: tuple[str, ...], limit_s: float = 3) -> tuple[str, ...]:
        tls = (f"--cert={HOME}/{certificate}.crt", f"--key={HOME}/{certificate}.key") if certificate else ()
        etcdctl = (
            "timeout",
            f"{limit_s:g}",
            "env",
            "ETCDCTL_API=3",
            "etcdctl",
            "--dial-timeout=1s",
            "--command-timeout=2s",
        )
        where = (f"--endpoints=https://{DOOR}", "--insecure-skip-tls-verify=true", *tls)
        return ("exec", "-n", SYSTEM, "intruder", *options, *etcdctl, *where, *words)


@contextmanager
def intruder(mesh: Mesh) -> Iterator[Intruder]:
    """The pod with its certificates: `remote` as tion was given it, the forged ones named by what they claim to be."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "intruder", "namespace": SYSTEM},
        "data": _certificates(mesh),
    }
    text = json.dumps(secret)
    try:
        mesh.apply("tion", text)
        mesh.apply("tion", POD)
        mesh.kubectl("tion", "wait", "-n", SYSTEM, "--for=condition=Ready", "pod/intruder", "--timeout=30s")
        yield Intruder(mesh)
    finally:
        mesh.delete("tion", POD)
        mesh.delete("tion", text)


def _certificates(mesh: Mesh) -> Mapping[str, str]:
    given = mesh.get("tion", "secret", "-n", SYSTEM, "clustermesh-apiserver-remote-cert")["data"]
    ca = mesh.get("tion", "secret", "-n", SYSTEM, "clustermesh-ca")["data"]
    wall_s = SystemClock().wall()
    tion = Authority.load(base64.b64decode(ca["ca.crt"]), base64.b64decode(ca["ca.key"]))
    nobody = Authority.create("nobody knows me", wall_s, 1)
    found = {"remote.crt": given["tls.crt"], "remote.key": given["tls.key"]}
    for name, authority, common_name in (
        *((f"forged-{n.strip()}{'-spaced' * n.endswith(' ')}", tion, n) for n in FORGED),
        ("stranger", nobody, "remote-tion"),
    ):
        issued = authority.issue(Profile(common_name), wall_s)
        found[f"{name}.crt"] = base64.b64encode(issued.cert_pem).decode()
        found[f"{name}.key"] = base64.b64encode(issued.key_pem).decode()
    return found
