# SPDX-License-Identifier: Apache-2.0
"""`events`: merged over programs and Kubernetes in the order of time; and followed, each event once."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import pytest
import yaml
from connect_world import NS, PROXY, WritableApi
from explain_world import listing

from clustermesh_cli.commands.events import events
from clustermesh_cli.commands.follow_events import Followed, follow
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import ExitCode
from clustermesh_cli.program_client import ProgramClient
from clustermesh_cli.told_events import EventWish
from kube.errors import Unreachable
from kube.transport import Query
from meshapi.event import EventKind, MeshEvent
from meshapi.row import encode
from meshkit.answer_form import AnswerForm


def event(second: int, *, node: str = "", number: int = 1, kind: EventKind = EventKind.SESSION) -> MeshEvent:
    program = "clustermesh-agent" if node else "clustermesh-apiserver"
    time = f"2026-01-01T00:00:{second:02}.000Z"
    return MeshEvent(
        time=time, number=number, cluster="north", program=program, node=node, kind=kind, peer="south", message=f"m{second}"
    )  # fmt: skip


def kubernetes_event(component: str, second: int) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{component}-{second}", "namespace": "shop"},
        "involvedObject": {"kind": "Service", "namespace": "shop", "name": "cart"},
        "reason": "InvalidMeshAnnotation",
        "message": "no such value",
        "type": "Warning",
        "source": {"component": component},
        "lastTimestamp": f"2026-01-01T00:00:{second:02}Z",
        "count": 1,
    }


class Stream:
    """Pieces of an answer, then its end."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    def read(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def close(self) -> None:
        pass


class TellingApi(WritableApi):
    """North with an apiserver, an agent on n1, and Kubernetes Events; who is silent does not answer."""

    def __init__(self, *silent: str) -> None:
        super().__init__("north")
        self.silent = silent
        agent = {
            "metadata": {"name": "agent-1", "labels": {"k8s-app": "clustermesh-agent"}},
            "spec": {"nodeName": "n1"},
        }
        self.answers[f"{NS}/pods"] = listing(agent)
        self.answers["/api/v1/events"] = listing(
            kubernetes_event("clustermesh-apiserver", 3), kubernetes_event("kubelet", 4)
        )
        self.told: dict[str, list[MeshEvent]] = {
            "apiserver": [event(1), event(5, number=2)],
            "agent-1": [event(2, node="n1"), event(2, node="n1", number=2)],
        }
        self.asked: list[Query] = []
        self.transport = self

    def request(
        self, method: str, path: str, *, query: Query | None = None, timeout_s: float = 0, **given: object
    ) -> tuple[int, bytes]:
        for who, place in (("apiserver", f"{PROXY}/events"), ("agent-1", f"{NS}/pods/agent-1:9879/proxy/v1/events")):
            if path.startswith(place):
                if who in self.silent:
                    raise Unreachable("GET", detail="timed out")
                return 200, b"".join(encode(found) + b"\n" for found in self.told[who])
        return super().request(method, path, query=query, timeout_s=timeout_s, **given)

    def stream(self, path: str, *, query: Query, read_timeout_s: float, headers: Mapping[str, str]) -> Stream:
        del read_timeout_s, headers
        self.asked.append(query)
        found = self.told["agent-1" if "agent-1" in path else "apiserver"]
        text = b"\n" + b"".join(encode(one) + b"\n" for one in found)
        return Stream(text[:40], text[40:])


def programs(api: TellingApi) -> dict[str, ProgramClient]:
    return {"kind-north": ProgramClient(api.client("kind-north"), "kube-system")}


def told(api: TellingApi, wish: EventWish | None = None, form: AnswerForm = AnswerForm.JSON) -> tuple[ExitCode, str]:
    stream = io.StringIO()
    code = events(programs(api), wish or EventWish(), form, Console(plain=True, stream=stream))
    return code, stream.getvalue()


def test_everybody_tells_and_the_order_is_that_of_time() -> None:
    code, text = told(TellingApi())
    document = cast(dict[str, Any], msgspec.json.decode(text))
    assert (code, document["schema"], document["missing"]) == (ExitCode.OK, 1, [])
    assert [(item["time"][17:19], item["program"], item["number"]) for item in document["items"]] == [
        ("01", "clustermesh-apiserver", 1),
        ("02", "clustermesh-agent", 1),
        ("02", "clustermesh-agent", 2),
        ("03", "clustermesh-apiserver", 1),
        ("05", "clustermesh-apiserver", 2),
    ]
    (written,) = [item for item in document["items"] if item["kind"] == "object"]
    assert (written["subject"], written["level"]) == ("Service shop/cart", "warning")
    assert written["message"] == "InvalidMeshAnnotation: no such value"
    assert yaml.safe_load(told(TellingApi(), form=AnswerForm.YAML)[1]) == document


@pytest.mark.parametrize(
    ("wanted", "seconds"),
    [
        (EventWish(kind="object"), ["03"]),
        (EventWish(kind="object", since="2026-01-01T00:00:04.000Z"), []),
        (EventWish(kind="object", cluster="west"), []),
        (EventWish(limit=2), ["03", "05"]),
    ],
)
def test_filters_hold_for_what_kubernetes_tells_and_the_limit_for_all(wanted: EventWish, seconds: list[str]) -> None:
    items = msgspec.json.decode(told(TellingApi(), wanted)[1])["items"]
    assert [item["time"][17:19] for item in items] == seconds


def test_who_does_not_tell_is_named_and_the_rest_is_shown() -> None:
    code, text = told(TellingApi("agent-1"), form=AnswerForm.TABLE)
    assert code == ExitCode.DEGRADED
    assert "FAIL kind-north: agent of n1: GET: timed out" in text
    assert "m5" in text


def test_following_prints_each_event_once_in_order_also_when_a_stream_begins_again() -> None:
    api, stream, complaints = TellingApi(), io.StringIO(), []
    followed = Followed(programs(api), EventWish(), complaints.append)
    follow(followed, AnswerForm.JSON, Console(plain=True, stream=stream), limit=5)
    found = [msgspec.json.decode(line) for line in stream.getvalue().splitlines()]
    assert [item["time"][17:19] for item in found] == ["01", "02", "02", "03", "05"]
    assert complaints == []
    assert {"follow": "true", "limit": "500"} in [dict(query) for query in api.asked]
