# SPDX-License-Identifier: Apache-2.0
"""How many flows, of which time and in which form `clustermesh observe` asks for."""

from __future__ import annotations

from typing import Any

import pytest

from clustermesh_cli.commands.flow_status import status_lines
from clustermesh_cli.observe_wish import ALL, parse_time, parse_wish
from flows.errors import FilterError, RequestError
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.text import compact_line

NOW_S = 1_800_000_000.0


def request(text: str) -> observer.GetFlowsRequest:
    return parse_wish(text.split(), "", NOW_S).request


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", {"number": 20}),
        ("--last 5", {"number": 5}),
        ("--first 5", {"number": 5, "first": True}),
        ("--all", {"number": ALL}),
        ("--follow", {"follow": True}),
        ("-f --last 3", {"follow": True, "number": 3}),
        ("--since 5m", {"since": NOW_S - 300}),
        ("--since 1h30m --until 2m", {"since": NOW_S - 5400, "until": NOW_S - 120}),
        ("--since 2027-01-15T07:59:00Z", {"since": NOW_S - 60}),
        ("--since 2027-01-15T08:59:00+01:00", {"since": NOW_S - 60}),
    ],
)
def test_what_is_asked_for_stands_in_the_request(words: str, expected: dict[str, Any]) -> None:
    wanted = observer.GetFlowsRequest()
    for name, value in expected.items():
        if name in ("since", "until"):
            getattr(wanted, name).FromNanoseconds(int(value * 1e9))
        else:
            setattr(wanted, name, value)
    assert request(words) == wanted


def test_filters_are_taken_in_the_order_of_their_flags_and_raw_ones_beside_them() -> None:
    found = request('-n shop -t drop --not -l app=a --allowlist {"uuid":["x"]} --denylist {"verdict":["AUDIT"]}')
    assert [each.source_pod[:] for each in found.whitelist] == [["shop/"], [], []]
    assert found.whitelist[2] == pb.FlowFilter(uuid=["x"])
    assert found.blacklist[:2] == [pb.FlowFilter(source_label=["app=a"]), pb.FlowFilter(destination_label=["app=a"])]
    assert found.blacklist[2] == pb.FlowFilter(verdict=[pb.AUDIT])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--first 1 --last 2", "--first and --last cannot be combined"),
        ("--first 1 --follow", "--first and --follow cannot be combined"),
        ("--first 1 --all", "--first and --all cannot be combined"),
        ("--last 1 --all", "--last and --all cannot be combined"),
        ("--last 0", "--last 0: expected a positive number"),
        ("--since yesterday", "'yesterday' is neither a time"),
        ("-o table -f", "-o table needs all flows"),
        ("--allowlist {x", "--allowlist: "),
        ('--denylist {"pod":["a"]}', 'no field named "pod"'),
        ("--verdict DROPPED --not", "--not: no filter follows it"),
    ],
)
def test_what_contradicts_itself_is_refused(words: str, why: str) -> None:
    with pytest.raises((FilterError, RequestError)) as caught:
        request(words)
    assert why in str(caught.value)


def test_a_day_alone_is_its_beginning_in_utc() -> None:
    assert parse_time("2027-01-15", NOW_S) == int((NOW_S - 8 * 3600) * 1e9)


@pytest.mark.parametrize(
    ("words", "begin"),
    [
        ("", "Jan 15 08:00:00.250: "),
        ("--time-format RFC3339", "2027-01-15T08:00:00Z: "),
        ("--time-format RFC3339Milli", "2027-01-15T08:00:00.250Z: "),
        ("--time-format RFC1123Z --print-node-name", "Fri, 15 Jan 2027 08:00:00 +0000 [n1]: "),
    ],
)
def test_times_have_the_form_that_was_asked_for(words: str, begin: str) -> None:
    flow = pb.Flow(node_name="n1")
    flow.time.FromNanoseconds(int((NOW_S + 0.25) * 1e9))
    assert compact_line(flow, parse_wish(words.split(), "", NOW_S).look).startswith(begin)


def test_the_server_is_that_of_the_environment_unless_a_flag_names_one() -> None:
    assert parse_wish([], "relay:4245", NOW_S).server == "relay:4245"
    assert parse_wish(["--server", "a:1"], "relay:4245", NOW_S).server == "a:1"


def test_a_status_is_told_as_hubble_does() -> None:
    found = observer.ServerStatusResponse(
        num_flows=13, max_flows=8190, flows_rate=12.345, unavailable_nodes=["tion/n2"]
    )
    assert status_lines(found) == ["Current/Max Flows: 13/8,190 (0.16%)", "Flows/s: 12.35"]
    found.num_connected_nodes.value, found.num_unavailable_nodes.value = 2, 1
    assert status_lines(found)[2:] == ["Connected Nodes: 2/3", "Unavailable Nodes: 1", "  - tion/n2"]
