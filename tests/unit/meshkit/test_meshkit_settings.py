# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest
import yaml

from meshkit.settings import Settings, load, make_parser, option, required


class Source(StrEnum):
    AUTO = "auto"
    PODS = "pods"


@dataclass(frozen=True, kw_only=True)
class Example(Settings):
    """Settings of an example program."""

    cluster_name: str = required("name of this cluster")
    cluster_id: int = option(0, "id of this cluster", choices=("0", "1", "2"))
    node_name: str = option("", "name of this node", env="NODE_NAME")
    interval_s: float = option(1.5, "seconds between looks")
    source: Source = option(Source.AUTO, "where records come from")
    listen: tuple[str, ...] = option(("127.0.0.1",), "addresses to listen on")
    kubeconfig: Path | None = option(None, "kubeconfig file")
    is_json: bool = option(True, "JSON logs, 100% of them")
    token: str = option("", "a secret", secret=True)


def test_a_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("cluster-name: file\ncluster_id: 2\ninterval-s: 3\nis-json: false\nlisten: ['::1', 10.0.0.1]\n")
    environ = {"CLUSTERMESH_CLUSTER_NAME": "env", "CLUSTERMESH_INTERVAL_S": "4", "NODE_NAME": "n1"}
    settings = load(Example, ["--config", str(file), "--cluster-name", "flag"], environ)
    assert settings == Example(
        cluster_name="flag", cluster_id=2, interval_s=4.0, node_name="n1", is_json=False, listen=("::1", "10.0.0.1")
    )
    assert load(Example, ["--cluster-name=x"], {}) == Example(cluster_name="x")


def test_lists_repeat_or_are_separated_by_commas_and_bools_have_two_flags() -> None:
    flags = ["--cluster-name=x", "--listen", "a,b", "--listen", "c", "--no-is-json", "--source", "pods"]
    settings = load(Example, flags, {})
    assert (settings.listen, settings.is_json, settings.source) == (("a", "b", "c"), False, Source.PODS)
    assert load(Example, ["--cluster-name=x"], {"CLUSTERMESH_IS_JSON": "off"}).is_json is False


@pytest.mark.parametrize(
    ("flags", "environ", "complaint"),
    [
        ([], {}, "--cluster-name (or CLUSTERMESH_CLUSTER_NAME) must be given"),
        (["--cluster-name=x", "--cluster-id=many"], {}, "--cluster-id: 'many' is not valid, expected int"),
        (["--cluster-name=x", "--cluster-id=7"], {}, "--cluster-id: '7' is not one of 0, 1, 2"),
        (["--cluster-name=x"], {"CLUSTERMESH_SOURCE": "fax"}, "CLUSTERMESH_SOURCE: 'fax' is not valid, expected auto"),
        (["--cluster-name=x"], {"CLUSTERMESH_IS_JSON": "perhaps"}, "CLUSTERMESH_IS_JSON: 'perhaps' is not valid"),
        (["--cluster-name=x", "--config=/does/not/exist"], {}, "cannot read settings from /does/not/exist"),
        (["--cluster-name=x", "--cluster=y"], {}, "unrecognized arguments"),
    ],
)
def test_a_mistake_ends_with_a_sentence_that_names_it(
    flags: list[str], environ: dict[str, str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        load(Example, flags, environ)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_an_unknown_setting_in_the_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("cluster-nome: x\n")
    with pytest.raises(SystemExit):
        load(Example, ["--config", str(file)], {})
    assert "unknown settings: cluster-nome" in capsys.readouterr().err


def test_help_names_every_setting_with_its_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(Example, ["--help"], {})
    text = " ".join(capsys.readouterr().out.split())
    for expected in (
        "--cluster-name TEXT name of this cluster [CLUSTERMESH_CLUSTER_NAME] (required)",
        "--cluster-id {0,1,2}",
        "[NODE_NAME]",
        "(default: 1.5)",
        "--source {auto,pods}",
        "--is-json, --no-is-json",
        "100% of them",
        "(repeat, or separate with commas)",
        "--print-config",
        "Settings of an example program.",
    ):
        assert expected in text
    assert "%%" not in make_parser(Example).format_help()


def test_the_printed_settings_are_a_file_that_gives_the_same_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--cluster-name=x", "--listen=a,b", "--source=pods", "--kubeconfig=/etc/kube"]
    with pytest.raises(SystemExit) as ended:
        load(Example, [*flags, "--print-config"], {})
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    file = tmp_path / "printed.yaml"
    file.write_text(printed)
    assert load(Example, ["--config", str(file)], {}) == load(Example, flags, {})
    assert yaml.safe_load(printed)["listen"] == ["a", "b"]


def test_secrets_are_never_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(Example, ["--cluster-name=x", "--token=hunter2", "--print-config"], {})
    printed = capsys.readouterr().out
    assert "hunter2" not in printed
    assert yaml.safe_load(printed)["token"] == "(hidden)"
