# SPDX-License-Identifier: Apache-2.0
"""From a change in one cluster to the map of a node in the other, beside the raw put-to-watch time of the same etcd.

A whole lab runs: real etcd, facade, agents and kernel maps. The map is read from outside, by its pin, so that nothing of ours
says when it is done.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kube.resource as k
from agent.datapath.kernel import kernel_maps
from agent.datapath.layout import BackendKey, ServiceKey
from kube.client import KubeClient
from kube.config import load_client
from lab.names import LabNames, lab_names

NAME = "bench"
COUNT = 200
TCP = 6
POLL_S = 0.0002
SERVICE_LABEL = "kubernetes.io/service-name"
ROOT = Path(__file__).parents[3]


def measure() -> dict[str, Any]:
    """Milliseconds, p50 and p99, of five things in one run, and their ratios."""
    with _connected_lab() as (lab, north, south):
        _make_services(north, south)
        watcher = _MapWatcher(lab, south)
        with _EventWatcher(lab) as events:
            raw_event, event = _events(north, watcher, events)
        raw, direct, burst = _direct(lab, watcher)
        watcher.stop()
    figures = {"raw_put_to_watch": raw, "put_to_remote_map": direct, "put_to_remote_map_at_300_per_s": burst}
    result: dict[str, Any] = {name: _quantiles(values) for name, values in figures.items()}
    result["raw_kubernetes_patch_to_watch"] = _quantiles(raw_event)
    result["kubernetes_event_to_remote_map"] = _quantiles(event)
    result["ratio_put_to_map_over_raw_p50"] = round(
        result["put_to_remote_map"]["p50_ms"] / result["raw_put_to_watch"]["p50_ms"], 2
    )
    return result


class _MapWatcher(threading.Thread):
    """Notes when each backend address first stands behind the watched frontends in the kernel of tion-worker."""

    def __init__(self, lab: LabNames, south: KubeClient) -> None:
        super().__init__(daemon=True)
        self.seen: dict[str, float] = {}
        self._maps = kernel_maps(lab.node("tion-worker").bpffs / "clustermesh")
        names = ("bench-direct", "bench-event")
        services = [south.get(k.SERVICES, name, "default") for name in names]
        self._keys = [ServiceKey(s["spec"]["clusterIP"], 80, TCP, 1) for s in services if s is not None]
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(POLL_S):
            for key in self._keys:
                slot = self._maps.services.get(key)
                backend = self._maps.backends.get(BackendKey(slot.backend_id)) if slot is not None else None
                if backend is not None:
                    self.seen.setdefault(backend.address, time.monotonic())

    def wait_for(self, address: str, limit_s: float = 1.0) -> float | None:
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            if address in self.seen:
                return self.seen[address]
            time.sleep(POLL_S)
        return None

    def stop(self) -> None:
        self._ended.set()
        self.join()


class _EventWatcher(threading.Thread):
    """Notes when a plain watch of Kubernetes says each address first: what the lab's API server takes is not ours."""

    def __init__(self, lab: LabNames) -> None:
        super().__init__(daemon=True)
        self.seen: dict[str, float] = {}
        path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?watch=1"
        command = ["kubectl", f"--kubeconfig={lab.kubeconfig('koornacht')}", "get", "--raw", path]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def run(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            now = time.monotonic()
            for endpoint in json.loads(line)["object"].get("endpoints") or ():
                self.seen.setdefault(endpoint["addresses"][0], now)

    def __enter__(self) -> _EventWatcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self.join()


def _events(north: KubeClient, watcher: _MapWatcher, events: _EventWatcher) -> tuple[list[float], list[float]]:
    """Change the EndpointSlice of a service through Kubernetes, one at a time: until a watch and until the map say so.

    Addresses are of koornacht's own pod networks: a peer is believed about no others.
    """
    raw, found = [], []
    for number in range(COUNT // 2):
        address = f"10.1.0.{number + 100}"
        sent = time.monotonic()
        north.patch_merge(k.ENDPOINT_SLICES, "bench-event-1", {"endpoints": [_endpoint(address)]}, "default")
        seen = watcher.wait_for(address)
        if seen is not None:
            found.append((seen - sent) * 1000)
        if address in events.seen:
            raw.append((events.seen[address] - sent) * 1000)
    return raw, found


def _direct(lab: LabNames, watcher: _MapWatcher) -> tuple[list[float], list[float], list[float]]:
    """Put records straight into the store, one at a time and then at 300 a second."""
    addresses = [f"10.1.{1 + number // COUNT}.{number % COUNT + 40}" for number in range(2 * COUNT)]
    environment = {**os.environ, "KUBECONFIG": str(lab.kubeconfig("koornacht"))}
    target = ("kubectl", "-n", "kube-system")
    log = subprocess.run(
        [*target, "logs", "deploy/clustermesh-apiserver"], env=environment, capture_output=True, text=True, check=True
    )
    port = re.findall(r'"etcd started".*?127\.0\.0\.1:(\d+)', log.stdout)[-1]
    command = f"cd {ROOT} && {sys.executable} -m tests.bench.slice.store_probe {port} koornacht 1 {','.join(addresses)}"
    probe = subprocess.run(
        [*target, "exec", "deploy/clustermesh-apiserver", "--", "sh", "-c", command],
        env=environment, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    raw: list[float] = []
    series: list[list[float]] = [[], []]
    for line in probe.stdout.splitlines():
        entry = json.loads(line)
        raw = entry.get("raw", raw)
        if "address" in entry:
            seen = watcher.seen.get(entry["address"]) or watcher.wait_for(entry["address"], 0.05)
            paced = series[0] if len(series[0]) < COUNT else series[1]
            paced.append((seen - entry["sent"]) * 1000 if seen is not None else float("nan"))
    kept = [
        [value for value in one if value == value] for one in series
    ]  # a value replaced before it was seen is not a sample
    return raw, kept[0], kept[1]


def _make_services(north: KubeClient, south: KubeClient) -> None:
    for name in ("bench-event", "bench-direct"):
        for client in (north, south):
            client.apply(k.SERVICES, _service(name))
    north.apply(
        k.ENDPOINT_SLICES,
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "bench-event-1", "namespace": "default", "labels": {SERVICE_LABEL: "bench-event"}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": [_endpoint("10.1.0.99")],
        },
    )  # fmt: skip
    south_agents = south.list(k.PODS, "kube-system", label_selector="k8s-app=clustermesh-agent")
    assert south_agents, "the agents of tion are not there"


def _service(name: str) -> dict[str, Any]:
    # bench-direct is not global in koornacht, whose record the probe writes itself
    return {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "annotations": {"service.cilium.io/global": "true"}},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
    }  # fmt: skip


def _endpoint(address: str) -> dict[str, Any]:
    return {"addresses": [address], "conditions": {"ready": True, "serving": True, "terminating": False}}


def _quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "samples": len(ordered),
        "p50_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
        "max_ms": round(ordered[-1], 2),
    }


@contextmanager
def _connected_lab() -> Iterator[tuple[LabNames, KubeClient, KubeClient]]:
    lab = lab_names(NAME)
    _lab("down")
    _lab("up")
    try:
        config = str(lab.kubeconfig("global"))
        for context in ("kind-koornacht", "kind-tion"):
            _clustermesh(config, "enable", "--context", context)
        _clustermesh(config, "connect", "--context", "kind-koornacht", "--destination-context", "kind-tion")
        yield lab, load_client(config, "kind-koornacht"), load_client(config, "kind-tion")
    finally:
        _lab("down")


def _lab(*words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "lab", *words, "--name", NAME], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )


def _clustermesh(kubeconfig: str, *words: str) -> None:
    command = [
        sys.executable,
        "-c",
        "from clustermesh_cli.start import main; main()",
        *words,
        "--kubeconfig",
        kubeconfig,
    ]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
