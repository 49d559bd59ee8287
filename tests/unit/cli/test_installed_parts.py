# SPDX-License-Identifier: Apache-2.0
"""`status --summary` and `config view`: what is installed, in three forms."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
import yaml
from connect_world import NS, WritableApi

from clustermesh_cli.answer_form import parse_answer_form
from clustermesh_cli.commands.installed import show_summary, view_settings
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from meshkit.answer_form import AnswerForm

APPS = NS.replace("/api/v1", "/apis/apps/v1")


def workload(name: str, spec: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    template = {"spec": {"containers": [{"name": "main", "image": f"example.org/{name}:1"}]}}
    return {"metadata": {"name": name}, "spec": {**spec, "template": template}, "status": status}


def api(available: int = 1) -> WritableApi:
    found = WritableApi("north")
    found.answers[f"{APPS}/deployments/clustermesh-apiserver"] = workload(
        "clustermesh-apiserver", {"replicas": 1}, {"readyReplicas": 1, "availableReplicas": available}
    )
    found.answers[f"{APPS}/daemonsets/clustermesh-agent"] = workload(
        "clustermesh-agent", {}, {"desiredNumberScheduled": 3, "numberReady": 3, "numberAvailable": 3}
    )
    found.answers[f"{APPS}/daemonsets/clustermesh-proxies"] = workload(
        "clustermesh-proxies", {}, {"desiredNumberScheduled": 3, "numberReady": 3, "numberAvailable": 3}
    )
    return found


def summary(world: WritableApi, form: AnswerForm = AnswerForm.TABLE) -> tuple[ExitCode, str]:
    stream = io.StringIO()
    code = show_summary(world.client("kind-north"), "kube-system", form, Console(plain=True, stream=stream))
    return code, stream.getvalue()


def test_each_workload_has_its_replicas_and_images() -> None:
    code, text = summary(api())
    assert code == ExitCode.OK
    assert text.splitlines() == [
        "CLUSTER north",
        "Deployment  clustermesh-apiserver     Desired: 1, Ready: 1/1, Available: 1/1",
        "DaemonSet   clustermesh-agent         Desired: 3, Ready: 3/3, Available: 3/3",
        "DaemonSet   clustermesh-proxies       Desired: 3, Ready: 3/3, Available: 3/3",
        "Image       clustermesh-apiserver     main: example.org/clustermesh-apiserver:1",
        "Image       clustermesh-agent         main: example.org/clustermesh-agent:1",
        "Image       clustermesh-proxies       main: example.org/clustermesh-proxies:1",
    ]


def test_what_is_not_whole_or_not_there_is_degraded() -> None:
    assert summary(api(available=0))[0] == ExitCode.DEGRADED
    world = api()
    world.answers.pop(f"{APPS}/daemonsets/clustermesh-agent")
    code, text = summary(world)
    assert code == ExitCode.DEGRADED
    assert text.endswith("Missing: DaemonSet kube-system/clustermesh-agent\n")


def test_the_relay_counts_where_it_was_chosen() -> None:
    world, place = api(), f"{APPS}/deployments/clustermesh-relay"
    world.answers[f"{NS}/configmaps/clustermesh-config"] = {"data": {"cluster-name": "north", "enable-relay": "true"}}
    assert summary(world)[1].endswith("Missing: Deployment kube-system/clustermesh-relay\n")
    world.answers[place] = workload("clustermesh-relay", {"replicas": 1}, {"readyReplicas": 1, "availableReplicas": 1})
    code, text = summary(world)
    assert code == ExitCode.OK
    assert "Deployment  clustermesh-relay         Desired: 1, Ready: 1/1, Available: 1/1" in text


def test_every_form_says_the_same() -> None:
    as_json = msgspec.json.decode(summary(api(), AnswerForm.JSON)[1])
    assert as_json == yaml.safe_load(summary(api(), AnswerForm.YAML)[1])
    assert (as_json["schema"], as_json["parts"][0]["images"]) == (1, {"main": "example.org/clustermesh-apiserver:1"})
    with pytest.raises(CommandError, match="--output xml: choose table, json, yaml") as caught:
        parse_answer_form("xml")
    assert caught.value.code == ExitCode.USAGE


def test_every_setting_is_one_line_even_if_its_value_is_not() -> None:
    world = api()
    world.answers[f"{NS}/configmaps/clustermesh-config"] = {"data": {"cluster-id": "1", "a": "two\nlines"}}
    stream = io.StringIO()
    view_settings(world.client("kind-north"), "kube-system", AnswerForm.TABLE, Console(plain=True, stream=stream))
    assert stream.getvalue() == "a           two lines\ncluster-id  1\n"
    world.answers.pop(f"{NS}/configmaps/clustermesh-config")
    with pytest.raises(CommandError, match="not enabled here"):
        view_settings(world.client("kind-north"), "kube-system", AnswerForm.TABLE, Console(plain=True, stream=stream))
