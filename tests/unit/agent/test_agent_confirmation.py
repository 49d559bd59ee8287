# SPDX-License-Identifier: Apache-2.0
"""Which pods an agent confirms, by which name, and when it takes a word back."""

from __future__ import annotations

from agent.bootstrap import Facts
from agent.confirmation.confirmed_pods import ConfirmedPods
from agent.core import open_core
from agent.datapath.errors import KernelError
from agent.machine import MemoryHost
from agent.policy.feature import PolicyFeature
from agent.settings import AgentSettings
from agent.tables import ClaimOrigin, Endpoint, Prefix
from meshkit.clock import ManualClock
from meshmodel.names import ClusterId, ClusterName
from tests.support.policy_neighbours import neighbours

NORTH, NORTH_ID = ClusterName("north"), ClusterId(1)
FACTS = Facts(NORTH, NORTH_ID, 255, "n1", "172.18.0.2", ("10.1.0.0/24",))
POD = "10.1.0.5"


def prefix(name: str = "a", address: str = POD) -> Prefix:
    return Prefix(f"{address}/32", 65_537, "", NORTH, NORTH_ID, ClaimOrigin.POD, "172.18.0.2", "shop", name)


def endpoint(address: str = POD, ifindex: int = 12) -> Endpoint:
    return Endpoint(address, 7, ifindex, "02:00:00:00:00:01", "02:00:00:00:00:02", 65_537, "shop", "a")


def yes(_endpoint: Endpoint) -> bool:
    return True


def no(_endpoint: Endpoint) -> bool:
    return False


def test_a_pod_is_confirmed_by_its_uid_once_it_is_enforced_and_stays_so_while_it_is_there() -> None:
    pods = ConfirmedPods()
    pods.hear(prefix(), "u1")
    assert not pods.step([endpoint()], no)
    assert pods.confirmed == {}
    assert pods.step([endpoint()], yes)
    assert pods.confirmed == {POD: "u1"}
    pods.hear(prefix(), "")  # it was announced: its public record says no uid
    assert not pods.step([endpoint()], no)  # its programs are lost for a moment
    assert pods.confirmed == {POD: "u1"}
    assert not pods.step([], yes)
    assert pods.confirmed == {}


def test_another_pod_of_the_same_address_needs_to_be_enforced_itself() -> None:
    pods = ConfirmedPods()
    pods.hear(prefix(), "u1")
    pods.step([endpoint()], yes)
    pods.hear(prefix(), "u2")
    assert not pods.step([endpoint(ifindex=13)], no)
    assert pods.confirmed == {}
    assert pods.step([endpoint(ifindex=13)], yes)
    assert pods.confirmed == {POD: "u2"}


def test_an_agent_that_starts_keeps_the_uids_of_the_one_before_for_pods_that_are_still_there() -> None:
    pods = ConfirmedPods()
    pods.restore({POD: "u1", "10.1.0.6": "u6", "10.1.0.7": "gone", "10.1.0.8": "u8"})
    pods.hear(prefix(), "")
    pods.hear(prefix("b", "10.1.0.6"), "u66")
    pods.hear(prefix("new", "10.1.0.9"), "")
    endpoints = [endpoint(a) for a in (POD, "10.1.0.6", "10.1.0.8", "10.1.0.9")]
    pods.step(endpoints, no)  # nothing is enforced yet by this agent
    assert pods.confirmed == {POD: "u1", "10.1.0.8": "u8"}
    pods.step(endpoints, yes)
    assert pods.confirmed == {POD: "u1", "10.1.0.6": "u66", "10.1.0.8": "u8", "10.1.0.9": "shop/new"}


def test_a_pod_whose_interface_is_made_anew_is_confirmed_by_its_uid_again() -> None:
    pods = ConfirmedPods()
    pods.hear(prefix(), "u1")
    pods.step([endpoint()], yes)
    pods.hear(prefix(), "")
    pods.step([], yes)
    assert pods.step([endpoint(ifindex=13)], yes)
    assert pods.confirmed == {POD: "u1"}


async def test_a_pod_counts_as_enforced_when_its_programs_run_and_both_maps_lead_to_it() -> None:
    class Refusing(MemoryHost):
        refuses = True

        def attach(self, ifindex: int) -> None:
            if self.refuses:
                raise KernelError("attach", 16, "busy")
            super().attach(ifindex)

    host = Refusing()
    core = await open_core(AgentSettings(local_etcd="none"), FACTS, None, host, ManualClock())
    policy = PolicyFeature(core, neighbours(core.db))
    (reconciling,) = policy.reconcilers()
    with core.db.write():
        core.db.prefixes.put(prefix())
        core.db.endpoints.put(endpoint())
    policy.compiler.step()
    rung = policy.enforced.count
    reconciling.reconciler.run_once(0.0)
    assert not policy.target.enforces(endpoint())
    host.refuses = False
    policy.target.update(list(core.db.verdicts.rows()))
    assert policy.target.enforces(endpoint())
    assert not policy.target.enforces(endpoint(ifindex=13))
    host.detach(12)
    host.refuses = True
    policy.target.reattach()
    assert not policy.target.enforces(endpoint())
    assert policy.enforced.count == rung  # only rounds of the reconciler ring
