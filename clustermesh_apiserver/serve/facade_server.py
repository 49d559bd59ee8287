# SPDX-License-Identifier: Apache-2.0
"""The facade in operation: certificates, trusted authorities and users from files, followed as they change."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from certs.bundle import TrustBundle
from certs.errors import CertificateError
from certs.inspect import CertInfo, parse
from certs.pair import check_pair
from certs.validity import KeptCertificates, judge
from clustermesh_apiserver.publish.own_store import OwnStore
from clustermesh_apiserver.serve.access import Access
from clustermesh_apiserver.serve.etcd_users import set_users
from clustermesh_apiserver.serve.users import User, UsersError, parse_users
from clustermesh_apiserver.settings import ApiserverSettings
from kvstore.errors import Denied, KvError, Rejected
from kvstore.facade.grant import Grant
from kvstore.facade.server import ReadOnlyFacade, ServerTls
from meshkit.clock import SystemClock
from meshkit.filewatch import watch_directory
from meshkit.supervise import together
from meshmodel.names import ClusterName

log = logging.getLogger(__name__)

RETRY_S: Final = 1.0
_AUTHORITY: Final = "ca "  # what keys of problems with authorities begin with
_RENEW: Final = "run clustermesh certs rotate"
MAX_FILE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Files:
    """What the files say now; comparing two tells whether anything changed."""

    cert: bytes = b""
    key: bytes = field(default=b"", repr=False)
    own_ca: bytes = b""
    bundle: tuple[tuple[str, bytes], ...] = ()
    users: str | None = None


class FacadeServer:
    """Everything about who may connect. `problems` are sentences for people."""

    def __init__(self, settings: ApiserverSettings) -> None:
        self._settings, self._cluster = settings, ClusterName(settings.cluster_name)
        self._clock = SystemClock()
        self._files = Files()
        self._access: Access | None = None
        self._users: tuple[User, ...] = ()
        self._facade: ReadOnlyFacade | None = None
        self._users_changed = asyncio.Event()
        self._file_problems: dict[str, str] = {}
        self._certificate: CertInfo | None = None
        self.port = 0

    @property
    def problems(self) -> list[str]:
        found = [text for _, text in sorted(self._file_problems.items())]
        if self._certificate is not None:
            state = judge(self._clock.wall(), KeptCertificates("server certificate", (self._certificate,), _RENEW))
            found += [state.sentence] if state.sentence else []
        return found

    @property
    def not_after_s(self) -> float:
        """When our server certificate ends; 0 while there is none."""
        return self._certificate.not_after_s if self._certificate is not None else 0.0

    @property
    def facade(self) -> ReadOnlyFacade | None:
        """The serving facade, None while there is none."""
        return self._facade

    def certificates(self) -> list[tuple[str, CertInfo]]:
        """Our server certificate and every authority that is trusted, by role."""
        found: list[tuple[str, CertInfo]] = []
        files = self._files
        for role, pem in (
            ("server", files.cert),
            ("authority of " + self._cluster, files.own_ca),
            *self._bundle_roles(),
        ):
            try:
                found += [(role, info) for info in parse(pem)]
            except CertificateError:
                continue
        return found

    def _bundle_roles(self) -> list[tuple[str, bytes]]:
        return [(f"authority of {name}", pem) for name, pem in self._files.bundle]

    async def run(self, store: OwnStore) -> None:
        """Peers and agents are served from this store, until cancelled; waits for certificates if there are none yet."""
        await self._wait_for_files()
        facade = ReadOnlyFacade(store.client, self.grant, self._server_tls(), admits=self.admits)
        self.port = await facade.start(self._settings.listen_address, self._settings.listen_port)
        self._facade = facade
        self._users_changed.set()
        try:
            watches = {f"watch-{directory.name}": self._follow(directory) for directory in self._directories()}
            if store.process is not None or self._settings.manage_etcd_users:
                watches["etcd-users"] = self._keep_users(store)
            await together(watches)
        finally:
            self._facade = None
            await facade.stop()

    def grant(self, cert_pem: bytes) -> Grant | None:
        """What the bearer of a certificate may read now."""
        return self._access.grant(cert_pem) if self._access is not None else None

    def admits(self, name: str) -> bool:
        """Whether somebody of this name may read something now."""
        return self._access is not None and self._access.admits(name)

    def look(self) -> bool:
        """Reads all files; True if there is what is needed to serve. What cannot be used is a problem, not a change."""
        files = self._read()
        if not (files.cert and files.key and files.own_ca):
            self._file_problems["server"] = f"no certificate, key and authority in {self._settings.server_cert_dir} yet"
            return False
        if files == self._files:
            return True
        users = self._parse_users(files.users)
        trust = self._trust(files)
        try:
            self._certificate = parse(files.cert, "server certificate")[0]
            check_pair(files.cert, files.key)  # a Secret that is replaced while it is read is looked at again
        except CertificateError as exc:
            self._file_problems["server"] = str(exc)
            return False
        self._file_problems.pop("server", None)
        before, self._files = self._files, files
        if users != self._users:
            self._users = users
            self._users_changed.set()
        self._access = Access(self._cluster, trust, users)
        self._apply(before, files)
        return True

    def _apply(self, before: Files, files: Files) -> None:
        if self._facade is None:
            return
        if (before.cert, before.key, before.own_ca, before.bundle) != (
            files.cert,
            files.key,
            files.own_ca,
            files.bundle,
        ):
            log.info("certificates or trusted authorities changed")
            self._facade.reload_tls(self._server_tls())
        else:
            cut = self._facade.reauthorize()
            log.info("users changed", extra={"reason": f"{cut} calls ended"})

    def _server_tls(self) -> ServerTls:
        files = self._files
        return ServerTls(self._trust(files).union_pem, files.cert, files.key)

    def _trust(self, files: Files) -> TrustBundle:
        """The authorities of each cluster; a file that is no certificate is left out and leaves the others as they are."""
        trust, problems = TrustBundle(), {}
        for name, pem in ((self._cluster, files.own_ca), *files.bundle):
            try:
                trust.set_authority(name, pem)
            except CertificateError as exc:
                problems[f"{_AUTHORITY}{name}"] = f"authority of {name}: {exc}"
        others = {key: text for key, text in self._file_problems.items() if not key.startswith(_AUTHORITY)}
        self._file_problems = {**others, **problems}  # a file that is gone is no problem
        return trust

    def _parse_users(self, text: str | None) -> tuple[User, ...]:
        if text is None:
            return ()
        try:
            users = parse_users(text, self._cluster)
        except UsersError as exc:
            if self._file_problems.get("users") != str(exc):
                log.warning("users file not understood, the users known before stay", extra={"reason": str(exc)})
            self._file_problems["users"] = str(exc)
            return self._users
        self._file_problems.pop("users", None)
        return users

    def _read(self) -> Files:
        settings = self._settings
        own = _content(settings.server_cert_dir / "ca.crt") or _content(settings.ca_file)
        bundle = [
            (path.name.removesuffix(".crt"), _content(path))
            for path in sorted(settings.ca_bundle_dir.glob("*.crt"))
            if path.name != f"{self._cluster}.crt"
        ]
        users = _content(settings.users_file)
        return Files(
            cert=_content(settings.server_cert_dir / "tls.crt"),
            key=_content(settings.server_cert_dir / "tls.key"),
            own_ca=own,
            bundle=tuple(bundle),
            users=users.decode("utf-8", "replace") if users else None,
        )

    def _directories(self) -> set[Path]:
        settings = self._settings
        return {settings.server_cert_dir, settings.ca_bundle_dir, settings.users_file.parent}

    async def _wait_for_files(self) -> None:
        while not await asyncio.to_thread(self.look):
            await self._clock.sleep(RETRY_S)

    async def _follow(self, directory: Path) -> None:
        async for _ in watch_directory(directory):
            self.look()

    async def _keep_users(self, store: OwnStore) -> None:
        while True:
            await self._users_changed.wait()
            self._users_changed.clear()
            try:
                await set_users(store, self._cluster, self._users)
            except (KvError, Denied, Rejected) as exc:
                log.warning("etcd users not set, retrying", extra={"error": repr(exc), "delay_s": RETRY_S})
                self._users_changed.set()
                await asyncio.sleep(RETRY_S)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError:
        return b""
