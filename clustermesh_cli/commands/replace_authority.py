# SPDX-License-Identifier: Apache-2.0
"""`clustermesh certs rotate --ca`: a new authority in place of the old one, with both trusted for a while."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import kube.resource as k
from certs.authority import Authority
from certs.authority_secret import (
    AuthorityPhase,
    KeptAuthority,
    announce,
    forget,
    read_authority,
    replace_authority,
    retire,
    told,
)
from certs.errors import CertificateError
from certs.inspect import parse
from certs.profile import own_shapes
from clustermesh_cli.cluster_facts import read_config
from clustermesh_cli.console import Console
from clustermesh_cli.credentials import are_issued, ensure_certificates, read_lifetime_s
from clustermesh_cli.exit_code import CommandError, CommandRefusedError, ExitCode
from clustermesh_cli.link_proof import Patience
from clustermesh_cli.plan.authority_choice import unusable_authority
from clustermesh_cli.plan.authority_replacement import SETTLE_S, ReplacementFacts, ReplacementStep, next_step
from clustermesh_cli.plan.peering import known_peers
from kube.client import KubeClient
from kube.errors import Conflict
from kube.server_clock import behind_s
from meshapi.installed import (
    CA_BUNDLE,
    CA_SECRET,
    CA_SUFFIX,
    CLUSTER_NAME_KEY,
    MIRROR_SECRET,
    PEERS_SECRET,
    REMOTE_USERS,
)

LOOK_S: Final = 2.0
AGAIN: Final = "run clustermesh certs rotate --ca again with the same contexts, which goes on from here"
SAID: Final = {
    ReplacementStep.ANNOUNCE: "A new authority is announced; the old one still signs",
    ReplacementStep.ISSUE: "This cluster's certificates are issued anew",
    ReplacementStep.REPLACE: "The new authority signs from now on; the old one is still trusted",
    ReplacementStep.RETIRE: "The old authority is not trusted any more",
}


@dataclass(frozen=True, slots=True)
class ReplacementOptions:
    """`peers` are the clusters that can be told, by context; `without` names those that cannot, which refuse us afterwards."""

    peers: Mapping[str, KubeClient]
    without: Collection[str] = field(default_factory=frozenset)
    settle_s: float = SETTLE_S
    waits: bool = True


class AuthorityReplacement:
    """One cluster whose authority is replaced. Every step reads what is there, decides, and makes one step."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        options: ReplacementOptions,
        console: Console,
        *,
        wall: Callable[[], float],
    ) -> None:
        self._client, self._namespace, self._options, self._console = client, namespace, options, console
        self._wall = wall
        self._config = read_config(client, namespace)
        if CLUSTER_NAME_KEY not in self._config:
            raise CommandError("the mesh is not enabled here: run clustermesh enable")
        self._name = self._config[CLUSTER_NAME_KEY]
        self._shapes = own_shapes(self._name, namespace, read_lifetime_s(self._config))
        self._wants_new, self._has_written = True, False

    def run(self, patience: Patience) -> ExitCode:
        """Goes through the phases until the old authority is retired, or no time is left: another run goes on from there.

        Raises: CommandRefusedError before the first write where a peer could not be told; CommandError if the Secret cannot
        be used.
        """
        self._check_peers()
        deadline = patience.now() + patience.wait_s
        said = False
        while True:
            try:
                step = self.step()
            except Conflict:
                continue  # somebody else wrote what was read: look again
            except CertificateError as exc:
                raise CommandError(f"the authority cannot be replaced: {unusable_authority(str(exc))}") from exc
            if step is ReplacementStep.DONE:
                self._console.ok("The authority was replaced; nothing of the old one is left")
                return ExitCode.OK
            if step is not ReplacementStep.WAIT:
                continue
            if not said:
                self._console.wait("Waiting until every program has seen whom to trust...")
            said = True
            if not self._options.waits or patience.now() >= deadline:
                self._console.line(f"Not done yet: {AGAIN}")
                return ExitCode.TIMEOUT if self._options.waits else ExitCode.OK
            patience.pause(LOOK_S)

    def step(self) -> ReplacementStep:
        """Makes the next step and says which it was."""
        secret = self._client.get(k.SECRETS, CA_SECRET, self._namespace)
        kept = read_authority(secret, CA_SECRET)
        assert secret is not None
        facts = self._facts(kept)
        step = next_step(facts, self._wall(), self._options.settle_s)
        if step in (ReplacementStep.ANNOUNCE, ReplacementStep.REPLACE):
            self._check_peers()  # one may have been connected since the last look
        match step:
            case ReplacementStep.ANNOUNCE:
                now_s = self._wall()
                new = Authority.create(f"clustermesh {self._name}", now_s, behind_s=behind_s(self._client, now_s))
                self._write(announce(secret, new))
            case ReplacementStep.ISSUE:
                ensure_certificates(self._client, self._namespace, kept, self._shapes, self._wall())
            case ReplacementStep.TELL:
                self._tell(facts.untold[0], kept)
            case ReplacementStep.MARK:
                self._write(told(secret, self._wall()))
            case ReplacementStep.UNMARK:
                self._write(told(secret, None))
            case ReplacementStep.REPLACE:
                self._write(replace_authority(secret))
            case ReplacementStep.RETIRE:
                self._write(retire(secret))
            case ReplacementStep.FORGET:
                self._write(forget(secret))
            case _:
                pass
        # a replacement that was under way when we began is what was asked for; it is not followed by another
        self._wants_new = (
            self._wants_new and facts.phase is AuthorityPhase.SETTLED and step is not ReplacementStep.ANNOUNCE
        )
        if step in SAID:
            self._console.step(SAID[step])
        return step

    def _facts(self, kept: KeptAuthority) -> ReplacementFacts:
        untold = [where for where in ("", *self._options.peers) if self._changes(where, kept)]
        is_issued = are_issued(self._client, self._namespace, kept, self._shapes, self._wall())
        return ReplacementFacts(kept.phase, is_issued, tuple(untold), kept.told_s, self._wants_new)

    def _check_peers(self) -> None:
        secrets = [self._client.get(k.SECRETS, name, self._namespace) for name in (PEERS_SECRET, MIRROR_SECRET)]
        bundle, users = (self._client.get(k.CONFIG_MAPS, name, self._namespace) for name in (CA_BUNDLE, REMOTE_USERS))
        reached = {
            read_config(client, self._namespace).get(CLUSTER_NAME_KEY, "") for client in self._options.peers.values()
        }
        missing = sorted(known_peers(secrets, bundle, users) - {self._name} - reached - set(self._options.without))
        if missing:
            raise CommandRefusedError(
                f"{', '.join(missing)} must be told of the new authority: give --destination-context for each, or --without "
                "NAME for one that is gone and would refuse this cluster until it is connected again; nothing "
                f"{'more ' if self._has_written else ''}was changed"
            )

    def _changes(self, where: str, kept: KeptAuthority) -> list[tuple[k.Resource, str, dict[str, str]]]:
        """What has to be written in a cluster (our own for an empty name) so that it trusts exactly what it should."""
        client = self._options.peers[where] if where else self._client
        own, entry = f"{self._name}.crt", self._name + CA_SUFFIX
        wanted: list[tuple[k.Resource, str, str, str]] = [(k.CONFIG_MAPS, CA_BUNDLE, own, kept.trust_pem.decode())]
        if where:
            encoded = base64.b64encode(kept.trust_pem).decode()
            wanted += [(k.SECRETS, name, entry, encoded) for name in (MIRROR_SECRET, PEERS_SECRET)]
        found = []
        for resource, name, key, value in wanted:
            data: Mapping[str, Any] = (client.get(resource, name, self._namespace) or {}).get("data") or {}
            if key in data and not _same(data[key], value):  # who does not read us, or lets us in, is not made to
                found.append((resource, name, {key: value}))
        return found

    def _tell(self, where: str, kept: KeptAuthority) -> None:
        """One object of one cluster."""
        client = self._options.peers[where] if where else self._client
        resource, name, entries = self._changes(where, kept)[0]
        client.patch_merge(resource, name, {"data": entries}, self._namespace)
        self._console.info(f"{where or 'this cluster'}: {name} trusts {len(kept.trusted)} of our authorities")

    def _write(self, secret: dict[str, Any]) -> None:
        self._has_written = True
        self._client.replace(k.SECRETS, secret)


def _same(left: str, right: str) -> bool:
    return _fingerprints(left) == _fingerprints(right)


def _fingerprints(text: str) -> frozenset[str]:
    """Of the certificates of a PEM text, or of one in base64; empty for what is neither."""
    try:
        pem = text.encode() if "-----" in text else base64.b64decode(text)
        return frozenset(info.fingerprint for info in parse(pem))
    except (ValueError, CertificateError):
        return frozenset()
