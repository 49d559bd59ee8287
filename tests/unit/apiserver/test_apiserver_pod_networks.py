# SPDX-License-Identifier: Apache-2.0
"""The networks a node announces are those of its pods: nothing missing, nothing that is not theirs."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustermesh_apiserver.convert.pod_networks import is_inside, pod_networks

PREFIXES = st.builds(
    lambda number, length: str(ipaddress.ip_network((number, length), strict=False)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
) | st.builds(
    lambda number, length: str(ipaddress.ip_network((number, length), strict=False)),
    st.integers(2**120, 2**128 - 1),
    st.integers(0, 128),
)
ADDRESSES = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str)
NEAR = st.integers(0, 1023).map(lambda number: str(ipaddress.ip_address(0x0A010000 + number)))


@pytest.mark.parametrize(
    ("assigned", "blocks", "pods", "has_blocks", "announced"),
    [
        (["10.1.0.0/24"], [], ["10.1.0.7"], False, ["10.1.0.0/24"]),
        (["10.1.0.0/24"], [], [], False, ["10.1.0.0/24"]),
        # the CNI has its own networks: the node's mean nothing
        (["192.168.0.0/24"], ["192.168.219.64/26"], ["192.168.219.65"], True, ["192.168.219.64/26"]),
        (["192.168.0.0/24"], [], [], True, []),
        # an address borrowed from another node's block
        (["192.168.0.0/24"], ["192.168.219.64/26"], ["192.168.219.1"], True, ["192.168.219.64/26", "192.168.219.1/32"]),
        # no blocks that we can read: what pods have, joined
        (["192.168.0.0/24"], [], ["172.16.4.2", "172.16.4.3", "172.16.9.1"], False, ["172.16.4.2/31", "172.16.9.1/32"]),
        (["10.1.0.0/24"], [], ["10.1.0.7", "172.16.9.1"], False, ["10.1.0.0/24", "172.16.9.1/32"]),
        ([], [], ["fd00::2", "fd00::3", "10.0.0.1"], False, ["10.0.0.1/32", "fd00::2/127"]),
    ],
)
def test_what_a_node_announces(
    assigned: list[str], blocks: list[str], pods: list[str], has_blocks: bool, announced: list[str]
) -> None:
    assert list(pod_networks(assigned, blocks, pods, has_blocks=has_blocks)) == announced


@given(ip=ADDRESSES, networks=st.lists(PREFIXES, max_size=4))
def test_inside_is_what_the_library_says(ip: str, networks: list[str]) -> None:
    """Law: the quick look at the text decides as the arithmetic does."""
    assert is_inside(ip, networks) == any(ipaddress.ip_address(ip) in ipaddress.ip_network(n) for n in networks)


@given(pods=st.sets(NEAR, max_size=40), assigned=st.lists(st.sampled_from(["10.1.0.0/24", "10.1.1.0/25"]), max_size=1))
def test_every_pod_is_inside_and_no_other_address_is_claimed(pods: set[str], assigned: list[str]) -> None:
    """Law: the announced networks hold every pod, and hold no address beside pods and the node's own network."""
    announced = pod_networks(assigned, (), sorted(pods), has_blocks=False)
    assert all(is_inside(ip, announced) for ip in pods)
    derived = [ipaddress.ip_network(text) for text in announced if text not in assigned]
    assert all(str(ip) in pods for network in derived for ip in network)
