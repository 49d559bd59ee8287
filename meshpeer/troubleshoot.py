# SPDX-License-Identifier: Apache-2.0
"""Try every connection file step by step: name, TCP, TLS both ways, then a read as a session does it.

The agent tries the files that it follows, the apiserver those that it mirrors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from certs.diagnose import diagnose
from certs.errors import CertificateError
from certs.inspect import CertInfo, issued_by, parse
from certs.store import CertFiles
from kvstore.clientconfig import ClientConfig, StoreEndpoint, parse_client_config
from kvstore.errors import Rejected
from kvstore.store import Store
from meshapi.row import encode
from meshapi.trial import EndpointTrial, PeerTrial, TrialFinding, TrialOutcome, Trials, TrialStep
from meshkit.answer_form import AnswerForm, format_document
from meshkit.errors import MeshError
from meshkit.text import visible
from meshmodel import keys
from meshmodel.cluster_config import ClusterConfig
from meshmodel.keys import Kind
from meshmodel.names import ClusterName
from meshpeer.directory import read_directory
from meshpeer.kinds import offered_kinds
from meshpeer.session import read_config
from meshpeer.trial_text import listing_lines, peer_lines

Write = Callable[[str], object]
Resolve = Callable[[str], str | None]
WELL: Final = 0
FAILED: Final = 4
"""Exit codes."""


class Limits(NamedTuple):
    """How one configuration is tried: seconds for each step, and what gives the address behind a Kubernetes Service's name."""

    timeout_s: float
    resolve: Resolve


def troubleshoot(directory: Path, only: Sequence[str], limits: Limits, form: AnswerForm, write: Write) -> int:
    """Write how each peer's connection went, as a table each peer at once. Returns 0 if nothing is wrong, else 4.

    `only` names peers; none means all. `limits.resolve` gives None for a name that is no Service's.
    """

    def show(lines: Iterable[str]) -> None:
        if form is AnswerForm.TABLE:
            write("".join(f"{line}\n" for line in lines))

    listing = read_directory(directory, own="")
    wanted = {name: content for name, content in listing.configs.items() if not only or name in only}
    show(listing_lines(len(wanted), listing.refused))
    peers = []
    for name, content in wanted.items():
        peers.append(asyncio.run(_try(name, content, directory, limits)))
        show(peer_lines(peers[-1]))
    works = not listing.refused and (bool(wanted) or not only) and all(peer.works for peer in peers)
    if form is not AnswerForm.TABLE:
        trials = Trials(works=works, refused=dict(listing.refused), peers=peers)
        write(visible(format_document(encode(trials), form) + "\n"))
    return WELL if works else FAILED


async def _try(name: ClusterName, content: bytes, directory: Path, limits: Limits) -> PeerTrial:
    trial = PeerTrial(name=name, path=str(directory / name))
    try:
        config = parse_client_config(content, directory)
    except Rejected as exc:
        trial.refused = str(exc)
        return trial
    trial.endpoints = [await _try_endpoint(config, endpoint, limits) for endpoint in config.endpoints]
    trial.certificates = _own_certificates(config)
    trial.store = await _try_read(name, config, limits)
    trial.works = any(_is_reached(endpoint) for endpoint in trial.endpoints) and _is_well(trial.store)
    return trial


def _is_reached(endpoint: EndpointTrial) -> bool:
    return any(
        finding.step is TrialStep.CONNECTION and finding.outcome is TrialOutcome.OK for finding in endpoint.findings
    )


def _is_well(findings: Sequence[TrialFinding]) -> bool:
    return all(finding.outcome is not TrialOutcome.FAIL for finding in findings)


async def _try_endpoint(config: ClientConfig, endpoint: StoreEndpoint, limits: Limits) -> EndpointTrial:
    tried = EndpointTrial(f"{'https' if endpoint.is_tls else 'http'}://{endpoint.host}:{endpoint.port}", [])
    addresses = config.host_aliases.get(endpoint.host, ())
    if addresses:
        detail = f"{endpoint.host} is {', '.join(addresses)} (host alias)"
        tried.findings.append(TrialFinding(TrialStep.NAME, TrialOutcome.OK, detail))
    elif (address := limits.resolve(endpoint.host)) is not None:
        addresses = (address,)
        tried.findings.append(
            TrialFinding(TrialStep.NAME, TrialOutcome.OK, f"{endpoint.host} is {address} (Kubernetes Service)")
        )
    for address in addresses or (endpoint.host,):
        if endpoint.is_tls:
            tried.findings += await _try_tls(config, endpoint, address, limits.timeout_s)
        else:
            tried.findings.append(await _try_tcp(address, endpoint.port, limits.timeout_s))
    return tried


async def _try_tls(
    config: ClientConfig, endpoint: StoreEndpoint, address: str, timeout_s: float
) -> Sequence[TrialFinding]:
    found = await diagnose(address, endpoint.port, endpoint.host, _cert_files(config), timeout_s)
    detail = "TCP and TLS established" if found.is_ok else f"{found.problem}: {found.detail}; {found.advice}"
    outcome = TrialOutcome.OK if found.is_ok else TrialOutcome.FAIL
    connection = TrialFinding(TrialStep.CONNECTION, outcome, detail, f"{address}:{endpoint.port}")
    if found.server is None:
        return (connection,)
    return connection, TrialFinding(TrialStep.SERVER_CERTIFICATE, TrialOutcome.INFO, _describe(found.server))


async def _try_tcp(address: str, port: int, timeout_s: float) -> TrialFinding:
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(address, port)
    except OSError as exc:
        return TrialFinding(TrialStep.CONNECTION, TrialOutcome.FAIL, exc.strerror or "no answer", f"{address}:{port}")
    writer.close()
    return TrialFinding(TrialStep.CONNECTION, TrialOutcome.OK, "TCP established", f"{address}:{port}")


def _cert_files(config: ClientConfig) -> CertFiles:
    tls = config.tls(None)
    return CertFiles(b"", b"", b"") if tls is None else CertFiles(tls.ca, tls.cert, tls.key)


def _own_certificates(config: ClientConfig) -> list[TrialFinding]:
    found: list[TrialFinding] = []
    try:
        tls = config.tls(None)
        if tls is None:
            return found
        found += [
            TrialFinding(TrialStep.TRUSTED_CA, TrialOutcome.INFO, _describe(info))
            for info in parse(tls.ca, "trusted CA")
        ]
        own = parse(tls.cert, "client certificate")[0]
        is_ours = any(issued_by(tls.cert, ca) for ca in _split(tls.ca))
        note = "" if is_ours else " (signed by none of the trusted CAs: right where each cluster has its own)"
        found.append(TrialFinding(TrialStep.CLIENT_CERTIFICATE, TrialOutcome.INFO, f"{_describe(own)}{note}"))
    except (MeshError, CertificateError) as exc:
        found.append(TrialFinding(TrialStep.CLIENT_CERTIFICATE, TrialOutcome.FAIL, str(exc)))
    return found


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


async def _try_read(name: ClusterName, config: ClientConfig, limits: Limits) -> list[TrialFinding]:
    try:
        store = config.connect(None, limits.resolve)
    except MeshError as exc:
        return [TrialFinding(TrialStep.READ, TrialOutcome.FAIL, str(exc))]
    try:
        return await try_store(store, name, limits.timeout_s)
    finally:
        await store.close()


async def try_store(store: Store, name: ClusterName, timeout_s: float) -> list[TrialFinding]:
    """Authorisation: the heartbeat, the cluster configuration and the canaries, as a session reads them."""
    try:
        async with asyncio.timeout(timeout_s):
            beat = await store.get(keys.HEARTBEAT)
            config_found = await read_config(store, name)
            canaries = {} if config_found is None else await _canaries(store, name, config_found)
    except (MeshError, TimeoutError) as exc:
        detail = f"cannot be read: {str(exc) or f'no answer in {timeout_s:g} s'}"
        return [TrialFinding(TrialStep.READ, TrialOutcome.FAIL, detail)]
    heartbeat = (
        TrialFinding(TrialStep.HEARTBEAT, TrialOutcome.OK, "heartbeat found")
        if beat
        else TrialFinding(TrialStep.HEARTBEAT, TrialOutcome.FAIL, "heartbeat not found: its publisher does not run")
    )
    if config_found is None:
        detail = f"no configuration of cluster {name}: the name differs, or it is not published yet"
        return [heartbeat, TrialFinding(TrialStep.CONFIGURATION, TrialOutcome.FAIL, detail)]
    detail = f"cluster configuration: id {config_found.id}, cached {str(config_found.cached).lower()}"
    return [heartbeat, TrialFinding(TrialStep.CONFIGURATION, TrialOutcome.OK, detail), _judge_canaries(canaries)]


def _judge_canaries(canaries: Mapping[Kind, bool]) -> TrialFinding:
    missing = [kind.value for kind, is_there in canaries.items() if not is_there]
    if missing:
        return TrialFinding(
            TrialStep.CANARIES, TrialOutcome.FAIL, f"not published yet: {', '.join(missing)} (no canary)"
        )
    return TrialFinding(
        TrialStep.CANARIES, TrialOutcome.OK, f"canaries of {', '.join(kind.value for kind in canaries)}"
    )
