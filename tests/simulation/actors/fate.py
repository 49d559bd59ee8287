# SPDX-License-Identifier: Apache-2.0
"""Faults: programs crash and stand still, wires are cut, slow and lose answers, stores and API servers fail, maps fail."""

from __future__ import annotations

from collections.abc import Iterator

from tests.simulation.actors.plan import PODS, Plan
from tests.simulation.actors.users import pod_manifest
from tests.simulation.credentials import Signer, Trust
from tests.simulation.steps import Step, step


def crash(plan: Plan) -> Iterator[Step]:
    yield step("crash", plan.process())


def die_writing(plan: Plan) -> Iterator[Step]:
    cluster = plan.cluster()
    yield step("die", plan.node(cluster), str(plan.rng.randrange(12)))


def freeze(plan: Plan) -> Iterator[Step]:
    process = plan.process()
    yield step("freeze", process)
    plan.after(plan.rng.randrange(1, 6), step("thaw", process))


def cut_wire(plan: Plan) -> Iterator[Step]:
    source, target = _wire(plan)
    yield step("cut", source, target)
    plan.after(plan.rng.randrange(1, 6), step("heal", source, target))


def slow_wire(plan: Plan) -> Iterator[Step]:
    source, target = _wire(plan)
    yield step("slow", source, target, str(plan.rng.choice((0.1, 0.5, 2.0))))
    plan.after(plan.rng.randrange(2, 8), step("slow", source, target, "0"))


def lose_answer(plan: Plan) -> Iterator[Step]:
    yield step("lose", *_wire(plan))


def trouble_kubernetes(plan: Plan) -> Iterator[Step]:
    cluster = plan.cluster()
    match plan.rng.randrange(4):
        case 0:
            yield step("watches", cluster)
        case 1:
            yield step("forget", cluster)
        case 2:
            plural = plan.rng.choice(("pods", "services", "endpointslices", "namespaces", "nodes", "leases"))
            yield step("lag", cluster, plural, str(plan.rng.choice((0.2, 1.0, 3.0))))
            plan.after(plan.rng.randrange(2, 8), step("lag", cluster, plural, "0"))
        case _:
            yield step("kube", cluster, "down")
            plan.after(plan.rng.randrange(1, 5), step("kube", cluster, "up"))


def trouble_store(plan: Plan) -> Iterator[Step]:
    cluster = plan.cluster()
    what = plan.rng.choice(("cut", "down", "wipe", "compact", "revoke"))
    yield step("store", cluster, what)
    if what == "down":
        plan.after(plan.rng.randrange(1, 5), step("store", cluster, "up"))


def fail_map(plan: Plan) -> Iterator[Step]:
    """One write of a map fails, and mostly something is written then: a pod is replaced."""
    cluster = plan.cluster()
    name = plan.rng.choice(("services", "backends", "ipcache", "policy", "members"))
    yield step("full", plan.node(cluster), name, str(plan.rng.randrange(4)))
    if plan.rng.random() < 0.7:
        namespace, pod = plan.pod()
        yield step("nopod", cluster, f"{namespace}/{pod}")
        yield step("pod", cluster, plan.node(cluster), pod_manifest(namespace, pod))


def deafen(plan: Plan) -> Iterator[Step]:
    a, b = plan.pair()
    yield step("deaf", a, b)
    plan.after(plan.rng.randrange(1, 6), step("hear", a, b))


def disconnect(plan: Plan) -> Iterator[Step]:
    a, b = plan.pair()
    yield step("disconnect", a, b)
    plan.after(plan.rng.randrange(1, 8), step("connect", a, b))


def _wire(plan: Plan) -> tuple[str, str]:
    cluster = plan.cluster()
    if plan.rng.random() < 0.5:
        targets = [f"kube.{cluster}", f"own.{cluster}"]
        return plan.node(cluster), plan.rng.choice(targets)
    others = [f"peer.{name}" for name in plan.clusters if name != cluster]
    return f"{cluster}-apiserver", plan.rng.choice([f"kube.{cluster}", f"own.{cluster}", *others])


def break_between_turns(plan: Plan) -> Iterator[Step]:
    """A program ends between two awaits, right away or in a while."""
    yield step("break", plan.process(), str(plan.rng.choice((0, 1, 2, 5, 10, 30, 100, 300))))


def die_publishing(plan: Plan) -> Iterator[Step]:
    yield step("die", f"{plan.cluster()}-apiserver", str(plan.rng.randrange(6)))


def jump_clock(plan: Plan) -> Iterator[Step]:
    """A wall clock is wrong for a while, or for good."""
    process, seconds = plan.process(), plan.rng.choice((-86_400, -3_600, -30, 30, 3_600, 86_400))
    yield step("jump", process, str(seconds))
    if plan.rng.random() < 0.7:
        plan.after(plan.rng.randrange(1, 8), step("jump", process, str(-seconds)))


def leap(plan: Plan) -> Iterator[Step]:
    """A machine did not run for a time."""
    yield step("leap", plan.process(), str(plan.rng.choice((2, 20, 90, 4_000))))


def restore_store(plan: Plan) -> Iterator[Step]:
    """A backup is taken, and put back some time later."""
    cluster = plan.cluster()
    yield step("store", cluster, "save")
    plan.after(
        plan.rng.randrange(1, 12), step("store", cluster, plan.rng.choice(("restore", "restore", "restore-anew")))
    )


def lose_lease(plan: Plan) -> Iterator[Step]:
    yield step("lease", plan.cluster(), str(plan.rng.randrange(8)))


def starve_map(plan: Plan) -> Iterator[Step]:
    """The kernel has no memory for a map, until faults end."""
    name = plan.rng.choice(("services", "backends", "ipcache", "policy", "members", "endpoints_by_address"))
    cluster = plan.cluster()
    node = plan.node(cluster)
    yield step("starve", node, name, str(plan.rng.randrange(4)))
    yield from _write_to_maps(plan, cluster, node)


def fill_map(plan: Plan) -> Iterator[Step]:
    """A map has no room any more, until faults end."""
    name = plan.rng.choice(("services", "backends", "ipcache", "policy", "members", "endpoints_by_address"))
    cluster = plan.cluster()
    node = plan.node(cluster)
    yield step("room", node, name, str(plan.rng.randrange(4)))
    yield from _write_to_maps(plan, cluster, node)


def _write_to_maps(plan: Plan, cluster: str, node: str) -> Iterator[Step]:
    """A pod of the application is replaced, for which most maps are written to, and what its node says of that is heard."""
    namespace, app = plan.focus
    pod = next(name for name in PODS if name.startswith(app))
    yield step("nopod", cluster, f"{namespace}/{pod}")
    yield step("pod", cluster, node, pod_manifest(namespace, pod))
    yield step("wait", "1.5")


def miss_deletions(plan: Plan) -> Iterator[Step]:
    """What goes while a program hears nothing of its API server, which cannot tell it afterwards."""
    cluster = plan.cluster()
    process = plan.node(cluster) if plan.rng.random() < 0.7 else f"{cluster}-apiserver"
    namespace, name = plan.service()
    yield step("cut", process, f"kube.{cluster}")
    yield step("del", cluster, "service", f"{namespace}/{name}")
    yield step("nopod", cluster, f"{namespace}/{plan.pod()[1]}")
    yield step("forget", cluster)
    yield step("heal", process, f"kube.{cluster}")


def replace_store(plan: Plan) -> Iterator[Step]:
    """A store is replaced while who fills it is away, or slow: readers find it empty, and then filled in part."""
    cluster = plan.cluster()
    writer, target = f"{cluster}-apiserver", f"own.{cluster}"
    yield step("wait", "6")  # what is known then is held on to
    if plan.rng.random() < 0.5:
        yield step("crash", writer)
    else:
        yield step("slow", writer, target, "1")
        plan.after(plan.rng.randrange(1, 4), step("slow", writer, target, "0"))
    yield step("store", cluster, "wipe")
    for _ in range(4):
        yield step("wait", "0.5")


def restart_after_end(plan: Plan) -> Iterator[Step]:
    """An agent starts again when the first of its node's pods is gone and the second goes on."""
    namespace, app = plan.focus
    cluster = plan.cluster()
    node = plan.node(cluster)
    first, second = (name for name in PODS if name.startswith(app))
    for name in (first, second):
        yield step("pod", cluster, node, pod_manifest(namespace, name))
        yield step("wait", "1")
    yield step("nopod", cluster, f"{namespace}/{first}")
    yield step("wait", "1")
    yield step("crash", node)


def lose_peer(plan: Plan) -> Iterator[Step]:
    """Nothing of a peer arrives, neither packets nor records, for so long that it is not chosen any more."""
    a, b = plan.pair()
    yield step("deaf", a, b)
    if plan.rng.random() < 0.5:
        yield step("store", b, "down")
        plan.after(plan.rng.randrange(2, 5), step("store", b, "up"))
    yield step("wait", "6")
    yield step("wait", "7")
    plan.after(plan.rng.randrange(1, 4), step("hear", a, b))


def change_credential(plan: Plan) -> Iterator[Step]:
    """The files for a peer's store are renewed, or are of no use for a while; the connection may break meanwhile."""
    a, b = plan.pair()
    name = plan.rng.choice(("renewed", "expired", "stranger", "misplaced"))
    yield step("credential", a, b, name)
    if plan.rng.random() < 0.7:
        yield step("store", b, "cut")
    if plan.rng.random() < 0.3:
        yield step("crash", f"{a}-apiserver")
    plan.after(plan.rng.randrange(1, 6), step("credential", a, b, "good"))


def replace_authority(plan: Plan) -> Iterator[Step]:
    """A cluster's authority is replaced as the command does it: all others are told of the new one, it issues from then on, and
    the old one is believed no more. Connections break meanwhile, and the command may rest between two steps.
    """
    cluster = plan.cluster()
    others = plan.rng.sample([name for name in plan.clusters if name != cluster], len(plan.clusters) - 1)
    at = 0
    for what in (Trust.BOTH, Signer.NEW, Trust.NEW):
        for other in others if isinstance(what, Trust) else (cluster,):
            plan.after(
                at, step("trust", other, cluster, what) if isinstance(what, Trust) else step("sign", other, what)
            )
            at += plan.rng.randrange(2)
        if plan.rng.random() < 0.6:
            plan.after(at, step("store", plan.cluster(), "cut"))
        at += plan.rng.randrange(3)
    yield step("wait", "1")
