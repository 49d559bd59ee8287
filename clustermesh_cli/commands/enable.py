# SPDX-License-Identifier: Apache-2.0
"""`clustermesh enable`: give a cluster its name, id, certificates and programs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import yaml

import kube.resource as k
from certs.authority import Authority
from certs.profile import own_shapes
from clustermesh_cli.cluster_facts import is_mirrored, read_config
from clustermesh_cli.console import Console
from clustermesh_cli.credentials import (
    check_lifetime,
    read_lifetime_s,
)
from clustermesh_cli.manifests import is_foreign, load_crds, load_settings, load_workloads, relay_objects
from clustermesh_cli.mounted_objects import config_map, ensure_mounted, ensure_peer_files, find_trusting
from clustermesh_cli.plan.cluster_identity import ClusterIdentity, decide_identity
from clustermesh_cli.plan.exposure import DROP_FLAG, Exposure, ExposureWish, decide_exposure
from clustermesh_cli.plan.program_settings import AGENT as AGENT_SETTINGS
from clustermesh_cli.plan.program_settings import APISERVER as APISERVER_SETTINGS
from clustermesh_cli.plan.program_settings import flags_of, proxies_flags, relay_flags, settings_in
from clustermesh_cli.plan.running_settings import complete_config, read_chosen, read_running
from clustermesh_cli.rights_check import check_rights
from kube.client import KubeClient
from kube.resource import from_manifest
from kube.server_clock import clock_notice
from meshapi.installed import (
    AGENT,
    APISERVER,
    CLUSTER_ID_KEY,
    CLUSTER_NAME_KEY,
    CONFIG_MAP,
    LIFETIME_KEY,
    MAXIMUM_KEY,
    MIRROR_KEY,
    RELAY_KEY,
    SCOPE_KEY,
    STORE_SERVICE,
)

PROGRAMS = {("DaemonSet", AGENT): AGENT_SETTINGS, ("Deployment", APISERVER): APISERVER_SETTINGS}


@dataclass(frozen=True, slots=True)
class EnableOptions:
    """What the user asked for; None means "as it is, or the default"."""

    namespace: str
    cluster_name: str | None
    cluster_id: int | None
    exposure: ExposureWish
    advertise: Sequence[str]
    apiserver_image: str
    agent_image: str
    mirror: bool | None = None
    new_ca: bool = False
    lifetime_s: float | None = None
    settings: Mapping[str, str | None] = field(default_factory=dict)
    relay: bool | None = None
    relay_image: str = ""

    def relays(self, config: Mapping[str, str]) -> bool:
        """Whether there is a relay of flows: what the flag says, else what was chosen before, else no."""
        return self.relay if self.relay is not None else config.get(RELAY_KEY, "").lower() == "true"

    def mirrors(self, config: Mapping[str, str]) -> bool:
        """Whether the apiserver mirrors peers: what the flag says, else what was chosen before, else yes."""
        if self.mirror is not None:
            return self.mirror
        return MIRROR_KEY not in config or is_mirrored(config)

    def chosen_lifetime_s(self, config: Mapping[str, str]) -> float:
        """How long a new certificate lasts: what the flag says, else what was chosen before, else a year."""
        return self.lifetime_s if self.lifetime_s is not None else read_lifetime_s(config)


def plan_objects(
    options: EnableOptions,
    identity: ClusterIdentity,
    config: dict[str, str],
    exposure: Exposure,
    *,
    with_certificates: bool = False,
) -> list[dict[str, Any]]:
    """Everything `enable` applies but Secrets, in order; with what makes those, if wanted. Pure."""
    scope = config.get(SCOPE_KEY, "true")
    kept = {key: value for key, value in config.items() if options.settings.get(key, "") is not None}
    own = {
        **kept,
        **{key: value for key, value in options.settings.items() if value is not None},
        CLUSTER_NAME_KEY: str(identity.name),
        CLUSTER_ID_KEY: str(identity.id),
        MAXIMUM_KEY: str(identity.maximum),
        SCOPE_KEY: scope,
        MIRROR_KEY: str(options.mirrors(config)).lower(),
        RELAY_KEY: str(options.relays(config)).lower(),
        **({LIFETIME_KEY: f"{options.lifetime_s:.12g}"} if options.lifetime_s is not None else {}),
    }
    values = {
        "NAMESPACE": options.namespace,
        "SERVICE_TYPE": exposure.service_type,
        "CLUSTER_NAME": str(identity.name),
        "CLUSTER_ID": str(identity.id),
        "MAX_CONNECTED_CLUSTERS": str(identity.maximum),
        "POLICY_DEFAULT_LOCAL_CLUSTER": scope,
        "APISERVER_IMAGE": options.apiserver_image,
        "AGENT_IMAGE": options.agent_image,
        "RELAY_IMAGE": options.relay_image,
        "CERTIFICATE_LIFETIME_S": f"{options.chosen_lifetime_s(config):.12g}",
        "MIRROR": "--mirror" if options.mirrors(config) else "--no-mirror",
    }
    relays, known = options.relays(config), load_settings()
    workloads = load_workloads(values, with_relay=relays, with_certificates=with_certificates)
    settings = settings_in(own, known)
    for obj in workloads:
        program = PROGRAMS.get((obj["kind"], obj["metadata"]["name"]))
        if program is not None:
            obj["spec"]["template"]["spec"]["containers"][0]["args"] += flags_of(program, settings, known)
        elif obj["kind"] == "DaemonSet":
            obj["spec"]["template"]["spec"]["containers"][0]["args"] += proxies_flags(settings, known)
        elif obj["kind"] == "Deployment":
            obj["spec"]["template"]["spec"]["containers"][0]["args"] += relay_flags(settings, known)
        if _is_exposed(obj):
            obj["spec"]["ports"] = exposure.ports()
    return [*load_crds(), config_map(CONFIG_MAP, options.namespace, own), *workloads]


def _is_exposed(obj: Mapping[str, Any]) -> bool:
    return bool(obj["kind"] == "Service" and obj["metadata"]["name"] == STORE_SERVICE)


def enable(client: KubeClient, context: str, options: EnableOptions, console: Console, wall_s: float) -> None:
    """Apply the plan. Running it again changes nothing that is already right.

    Raises CommandRefusedError when the cluster's name or id would change, KubeError when the API refuses.
    """
    config, taken, lost = _read_known(client, options.namespace)
    identity = decide_identity(
        name=options.cluster_name, id_=options.cluster_id, config=config, context=context or client.context
    )
    check_lifetime(options.chosen_lifetime_s(config))
    trusting = find_trusting(client, options.namespace, identity.name, may_be_new=options.new_ca)
    exposure = _decide_exposure(client, options, trusting)
    objects = plan_objects(options, identity, config, exposure)
    if taken:
        console.warn(f"ConfigMap {CONFIG_MAP} has lost {', '.join(taken)}: taken from the programs that run")
    for program in lost:
        console.warn(f"What was set for {program} with --set is lost, as it does not run: run enable again with it")
    chosen = {key: value for key, value in {**config, **options.settings}.items() if value is not None}
    for key, value in sorted(settings_in(chosen, load_settings()).items()):
        console.info(f"{key} is {value}")
    console.step(f"Enabling the mesh in cluster {identity.name} (id {identity.id})...")
    check_rights(client, objects, options.namespace)
    for obj in filter(_is_exposed, objects):  # first: a port that the API server refuses leaves everything as it was
        client.apply(k.SERVICES, obj)
    if notice := clock_notice(client, wall_s):
        console.warn(notice)
    lifetime_s = options.chosen_lifetime_s(config)
    shapes = own_shapes(identity.name, options.namespace, lifetime_s, options.advertise)
    kept, issued = ensure_mounted(client, options.namespace, identity.name, shapes, wall_s)
    for name in issued.foreign:
        console.warn(f"Secret {name} is kept by somebody else and was left alone")
    ensure_peer_files(client, options.namespace, is_mirrored=options.mirrors(config))
    for obj in objects:
        resource = from_manifest(obj)
        if resource == k.CRDS and client.get(resource, obj["metadata"]["name"]) is not None:
            continue  # a CRD that is there, Cilium's own perhaps, is the cluster's business
        if is_foreign(client, obj):
            console.warn(
                f"Service {obj['metadata']['name']} is not ours and was left alone: Hubble's clients reach that one"
            )
            continue
        client.apply(resource, obj)
    if not options.relays(config):
        _remove_relay(client, options.namespace)
    _report(identity, kept.authority, exposure, issued.expires_s, console)
    if options.new_ca and trusting:
        console.warn(
            f"The authority is new: {', '.join(sorted(trusting))} refuse this cluster until they are connected again"
        )


def _read_known(client: KubeClient, namespace: str) -> tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]:
    """The cluster's settings, which of them only its programs still know, and of which programs nobody knows them."""
    workloads = {
        program: client.get(kind, name, namespace)
        for kind, name, program in (
            (k.DEPLOYMENTS, APISERVER, APISERVER_SETTINGS),
            (k.DAEMON_SETS, AGENT, AGENT_SETTINGS),
        )
    }
    config, taken = complete_config(read_config(client, namespace), read_running(workloads.values()))
    if CLUSTER_ID_KEY not in taken:
        return config, taken, ()
    known, chosen = load_settings(), dict[str, str]()
    for program, workload in workloads.items():
        chosen |= read_chosen(program, workload, known)
    lost = tuple(program for program, workload in workloads.items() if workload is None)
    return {**chosen, **config}, (*taken, *(key for key in sorted(chosen) if key not in config)), lost


def show(client: KubeClient, context: str, options: EnableOptions) -> None:
    """Print what `enable` would apply as YAML on standard output; in place of Secrets, a Job that makes them in the cluster."""
    config, _, _ = _read_known(client, options.namespace)
    identity = decide_identity(
        name=options.cluster_name, id_=options.cluster_id, config=config, context=context or client.context
    )
    exposure = _decide_exposure(
        client, options, find_trusting(client, options.namespace, identity.name, may_be_new=options.new_ca)
    )
    objects = plan_objects(options, identity, config, exposure, with_certificates=True)
    print(yaml.safe_dump_all(objects, sort_keys=False), end="")


def _decide_exposure(client: KubeClient, options: EnableOptions, peers: Collection[str]) -> Exposure:
    service = client.get(k.SERVICES, STORE_SERVICE, options.namespace)
    return decide_exposure(service, options.exposure, has_peers=bool(peers))


def _remove_relay(client: KubeClient, namespace: str) -> None:
    for obj in reversed(relay_objects(namespace)):
        kind, name, where = from_manifest(obj), obj["metadata"]["name"], obj["metadata"].get("namespace")
        if client.get(kind, name, where) is not None and not is_foreign(client, obj):
            client.delete(kind, name, where)


def _report(
    identity: ClusterIdentity, authority: Authority, exposure: Exposure, expires_s: float, console: Console
) -> None:
    expires = datetime.fromtimestamp(expires_s, UTC)
    console.ok(f"Cluster {identity.name} has id {identity.id} of {identity.maximum}")
    console.ok(f"Its authority is SHA-256 {authority.fingerprint[:16]}; its certificates last until {expires:%Y-%m-%d}")
    exposed = f" on port {exposure.node_port} of every node" if exposure.service_type == "NodePort" else ""
    console.ok(f"Peers will reach it through a {exposure.service_type} Service{exposed}")
    if exposure.previous:
        ports = ", ".join(str(port) for port in exposure.previous)
        console.warn(
            f"Port {ports} stays open for the peers that were told it: run clustermesh connect with each of them, "
            f"which tells them port {exposure.node_port}, then clustermesh enable {DROP_FLAG}"
        )
    console.line("Next: clustermesh status --wait, then clustermesh connect --destination-context <other cluster>")
