# SPDX-License-Identifier: Apache-2.0
"""Looks at this cluster's certificates and issues anew what is due. Several replicas may do so: the API server takes one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import kube.resource as k
from certs.authority_secret import KeptAuthority, read_authority
from certs.errors import CertificateError
from certs.leaf_secret import LeafAction, LeafVerdict, issue_leaf, judge_leaf
from certs.profile import Profile, own_shapes
from certs.store import CertFiles, secret_data
from kube.client import KubeClient
from kube.errors import Conflict, KubeError
from kube.server_clock import behind_s
from meshapi.installed import CA_SECRET, PART_OF
from meshkit.clock import Clock

log = logging.getLogger(__name__)

LOOK_S: Final = (1.0, 60.0)
LOOKS_PER_LIFE: Final = 30


@dataclass(frozen=True, slots=True)
class CertificateOwner:
    """Whose certificates are kept, where their Secrets are, and how long new ones last."""

    cluster: str
    namespace: str
    lifetime_s: float


class CertificateKeeper:
    """`problems` are sentences: why something that is due is not renewed. The authority's key is read for each look only."""

    def __init__(self, client: KubeClient, owner: CertificateOwner, clock: Clock) -> None:
        self._client, self._owner, self._clock = client, owner, clock
        self._shapes = own_shapes(owner.cluster, owner.namespace, owner.lifetime_s)
        self._lives_s: dict[str, float] = {}
        """How long each certificate that was found lasts from its beginning."""
        self.problems: tuple[str, ...] = ()
        self.renewed = 0

    async def run(self) -> None:
        """Looks again and again; never returns."""
        while True:
            await asyncio.to_thread(self.look)
            await self._clock.sleep(self.pause_s)

    @property
    def pause_s(self) -> float:
        """Until the next look: often enough for new certificates, and for those of an earlier, shorter setting."""
        shortest_s, longest_s = LOOK_S
        life_s = min((self._owner.lifetime_s, *self._lives_s.values()))
        return min(max(life_s / LOOKS_PER_LIFE, shortest_s), longest_s)

    def look(self) -> None:
        """Everything that is due now is issued anew, unless another replica was quicker."""
        try:
            found = self._client.get(k.SECRETS, CA_SECRET, self._owner.namespace)
            kept = read_authority(found, CA_SECRET)
        except (CertificateError, KubeError) as exc:
            self.problems = (f"certificates are not renewed: {exc}",)
            return
        problems = (self._keep(name, shape, kept) for name, shape in self._shapes.items())
        self.problems = tuple(problem for problem in problems if problem)

    def _keep(self, name: str, shape: Profile, kept: KeptAuthority) -> str:
        """Why one certificate is not as it should be; empty if it is now."""
        try:
            secret = self._client.get(k.SECRETS, name, self._owner.namespace)
            verdict = judge_leaf(secret, name, shape, kept, labels=PART_OF, wall_s=self._clock.wall())
            if verdict.current is not None:
                self._lives_s[name] = verdict.current.not_after_s - verdict.current.not_before_s
            if verdict.action is not LeafAction.ISSUE:
                return ""
            if secret is None:
                return f"Secret {name} is missing: run clustermesh enable"
            self._client.replace(k.SECRETS, self._renewed(secret, verdict, kept))
        except Conflict:
            return ""  # somebody else wrote it since it was read: the next look judges what is there
        except (CertificateError, KubeError) as exc:
            return f"certificate in Secret {name} is not renewed: {exc}"
        self.renewed += 1
        log.info("certificate renewed", extra={"path": name, "reason": verdict.reason})
        return ""

    def _renewed(self, secret: Mapping[str, Any], verdict: LeafVerdict, kept: KeptAuthority) -> dict[str, Any]:
        """The Secret with a new certificate; its resourceVersion makes the write fail if it changed meanwhile."""
        now_s = self._clock.wall()
        issued = issue_leaf(kept, verdict, now_s, behind_s(self._client, now_s))
        files = CertFiles(ca=kept.trust_pem, cert=issued.cert_pem, key=issued.key_pem)
        return {**secret, "data": {**(secret.get("data") or {}), **secret_data(files)}}
