# SPDX-License-Identifier: Apache-2.0
"""The clustermesh-agent command: without a verb it runs the agent, with one it asks the agent of this node."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agent.settings import LOOPBACK, AgentSettings
from meshapi.installed import AGENT
from meshkit import last_words
from meshkit import log as logs
from meshkit.clock import SystemClock
from meshkit.errors import MeshError
from meshkit.loading import loading
from meshkit.settings import load
from meshkit.version import program_version

if TYPE_CHECKING:
    from kube.client import KubeClient

log = logging.getLogger(__name__)

GC_THRESHOLD = 20_000


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] == "uninstall":
            raise SystemExit(_uninstall(arguments[1:]))
        if arguments[0] == "proxies":
            from agent.proxykeeper.program import main as keep_proxies

            raise SystemExit(keep_proxies(arguments[1:]))
        from agent.cli import verbs

        last_words.run(lambda: verbs.main(arguments))
    settings = load(AgentSettings, arguments, program=AGENT, version=f"{AGENT} {program_version()}")
    logs.setup(settings.log_level, json=settings.log_format == "json")
    if settings.once_uninstall:
        raise SystemExit(uninstall(settings))
    raise SystemExit(asyncio.run(run(settings)))


async def run(settings: AgentSettings) -> int:
    """Run until told to stop; what is pinned stays, unless it is to be detached. Returns the exit code."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await (_detach(settings) if settings.detach else _run(settings))
    except asyncio.CancelledError:
        log.info("stopping" if settings.detach else "stopping, programs and maps stay pinned")
        return 0
    except MeshError as exc:
        log.error("agent cannot run", extra={"error": str(exc)})
        return 1
    return 0


async def _run(settings: AgentSettings) -> None:
    with loading():
        from agent.bootstrap import learn
        from agent.core import open_core
        from agent.envoy_binary import find_envoy
        from agent.machine import Host, KernelHost, MemoryHost
        from agent.node_agent import NodeAgent, make_features
        from agent.serving import serve_agent

    clock = SystemClock()
    client = load_kube_client(settings)
    facts = await learn(settings, client, clock)
    host: Host = MemoryHost(ipv6=settings.ipv6) if settings.datapath == "memory" else KernelHost(settings, facts)
    facts_text = {"cluster": facts.cluster, "node": facts.node, "key": facts.node_ip}
    log.info("agent starting", extra=facts_text)
    envoy = find_envoy(settings.envoy) if settings.datapath == "kernel" else None
    has_dns_proxy = settings.dns_proxy and settings.datapath == "kernel"
    core = await open_core(settings, facts, client, host, clock, envoy=envoy, has_dns_proxy=has_dns_proxy)
    features = make_features(core)
    agent = NodeAgent(core, features)
    # rows are immutable and form no cycles: collections that walk all of them would only cost pauses of seconds
    gc.set_threshold(GC_THRESHOLD, 20, 1_000_000)
    gc.freeze()
    try:
        await agent.run(lambda: serve_agent(core, features, agent.reconcilers))
    except BaseExceptionGroup as failures:
        raise _first(failures) from failures


def load_kube_client(settings: AgentSettings) -> KubeClient | None:
    """A client, or None where no cluster is to be read (`--kubeconfig none`)."""
    if settings.kubeconfig == "none":
        return None
    from kube.config import load_client

    return load_client(settings.kubeconfig or None, settings.context or None)


def _uninstall(arguments: Sequence[str]) -> int:
    settings = load(AgentSettings, arguments, program=f"{AGENT} uninstall", version=f"{AGENT} {program_version()}")
    logs.setup(settings.log_level, json=settings.log_format == "json")
    return uninstall(settings)


def uninstall(settings: AgentSettings) -> int:
    """Nothing of ours is left in this node's kernel."""
    try:
        remover(settings)()
    except (MeshError, OSError) as exc:
        log.error("uninstall failed", extra={"error": str(exc)})
        return 1
    log.info("uninstalled", extra={"path": str(settings.pin_directory)})
    return 0


def remover(settings: AgentSettings) -> Callable[[], None]:
    """What removes everything of ours from this node's kernel and disk when it is called, again if it failed.

    It raises MeshError or OSError, also while another agent holds the node's pins.
    """
    from agent.bootstrap import Facts
    from agent.kept_files import remove_kept_files
    from agent.machine import KernelHost
    from meshmodel.names import ClusterId, ClusterName

    facts = Facts(ClusterName("none"), ClusterId(1), 255, settings.node_name, settings.node_ip or LOOPBACK)
    host = KernelHost(settings, facts)

    def remove() -> None:
        host.lock.take()
        host.datapath.uninstall()
        remove_kept_files(settings)

    return remove


async def _detach(settings: AgentSettings) -> None:
    from agent.detachment import Detachment

    await Detachment(remover(settings), SystemClock()).run(settings.probe_port)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """One failure to report: the first that is ours, else the first."""
    flat = [_first(f) if isinstance(f, BaseExceptionGroup) else f for f in failures.exceptions]
    return next((f for f in flat if isinstance(f, MeshError)), flat[0])


if __name__ == "__main__":
    main()
