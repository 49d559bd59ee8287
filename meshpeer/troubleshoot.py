# SPDX-License-Identifier: Apache-2.0
"""Try every connection file step by step: name, TCP, TLS both ways, then a read as a session does it.

The agent tries the files that it follows, the apiserver those that it mirrors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from certs.diagnose import diagnose
from certs.errors import CertificateError
from certs.inspect import CertInfo, issued_by, parse
from certs.store import CertFiles
from kvstore.clientconfig import ClientConfig, StoreEndpoint, parse_client_config
from kvstore.errors import Rejected
from kvstore.store import Store
from meshkit.errors import MeshError
from meshmodel import keys
from meshmodel.cluster_config import ClusterConfig
from meshmodel.keys import Kind
from meshmodel.names import ClusterName
from meshpeer.directory import read_directory
from meshpeer.kinds import offered_kinds
from meshpeer.session import read_config

Write = Callable[[str], object]
Resolve = Callable[[str], str | None]


class Trial(NamedTuple):
    """How one configuration is tried."""

    timeout_s: float
    write: Write
    resolve: Resolve


OK, BAD, INFO = "✅", "❌", "(i)"


def troubleshoot(directory: Path, only: Sequence[str], timeout_s: float, write: Write, resolve: Resolve) -> int:
    """Print what is wrong with each peer's connection. Returns 0 if nothing is, else 4.

    `resolve` gives the address behind a Kubernetes Service's name, None for any other name.
    """
    listing = read_directory(directory, own="")
    wanted = {name: content for name, content in listing.configs.items() if not only or name in only}
    write(f"Found {len(wanted)} cluster configurations\n")
    for name, reason in listing.refused.items():
        write(f"{BAD} {name}: {reason}\n")
    is_ok = not listing.refused and (bool(wanted) or not only)
    for name, content in wanted.items():
        write(f'\nCluster "{name}":\n  Configuration path: {directory / name}\n')
        is_ok = asyncio.run(_try(name, content, directory, Trial(timeout_s, write, resolve))) and is_ok
    return 0 if is_ok else 4


async def _try(name: ClusterName, content: bytes, directory: Path, trial: Trial) -> bool:
    try:
        config = parse_client_config(content, directory)
    except Rejected as exc:
        trial.write(f"  {BAD} configuration cannot be used: {exc}\n")
        return False
    results = [await _try_endpoint(config, endpoint, trial) for endpoint in config.endpoints]
    _show_own_certificates(config, trial.write)
    return await _try_read(name, config, trial) and any(results)


async def _try_endpoint(config: ClientConfig, endpoint: StoreEndpoint, trial: Trial) -> bool:
    timeout_s, write = trial.timeout_s, trial.write
    write(f"\n  StoreEndpoint {'https' if endpoint.is_tls else 'http'}://{endpoint.host}:{endpoint.port}\n")
    addresses = config.host_aliases.get(endpoint.host, ())
    if addresses:
        write(f"     {OK} {endpoint.host} is {', '.join(addresses)} (host alias)\n")
    elif (address := trial.resolve(endpoint.host)) is not None:
        addresses = (address,)
        write(f"     {OK} {endpoint.host} is {address} (Kubernetes Service)\n")
    reached = False
    for address in addresses or (endpoint.host,):
        if endpoint.is_tls:
            finding = await diagnose(address, endpoint.port, endpoint.host, _cert_files(config), timeout_s)
            mark = OK if finding.is_ok else BAD
            text = (
                "TCP and TLS established" if finding.is_ok else f"{finding.problem}: {finding.detail}; {finding.advice}"
            )
            write(f"     {mark} {address}:{endpoint.port}: {text}\n")
            if finding.server is not None:
                write(f"     {INFO} server certificate: {_describe(finding.server)}\n")
            reached = reached or finding.is_ok
        else:
            reached = await _try_tcp(address, endpoint.port, timeout_s, write) or reached
    return reached


async def _try_tcp(address: str, port: int, timeout_s: float, write: Write) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(address, port)
    except OSError as exc:
        write(f"     {BAD} {address}:{port}: {exc.strerror or 'no answer'}\n")
        return False
    writer.close()
    write(f"     {OK} {address}:{port}: TCP established\n")
    return True


def _cert_files(config: ClientConfig) -> CertFiles:
    tls = config.tls(None)
    return CertFiles(b"", b"", b"") if tls is None else CertFiles(tls.ca, tls.cert, tls.key)


def _show_own_certificates(config: ClientConfig, write: Write) -> None:
    try:
        tls = config.tls(None)
        if tls is None:
            return
        write("\n  Digital certificates\n")
        for info in parse(tls.ca, "trusted CA"):
            write(f"     {INFO} trusted CA: {_describe(info)}\n")
        own = parse(tls.cert, "client certificate")[0]
        is_ours = any(issued_by(tls.cert, ca) for ca in _split(tls.ca))
        note = "" if is_ours else " (signed by none of the trusted CAs: right where each cluster has its own)"
        write(f"     {INFO} client certificate: {_describe(own)}{note}\n")
    except (MeshError, CertificateError) as exc:
        write(f"     {BAD} {exc}\n")


def _split(bundle: bytes) -> list[bytes]:
    end = b"-----END CERTIFICATE-----"
    return [part.strip() + b"\n" + end + b"\n" for part in bundle.split(end) if b"BEGIN CERTIFICATE" in part]


def _describe(info: CertInfo) -> str:
    until = datetime.fromtimestamp(info.not_after_s, UTC).strftime("%Y-%m-%d")
    names = f", names {', '.join(info.sans)}" if info.sans else ""
    return f"CN={info.subject_cn}, issuer {info.issuer}, valid until {until}, serial {info.serial:x}{names}"


async def _canaries(store: Store, name: ClusterName, config: ClusterConfig) -> Mapping[Kind, bool]:
    """Whether everything of each offered kind has been published, as a session waits for it. Raises: MeshError."""
    wanted = {kind: keys.canary_key(name, kind, cached=config.cached) for kind in offered_kinds(config)}
    return {kind: await store.get(key) is not None for kind, key in wanted.items()}


async def _try_read(name: ClusterName, config: ClientConfig, trial: Trial) -> bool:
    trial.write("\n  Store\n")
    try:
        store = config.connect(None, trial.resolve)
    except MeshError as exc:
        trial.write(f"     {BAD} {exc}\n")
        return False
    try:
        return await try_store(store, name, trial)
    finally:
        await store.close()


async def try_store(store: Store, name: ClusterName, trial: Trial) -> bool:
    """Authorisation: the heartbeat, the cluster configuration and the canaries, as a session reads them."""
    timeout_s, write = trial.timeout_s, trial.write
    try:
        async with asyncio.timeout(timeout_s):
            beat = await store.get(keys.HEARTBEAT)
            config_found = await read_config(store, name)
            canaries = {} if config_found is None else await _canaries(store, name, config_found)
    except (MeshError, TimeoutError) as exc:
        write(f"     {BAD} cannot be read: {str(exc) or f'no answer in {timeout_s:g} s'}\n")
        return False
    write(f"     {OK if beat else BAD} heartbeat {'found' if beat else 'not found: its publisher does not run'}\n")
    if config_found is None:
        write(f"     {BAD} no configuration of cluster {name}: the name differs, or it is not published yet\n")
        return False
    write(f"     {OK} cluster configuration: id {config_found.id}, cached {str(config_found.cached).lower()}\n")
    missing = [kind.value for kind, is_there in canaries.items() if not is_there]
    if missing:
        write(f"     {BAD} not published yet: {', '.join(missing)} (no canary)\n")
    else:
        write(f"     {OK} canaries of {', '.join(kind.value for kind in canaries)}\n")
    return beat is not None and not missing
