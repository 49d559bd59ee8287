# SPDX-License-Identifier: Apache-2.0
"""Lines of the proxy's log become flows of layer 7; the log is read as it grows, whatever is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.observe.flow import FlowMaker
from agent.observe.requests import RequestFlows, with_requests
from agent.observe.sides import Directory
from agent.proxy import access_log
from agent.proxy.access_log import AccessLog
from agent.tables import AgentDB, ClaimOrigin, Identity, Prefix
from flows.proto import flow_pb2 as pb
from flows.text import Look, compact_line
from meshmodel.labels import Label
from meshmodel.names import ClusterId, ClusterName

CLIENT, SERVER = 1 << 16 | 7, 2 << 16 | 9
RECORD: dict[str, Any] = {
    "port": "14000", "direction": "ingress", "start": "1709285411.500000", "source": "10.1.0.5:41000",
    "destination": "10.2.0.9:80", "method": "GET", "path": "/public?x=1", "scheme": "http", "host": "rebel-base",
    "protocol": "HTTP/1.1", "code": 200, "duration_ms": 7, "details": "via_upstream", "request_id": "r-1",
}  # fmt: skip


@pytest.fixture
def db() -> AgentDB:
    made = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
    ends = (("10.1.0.5", CLIENT, "north", "x-wing", 1), ("10.2.0.9", SERVER, "south", "rebel-base", 2))
    with made.write():
        for address, number, cluster, pod, cluster_id in ends:
            made.identities.put(Identity(number, ClusterName(cluster), (Label("k8s", "app", pod),)))
            place = (f"{address}/32", number, "", ClusterName(cluster), ClusterId(cluster_id), ClaimOrigin.POD, "")
            made.prefixes.put(Prefix(*place, "default", pod))
    return made


def _flows(db: AgentDB, **changes: Any) -> tuple[pb.Flow, pb.Flow]:
    directory = Directory(db, lambda _number: None)
    maker = FlowMaker(directory, lambda ns: ns, "north/n1", "00112233-4455-4677-8899-")
    decode = with_requests(maker.decode, maker.finish)
    asked, answered = RequestFlows(directory).make({**RECORD, **changes})
    return decode(asked, 1), decode(answered, 2)


def test_a_request_and_its_answer_are_two_flows(db: AgentDB) -> None:
    asked, answered = _flows(db)
    assert [compact_line(flow, Look()).partition(": ")[2] for flow in (asked, answered)] == [
        (
            "default/x-wing:41000 (ID:65543) -> default/rebel-base:80 (ID:131081) http-request FORWARDED "
            "(HTTP/1.1 GET http://rebel-base/public?x=1)"
        ),
        (
            "default/x-wing:41000 (ID:65543) <- default/rebel-base:80 (ID:131081) http-response FORWARDED "
            "(HTTP/1.1 200 7ms (GET http://rebel-base/public?x=1))"
        ),
    ]
    assert (asked.source.cluster_name, asked.destination.cluster_name) == ("north", "south")
    assert answered.time.ToNanoseconds() - asked.time.ToNanoseconds() == 7_000_000
    assert (answered.l7.latency_ns, answered.traffic_direction, answered.proxy_port) == (7_000_000, pb.INGRESS, 14000)
    assert asked.l7.http.headers[0].value == "r-1"


def test_headers_that_were_not_as_rules_name_them_are_told_with_what_became_of_them(db: AgentDB) -> None:
    asked, _ = _flows(db, mismatches={"x-two": "REPLACE", "x-one": "LOG"})
    found = [(header.key, header.value) for header in asked.l7.http.headers]
    assert found[1:] == [("Mismatch", "LOG x-one"), ("Mismatch", "REPLACE x-two")]


def test_what_policy_refuses_was_dropped_and_answered_by_the_proxy(db: AgentDB) -> None:
    asked, answered = _flows(db, code=403, details="rbac_access_denied_matched_policy[none]", direction="egress")
    assert (asked.verdict, answered.verdict, answered.l7.http.code) == (pb.DROPPED, pb.FORWARDED, 403)
    assert asked.traffic_direction == pb.EGRESS
    _, own = _flows(db, code=403)
    assert own.verdict == pb.FORWARDED, "a server may answer 403 as well"
    assert _flows(db, code=403)[0].verdict == pb.FORWARDED


@pytest.mark.parametrize("changes", [{"source": "x"}, {"start": None}, {"duration_ms": "-"}, {"port": "x"}])
def test_what_is_no_record_is_refused(db: AgentDB, changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        _flows(db, **changes)


def test_what_is_malformed_in_a_request_is_shown_as_it_can_be(db: AgentDB) -> None:
    asked, answered = _flows(db, method=None, path=None, host=None, protocol=None, code=0, request_id=None)
    assert asked.l7.http.url == "http://10.2.0.9"
    assert answered.l7.http.code == 0


def test_the_log_is_read_as_it_grows_and_emptied_when_it_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b'{"old": 1}\n')
    log = AccessLog(path)
    assert log.read() == []
    with path.open("ab") as file:
        file.write(orjson.dumps(RECORD)[:20])
        file.flush()
        assert log.read() == []
        file.write(orjson.dumps(RECORD)[20:] + b"\nno json\n[1]\n")
        file.flush()
        assert log.read() == [RECORD]
        assert log.unreadable == 2
        monkeypatch.setattr(access_log, "LONGEST_BYTES", 100)
        file.write(orjson.dumps(RECORD) + b"\n")
        file.flush()
        assert log.read() == [RECORD]
        assert path.stat().st_size == 0
        file.write(b'{"new": 1}\n')
        file.flush()
        assert log.read() == [{"new": 1}]


def test_a_log_that_is_not_there_yet_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.log")
    assert log.read() == []
    (tmp_path / "access.log").write_bytes(b'{"first": 1}\n')
    assert log.read() == [{"first": 1}]
