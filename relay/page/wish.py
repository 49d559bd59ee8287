# SPDX-License-Identifier: Apache-2.0
"""What a reader of the page asks for, as a request for flows. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from flows.filters import compile_filter
from flows.flags import FilterFlag, make_lists
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer

MOST_FIRST: Final = 5000
"""Flows of the past that a page begins with, of all nodes together."""


class FlowWish(NamedTuple):
    """Filters as a person writes them; "" asks for everything. `since_ms`: wall milliseconds, 0: the last `first` flows."""

    verdict: str = ""
    namespace: str = ""
    pod: str = ""
    label: str = ""
    cluster: str = ""
    port: str = ""
    status: str = ""
    dns: str = ""
    since_ms: int = 0
    first: int = 2000
    staged: str = ""


def make_request(wish: FlowWish, nodes: int) -> observer.GetFlowsRequest:
    """The request that follows. Each of `nodes` is asked for its part of the first flows. Raises: FilterError."""
    lists = make_lists([*_flags(wish)])
    request = observer.GetFlowsRequest(follow=True, whitelist=_with_names(lists.whitelist, wish.dns))
    if wish.since_ms:
        request.since.FromMilliseconds(wish.since_ms)
    else:
        request.number = max(min(wish.first, MOST_FIRST) // max(nodes, 1), 1)
    return request


def one_flow(uuid: str, node: str) -> observer.GetFlowsRequest:
    """The request for one flow by its UUID and the node that saw it. Raises: FilterError."""
    wanted = pb.FlowFilter(uuid=[uuid], node_name=[node] if node else [])
    compile_filter(wanted)
    return observer.GetFlowsRequest(number=1, whitelist=[wanted])


def _flags(wish: FlowWish) -> list[FilterFlag]:
    flags = [FilterFlag("verdict", word.strip()) for word in wish.verdict.split(",") if word.strip()]
    single = {
        "namespace": wish.namespace,
        "pod": wish.pod,
        "label": wish.label,
        "cluster": wish.cluster,
        "port": wish.port,
        "http-status": wish.status,
        "staged-verdict": wish.staged,
    }
    if wish.pod and "/" in wish.pod:
        single["namespace"] = ""
    return flags + [FilterFlag(name, value.strip()) for name, value in single.items() if value.strip()]


def _with_names(filters: list[pb.FlowFilter], dns: str) -> list[pb.FlowFilter]:
    """A DNS name is asked for in queries, and as the name of either side."""
    if not dns.strip():
        return filters
    name, found = dns.strip(), []
    for base in filters or [pb.FlowFilter()]:
        for field in ("source_fqdn", "destination_fqdn", "dns_query"):
            wanted = pb.FlowFilter()
            wanted.CopyFrom(base)
            pattern = "^" + re.escape(name.rstrip(".")).replace("\\*", "[^.]*") + "\\.?$"
            getattr(wanted, field).append(pattern if field == "dns_query" else name)
            found.append(wanted)
    for wanted in found:
        compile_filter(wanted)
    return found
