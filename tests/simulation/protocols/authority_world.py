# SPDX-License-Identifier: Apache-2.0
"""north replaces its authority step by step, with real certificates, is stopped meanwhile, and connected to a third cluster.

south reads north and is read by it from the start; west may be connected meanwhile. Every program sees an object up to SETTLE_S
late, so each object is in the world with every content that somebody may still see.
"""

from __future__ import annotations

import base64
import copy
import io
from collections.abc import Hashable, Iterable
from functools import lru_cache
from typing import Any, Final, cast

from certs import authority_secret, profile
from certs.authority import Authority
from certs.authority_secret import AuthorityPhase
from certs.inspect import issued_by
from certs.store import CertFiles, from_secret_data
from clustermesh_cli.commands import replace_authority
from clustermesh_cli.commands.replace_authority import AuthorityReplacement, ReplacementOptions
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.plan.authority_replacement import SETTLE_S, ReplacementStep
from kube.client import KubeClient
from kube.resource import Resource
from meshapi.installed import (
    CA_BUNDLE,
    CA_SECRET,
    CA_SUFFIX,
    LOCAL_SECRET,
    MIRROR_SECRET,
    PEERS_SECRET,
    REMOTE_SECRET,
    SERVER_SECRET,
)
from meshkit.clock import ManualClock
from tests.support.kept_objects import KeptObjects

START_S: Final = ManualClock().wall()
ENTRY: Final = "north" + CA_SUFFIX
Data = dict[str, str]
believes = lru_cache(None)(issued_by)


@lru_cache(None)
def authority(which: str) -> Authority:
    return Authority.create(f"clustermesh north {which}", START_S - profile.DAY_S)


class SeenObjects(KeptObjects):
    """`seen` is what programs may have of each object: its data as it is, and as it was until `settle`."""

    def __init__(self, name: str) -> None:
        super().__init__(name, self._note)
        self.seen: dict[str, list[Data]] = {}

    def settle(self) -> None:
        """Everybody has what is written now."""
        self.seen = {name: [obj["data"]] for name, obj in self.kept.items()}

    def fork(self) -> SeenObjects:
        other = SeenObjects("")
        other.kept, other.seen = dict(self.kept), {name: list(found) for name, found in self.seen.items()}
        return other

    def _note(self, name: str) -> None:
        data = self.kept[name]["data"]
        self.seen[name] = [*(before for before in self.seen.get(name, ()) if before != data), data]


class AuthorityWorld:
    """`peers`: clusters that the operator can tell; `joins`: west is connected at some moment, by somebody who takes less than
    SETTLE_S from reading whom to trust to writing it; `slips`: south is put back to the trust it had, from a backup for example.
    """

    def __init__(self, peers: tuple[str, ...] = ("south",), *, joins: bool = False, slips: bool = False) -> None:
        self.peers, self.joins, self.slips = peers, joins, slips
        self.clock_s, self.wants_new, self.is_done, self.runs = START_S, True, False, 0
        self.refused, self.joining = "", ""
        self.clusters = {name: SeenObjects(name) for name in _NAMES}
        old, north = authority("old"), self.clusters["north"]
        north.install(old, START_S)
        trust = old.certificate_pem.decode()
        north.put(CA_BUNDLE, {"north.crt": trust, "south.crt": trust})
        north.put(MIRROR_SECRET, {})
        north.put(PEERS_SECRET, {})
        for name in ("south", "west"):
            for kept in (CA_BUNDLE, MIRROR_SECRET, PEERS_SECRET):
                self.clusters[name].put(kept, {})
        self._connect("south", old.certificate_pem)
        for one in self.clusters.values():
            one.settle()

    def _connect(self, name: str, trust: bytes) -> None:
        """What connect writes about north in another cluster."""
        peer = self.clusters[name]
        peer.patch_merge(cast(Resource, None), CA_BUNDLE, {"data": {"north.crt": trust.decode()}}, "")
        peer.patch_merge(cast(Resource, None), MIRROR_SECRET, {"data": {ENTRY: base64.b64encode(trust).decode()}}, "")
        bundle = {"data": {f"{name}.crt": "a certificate"}}
        self.clusters["north"].patch_merge(cast(Resource, None), CA_BUNDLE, bundle, "")
        if name == "west":
            peer.settle()  # a link that is made now is not expected to work before its files are seen

    def fork(self) -> AuthorityWorld:
        other = copy.copy(self)
        other.clusters = {name: one.fork() for name, one in self.clusters.items()}
        return other

    def steps(self) -> Iterable[str]:
        found = [] if self.is_done or self.refused else ["rotate"]
        if not self.is_done and self.runs < 1 and not self._is_replaced:
            found.append("stop and run again")
        if not self.is_done and not self.joining:
            found.append("time passes")
        if self.joins:
            found.append("west reads whom to trust" if not self.joining else "west is connected")
        phase = authority_secret.phase_of(self.clusters["north"].kept[CA_SECRET]["data"])
        if self.slips and phase is AuthorityPhase.ANNOUNCED and not self._is_replaced:
            found.append("south is put back to the old trust")
        return found

    @property
    def _is_replaced(self) -> bool:
        signing = self.clusters["north"].kept[CA_SECRET]["data"]["ca.crt"]
        return base64.b64decode(signing) == authority("new").certificate_pem

    def do(self, step: str) -> None:
        match step:
            case "rotate":
                self._rotate()
            case "stop and run again":
                self.wants_new, self.refused, self.runs = True, "", self.runs + 1
            case "time passes":
                self.clock_s += SETTLE_S
                for one in self.clusters.values():
                    one.settle()
            case "west reads whom to trust":
                secret = self.clusters["north"].kept[CA_SECRET]
                self.joining = authority_secret.read_trust(secret, CA_SECRET).decode()
            case "west is connected":
                self._connect("west", self.joining.encode())
                self.joins, self.joining = False, ""
            case _:
                self._connect("south", authority("old").certificate_pem)
                self.slips = False

    def _rotate(self) -> None:
        command = self.command()
        try:
            self.is_done = command.step() is ReplacementStep.DONE
        except CommandRefusedError as exc:
            self.refused = str(exc)
        self.wants_new = command._wants_new

    def command(self) -> AuthorityReplacement:
        """The operator's command where it stands."""
        reached = {name: cast(KubeClient, self.clusters[name]) for name in self.peers}
        north, console = cast(KubeClient, self.clusters["north"]), Console(plain=True, stream=io.StringIO())
        command = AuthorityReplacement(north, "ns", ReplacementOptions(reached), console, wall=lambda: self.clock_s)
        command._wants_new = self.wants_new
        return command

    def key(self) -> Hashable:
        """Certificates by who signed them, since keys are new each time; of the time, whether enough of it passed."""
        kept = self.clusters["north"].kept[CA_SECRET]
        told_s = authority_secret._told_s(kept)
        marked = "" if told_s <= 0 else str(self.clock_s - told_s >= SETTLE_S)
        contents = tuple(
            (name, secret, tuple(_digest(data) for data in one.seen.get(secret, ())), _digest(obj.get("data") or {}))
            for name, one in sorted(self.clusters.items())
            for secret, obj in sorted(one.kept.items())
        )
        flags = (self.wants_new, self.is_done, self.runs, bool(self.refused), self.joining, self.joins, self.slips)
        return contents, marked, flags

    def problem(self) -> str | None:
        """Everybody who shows a certificate is believed by everybody who is connected, whatever of each is still seen."""
        north = self.clusters["north"]
        local, server = (self._leaves(name) for name in (LOCAL_SECRET, SERVER_SECRET))
        if any(not believes(shown.cert, seen.ca) for shown in server for seen in local):
            return "an agent of north does not believe its own store"
        if any(not believes(shown.cert, seen.ca) for shown in local for seen in server):
            return "the store of north does not believe its own agents"
        for name in ("south", "west"):
            peer = self.clusters[name]
            for files in peer.seen[MIRROR_SECRET]:
                if ENTRY in files and not all(believes(s.cert, base64.b64decode(files[ENTRY])) for s in server):
                    return f"{name} does not believe the store of north"
            for bundle in peer.seen[CA_BUNDLE]:
                pem = bundle.get("north.crt", "").encode()
                if pem and not all(believes(s.cert, pem) for s in self._leaves(REMOTE_SECRET)):
                    return f"{name} does not let north in"
        assert north.kept
        return None

    def _leaves(self, name: str) -> list[CertFiles]:
        return [from_secret_data(data) for data in self.clusters["north"].seen[name]]


_NAMES: Final = ("north", "south", "west")


def _digest(data: Data) -> Hashable:
    return tuple(sorted((name, _who(value)) for name, value in data.items()))


@lru_cache(None)
def _who(value: str) -> str:
    """A key counts as any other; a certificate as those who could have signed it, an authority as itself."""
    if "-----" not in value:
        try:
            value = base64.b64decode(value).decode()
        except ValueError:
            return value
    if "PRIVATE KEY" in value:
        return "key"
    if "-----BEGIN CERTIFICATE" not in value:
        return value
    named = [which for which in ("old", "new") if authority(which).certificate_pem.decode().strip() in value]
    signers = [which for which in ("old", "new") if believes(value.encode(), authority(which).certificate_pem)]
    return f"{'+'.join(named)} by {'+'.join(signers)}"


class Pool:
    """The authority that a replacement makes is always the same one, so that states can be told apart."""

    @staticmethod
    def create(_name: str, _wall_s: float, *, behind_s: float) -> Authority:
        return authority("new")


def patch_authority(patch: Any) -> None:
    patch.setattr(replace_authority, "Authority", Pool)
