# SPDX-License-Identifier: Apache-2.0
"""The commands read policies as the agents of the cluster are set to."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import orjson
import pytest
from explain_world import CONFIG_MAP, ScriptedApi, policy, scripted_cluster

from clustermesh_cli.commands.policy import evaluate_file, lint_files, lint_live
from clustermesh_cli.commands.policy_diff import diff
from clustermesh_cli.connection_decision import build_engine
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import ExitCode
from clustermesh_cli.live_policy import LiveCluster, read_agent, read_cluster
from clustermesh_cli.policy_settings import DEFAULTS, PolicySettings
from clustermesh_cli.program_client import ProgramClient
from meshkit.answer_form import AnswerForm
from meshmodel.identity import Reserved

FEW = "--policy-ranges-per-namespace=2"
THREE = policy("three", "db", egress=[{"toCIDR": ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"]}])
NO_ROOM = "kept closed: it names 3 address ranges"


def read(api: ScriptedApi) -> LiveCluster:
    return read_cluster(api.client("kind-north"), "kube-system", "kind-north")


@pytest.mark.parametrize(
    ("flags", "config", "expected"),
    [
        ((), {}, DEFAULTS),
        ((FEW, "--ipv6"), {}, PolicySettings(ipv6=True, ranges_per_namespace=2)),
        (("--policy-ranges-per-namespace", "2", "--no-ipv6"), {"ipv6": "true"}, DEFAULTS.with_ranges(2)),
        ((), {"ipv6": "true", "policy-ranges-per-namespace": "2"}, PolicySettings(ipv6=True, ranges_per_namespace=2)),
        (("--ipv6=false",), {"ipv6": "true", "policy-ranges-per-namespace": "many"}, DEFAULTS),
        (("--policy-default-local-cluster=false",), {}, PolicySettings(default_local_cluster=False)),
    ],
)
def test_flags_of_the_agents_count_before_what_they_would_read(
    flags: tuple[str, ...], config: dict[str, str], expected: PolicySettings
) -> None:
    api = scripted_cluster("north", flags=flags)
    api.answers[CONFIG_MAP] = {"data": {"cluster-name": "north", **config}}
    assert read(api).settings == expected


def test_a_policy_without_room_there_is_told_by_every_command(tmp_path: Path) -> None:
    file = tmp_path / "three.yaml"
    file.write_bytes(orjson.dumps(THREE))
    few, many = scripted_cluster("north", flags=(FEW,)), scripted_cluster("north")
    for api, is_told in ((few, True), (many, False)):
        client, output = api.client("kind-north"), io.StringIO()
        diff(str(file), client, "kube-system", AnswerForm.TABLE, Console(plain=True, stream=output))
        assert (NO_ROOM in output.getvalue()) is is_told
        said = io.StringIO()
        code = lint_live([str(file)], client, "kube-system", output=said)
        assert (code == ExitCode.CHECK_FAILED, NO_ROOM in said.getvalue()) == (is_told, is_told)
    live = scripted_cluster("north", THREE, flags=(FEW,))
    view = read_agent(ProgramClient(live.client("kind-north"), "kube-system"), "kind-north")
    _, remarks = build_engine(read(live), view)
    assert NO_ROOM in remarks[0]


def test_offline_commands_are_told_by_a_flag(tmp_path: Path) -> None:
    file = tmp_path / "three.yaml"
    file.write_bytes(orjson.dumps(THREE))
    assert lint_files([str(file)], "north", DEFAULTS.with_ranges(2), output=io.StringIO()) == ExitCode.CHECK_FAILED
    assert lint_files([str(file)], "north", output=io.StringIO()) == ExitCode.OK
    case: dict[str, Any] = {"policies": [THREE], "ids": {}, "flows": []}
    for settings, count in ((DEFAULTS.with_ranges(2), 1), (DEFAULTS, 0)):
        output = io.StringIO()
        evaluate_file(orjson.dumps(case).decode(), AnswerForm.JSON, output, settings.limits)
        assert len(orjson.loads(output.getvalue())["errors"]) == count


def test_the_world_of_ipv4_is_what_agents_that_judge_ipv6_mean_by_it() -> None:
    names_world = policy("out", "db", egressDeny=[{"toEntities": ["world-ipv4"]}])
    for flags, expected in ((("--ipv6",), {Reserved.WORLD}), ((), set[Reserved]())):
        api = scripted_cluster("north", names_world, flags=flags)
        view = read_agent(ProgramClient(api.client("kind-north"), "kube-system"), "kind-north")
        engine, _ = build_engine(read(api), view)
        (loaded,) = engine.policies()
        (peer,) = loaded.rules[0].peers or ()
        assert engine.selected_by(peer) == expected | {Reserved.WORLD_IPV4}
