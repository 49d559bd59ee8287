# SPDX-License-Identifier: Apache-2.0
"""The program's flags: all of them explained, shown as they take effect, and refused with what to change."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from clustermesh_apiserver.app import main
from clustermesh_apiserver.settings import ApiserverSettings

NAMED = ("--cluster-name", "koornacht", "--cluster-id", "1")


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(ApiserverSettings):
        assert f"--{field.name.replace('_', '-')}" in text
        assert field.metadata["help"]
    assert "--print-config" in text
    assert "--version" in text


def test_the_effective_settings_are_printed_and_can_be_given_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERMESH_LEASE_TTL", "120")
    flags = ["--kubeconfig", "/k", "--context", "c", "--etcd-config", "/e.yaml", "--mirror", "--source", "pods"]
    with pytest.raises(SystemExit) as end:
        main([*NAMED, *flags, "--print-config"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    shown = yaml.safe_load(printed)
    assert set(shown) == {field.name.replace("_", "-") for field in dataclasses.fields(ApiserverSettings)}
    assert (shown["kubeconfig"], shown["context"], shown["etcd-config"]) == ("/k", "c", "/e.yaml")
    assert (shown["mirror"], shown["lease-ttl"], shown["source"]) == (True, 120.0, "pods")
    monkeypatch.delenv("CLUSTERMESH_LEASE_TTL")
    file = tmp_path / "settings.yaml"
    file.write_text(printed)
    with pytest.raises(SystemExit):
        main(["--config", str(file), "--print-config"])
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--cluster-name (or CLUSTERMESH_CLUSTER_NAME) must be given"),
        (("--cluster-name", "Not A Name", "--cluster-id", "1"), "Not A Name"),
        (("--cluster-name", "a", "--cluster-id", "0"), "0"),
        (("--cluster-name", "a", "--cluster-id", "300"), "300"),
        ((*NAMED, "--max-connected-clusters", "100"), "100"),
        ((*NAMED, "--source", "cloud"), "auto, cilium, pods"),
        ((*NAMED, "--lease-ttl", "3"), "use 25 to 86400 seconds"),
        ((*NAMED, "--log-level", "loud"), "debug, info, warning, error"),
        ((*NAMED, "--service-export-mode", "endpointslices-only"), "services are always published"),
        ((*NAMED, "--pod-cidr", "10.1.0.7/16"), "write it as 10.1.0.0/16"),
        ((*NAMED, "--pod-cidr", "10.1.0.0/33"), "33"),
        ((*NAMED, "--no-such-flag"), "--no-such-flag"),
    ],
)
def test_a_mistake_is_named_and_ends_the_program_with_2(
    flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(flags))
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_a_kubeconfig_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NAMED, "--kubeconfig", "/nowhere/kubeconfig"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("clustermesh-apiserver: ")
    assert "/nowhere/kubeconfig" in err
    assert len(err.splitlines()) == 1
