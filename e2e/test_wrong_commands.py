# SPDX-License-Identifier: Apache-2.0
"""What a new user does wrong with the command: one line that says what, and an exit code that a script may rely on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.command import FAILED, REFUSED, TIMEOUT, USAGE, assert_one_line, versions
from e2e.mesh import CLUSTERS, Mesh, run


@pytest.fixture(scope="module")
def nothing_changes(mesh: Mesh) -> Iterator[None]:
    before = {cluster: versions(mesh, cluster) for cluster in CLUSTERS}
    yield
    assert {cluster: versions(mesh, cluster) for cluster in CLUSTERS} == before


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("status --context nope", USAGE, ("nope", "kind-tion")),
        ("enable --context nope", USAGE, ("nope", "kind-tion")),
        ("connect --context kind-koornacht --destination-context nope", USAGE, ("nope", "kind-tion")),
        ("disconnect --context kind-koornacht --destination-context nope", USAGE, ("nope", "kind-tion")),
        ("status --context=", USAGE, ("--context is empty",)),
        ("status --kubeconfig /nowhere", FAILED, ("/nowhere",)),
        ("status -n nowhere", FAILED, ("not enabled", "clustermesh enable")),
        ("status -n nowhere --wait --wait-duration 1", TIMEOUT, ("not enabled", "timeout")),
        ("connect -n nowhere --destination-context kind-tion", FAILED, ("not enabled", "clustermesh enable")),
        ("disconnect hoth", REFUSED, ("hoth is not a peer",)),
        ("disconnect", USAGE, ("PEER", "--destination-context")),
        ("disconnect tion --destination-context kind-tion", USAGE, ("PEER", "--destination-context")),
        ("connect --destination-context kind-tion --connection-mode sideways", USAGE, ("sideways", "bidirectional")),
        ("connect --destination-context kind-tion --destination-endpoint xyz", REFUSED, ("xyz", "HOST:PORT")),
        ("enable --service-type Carrier", REFUSED, ("Carrier", "NodePort")),
        ("enable --cluster-id 9", REFUSED, ("already has the id 1",)),
        ("enable --cluster-id 900", REFUSED, ("255",)),
        ("enable --cluster-name hoth", REFUSED, ("already has the name koornacht",)),
        ("connect --context kind-koornacht --destination-context kind-koornacht", REFUSED, ("koornacht",)),
        ("status --output xml", USAGE, ("xml",)),
        ("connect --context kind-koornacht", USAGE, ("--destination-context",)),
        ("frobnicate", USAGE, ("frobnicate",)),
    ],
)
def test_a_wrong_command_is_one_line(
    mesh: Mesh, nothing_changes: None, command: str, code: int, words: tuple[str, ...]
) -> None:
    assert_one_line(mesh.clustermesh(*command.split(), check=False), code, *words)


def test_a_kubeconfig_that_is_no_yaml_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text("{not yaml")
    assert_one_line(run(["clustermesh", "status"], check=False, KUBECONFIG=str(path)), FAILED, str(path))


def test_an_api_server_that_does_not_answer_is_one_line(mesh: Mesh, tmp_path: Path) -> None:
    document = yaml.safe_load(mesh.names.kubeconfig("koornacht").read_text())
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    assert_one_line(run(["clustermesh", "status"], check=False, KUBECONFIG=str(path)), FAILED, "127.0.0.1")
