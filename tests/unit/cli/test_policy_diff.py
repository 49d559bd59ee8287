# SPDX-License-Identifier: Apache-2.0
"""`policy diff`: what a file would change, asked of a cluster that answers; and every verdict against asking both engines."""

from __future__ import annotations

import io
from pathlib import Path

import orjson
import pytest
import yaml
from explain_world import app, deny_all, policy, scripted_cluster

from clustermesh_cli.commands.policy_diff import diff
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from meshkit.answer_form import AnswerForm


def run(
    tmp_path: Path, *documents: object, live: tuple[dict[str, object], ...] = (), form: AnswerForm = AnswerForm.TABLE
) -> tuple[ExitCode, list[str]]:
    file = tmp_path / "new.yaml"
    file.write_bytes(b"\n---\n".join(orjson.dumps(document) for document in documents))
    stream = io.StringIO()
    client = scripted_cluster("north", *live).client("kind-north")
    code = diff(str(file), client, "kube-system", form, Console(plain=True, stream=stream))
    return code, stream.getvalue().splitlines()


def test_a_new_denial_names_each_pair_the_packets_and_the_cluster(tmp_path: Path) -> None:
    code, lines = run(tmp_path, policy("only-web", "db", ingress=[{"fromEndpoints": [app("web")]}]))
    assert code == ExitCode.OK
    assert (
        "north ingress: from shop/app=db@south to shop/app=db@north: everything: allowed -> denied by default" in lines
    )
    assert not any("from shop/app=web@north to" in line for line in lines), "still allowed"
    assert not any("from host to" in line for line in lines), "a node reaches its own pods"
    assert not any(line.startswith("south") for line in lines), "each cluster judges its own pods"


def test_an_edit_shows_only_the_ports_that_change_and_the_rule(tmp_path: Path) -> None:
    def opened(port: str) -> dict[str, object]:
        ports = [{"ports": [{"port": port, "protocol": "TCP"}]}]
        peers = [app("web", **{"io.cilium.k8s.policy.cluster": "north"})]
        return policy("web", "db", ingress=[{"fromEndpoints": peers, "toPorts": ports}])

    assert run(tmp_path, opened("80"), live=(opened("80"),))[1] == ["RESULT 0 pairs of north judged differently"]
    assert run(tmp_path, opened("81"), live=(opened("80"),))[1] == [
        "north ingress: from shop/app=web@north to shop/app=db@north: 80/TCP: allowed -> denied without cnp/shop/web ingress[0]",
        "north ingress: from shop/app=web@north to shop/app=db@north: 81/TCP: denied -> allowed by cnp/shop/web ingress[0]",
        "RESULT 1 pair of north judged differently",
    ]


def test_an_address_range_is_a_peer_also_where_it_was_world_before(tmp_path: Path) -> None:
    egress = policy("out", "db", egress=[{"toCIDR": ["192.0.2.0/24"]}])
    _, lines = run(tmp_path, egress, live=(deny_all("db"),))
    assert lines == [
        "north egress: from shop/app=db@north to 192.0.2.0/24: everything: denied -> allowed by cnp/shop/out egress[0]",
        "RESULT 1 pair of north judged differently",
    ]


def test_a_document_has_the_same_in_parts(tmp_path: Path) -> None:
    egress = policy("out", "db", egress=[{"toCIDR": ["192.0.2.0/24"]}])
    code, lines = run(tmp_path, egress, live=(deny_all("db"),), form=AnswerForm.JSON)
    assert (code, orjson.loads("\n".join(lines))) == (
        ExitCode.OK,
        {
            "schema": 1, "cluster": "north", "pairs": 1, "errors": [], "warnings": [],
            "changes": [{
                "direction": "egress", "from": "shop/app=db@north", "to": "192.0.2.0/24", "packets": ["everything"],
                "before": "denied", "after": "allowed", "reason": "by cnp/shop/out egress[0]", "rule": "cnp/shop/out egress[0]",
            }],
        },
    )  # fmt: skip
    code, lines = run(tmp_path, policy("bad", "db", ingres=[{}]), form=AnswerForm.YAML)
    report = yaml.safe_load("\n".join(lines))
    assert (code, report["pairs"], len(report["errors"])) == (ExitCode.CHECK_FAILED, 0, 1)


def test_a_document_in_error_is_told_and_compared_with_nothing(tmp_path: Path) -> None:
    code, lines = run(tmp_path, policy("bad", "db", ingres=[{}]))
    assert code == ExitCode.CHECK_FAILED
    assert len(lines) == 1
    assert "unknown field" in lines[0]
    with pytest.raises(CommandError, match="holds no policy"):
        run(tmp_path)
