# SPDX-License-Identifier: Apache-2.0
"""`clustermesh policy`: cases in either notation."""

from __future__ import annotations

import io
from pathlib import Path

import orjson
import pytest
import yaml

from clustermesh_cli.commands.policy import evaluate_file, lint_files
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.policy_verbs import policy_eval
from meshkit.answer_form import AnswerForm

CASE = """
cluster: north
ids:
  web: ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=default"]
  db: ["k8s:app=db", "k8s:io.kubernetes.pod.namespace=default"]
policies:
- apiVersion: cilium.io/v2
  kind: CiliumNetworkPolicy
  metadata: {name: only-web, namespace: default}
  spec:
    endpointSelector: {matchLabels: {app: db}}
    ingress:
    - fromEndpoints: [{matchLabels: {app: web}}]
      toPorts: [{ports: [{port: "80", protocol: TCP}]}]
flows: [[web, db, TCP, 80], [web, db, TCP, 81]]
"""


def answer(text: str) -> object:
    output = io.StringIO()
    evaluate_file(text, AnswerForm.JSON, output)
    return orjson.loads(output.getvalue())


def test_a_case_in_yaml_is_evaluated_as_in_json() -> None:
    expected = {"errors": [], "verdicts": [["allowed", "allowed"], ["allowed", "denied"]]}
    assert answer(CASE) == expected
    assert answer(f"{CASE}\n---\n{CASE}") == [expected, expected]


def test_verdicts_have_every_form() -> None:
    wrong = CASE.replace("ingress:", "ingres:")
    said = {}
    for form in AnswerForm:
        output = io.StringIO()
        evaluate_file(f"{CASE}\n---\n{wrong}", form, output)
        said[form] = output.getvalue()
    cases = orjson.loads(said[AnswerForm.JSON])
    assert said[AnswerForm.JSON].count("\n") == 1
    assert yaml.safe_load(said[AnswerForm.YAML]) == cases
    head, first, *_, last = said[AnswerForm.TABLE].splitlines()
    assert head.split() == ["CASE", "FROM", "TO", "PROTOCOL", "PORT", "EGRESS", "INGRESS"]
    assert first.split() == ["1", "web", "db", "TCP", "80", "allowed", "allowed"]
    assert last.startswith("ERROR in case 2: ")
    assert cases[1]["errors"][0].split()[:3] == last.removeprefix("ERROR in case 2: ").split()[:3]


def test_a_table_of_verdicts_shows_what_is_asked() -> None:
    asked = CASE.replace("[web, db, TCP, 80]", '[web, db, TCP, 80, "GET /"]')
    output = io.StringIO()
    evaluate_file(asked, AnswerForm.TABLE, output)
    head, first, second = output.getvalue().splitlines()
    assert head.split()[4:] == ["PORT", "ASKED", "EGRESS", "INGRESS"]
    assert first.split()[4:] == ["80", "GET", "/", "allowed", "allowed"]
    assert second.split()[4:] == ["81", "-", "allowed", "denied"]


@pytest.mark.parametrize("is_summary", [False, True])
def test_findings_have_every_form(tmp_path: Path, is_summary: bool) -> None:
    file = tmp_path / "groups.yaml"
    file.write_text(ONLY_GROUPS.replace("SECTION", "ingress").replace("WORD", "from"))
    said = {}
    for form in AnswerForm:
        output = io.StringIO()
        lint_files([str(file)], "north", is_summary=is_summary, form=form, output=output)
        said[form] = output.getvalue()
    report = orjson.loads(said[AnswerForm.JSON])
    assert yaml.safe_load(said[AnswerForm.YAML]) == report
    assert (report["schema"], report["files"]) == (1, 1)
    lines = said[AnswerForm.TABLE].splitlines()
    if is_summary:
        counts = {"enforced": 0, "partly": 1, "refused": 0, "others": 0, "remarked": 0}
        assert (report["findings"], report["policies"]) == ([], counts)
        assert report["reasons"] == [{"outcome": "partly", "reason": "fromGroups is not resolved yet", "policies": 1}]
        assert lines[-2].startswith("1 policy: ")
        return
    (found, *_) = [one for one in report["findings"] if one["code"] == "not-enforced"]
    assert (found["file"], found["severity"], found["where"]) == (str(file), "warning", "cnp/default/groups")
    assert len(lines) == len(report["findings"]) + 1
    assert sum(report["counts"].values()) == len(report["findings"])


def test_nothing_of_a_manifest_commands_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(
        ONLY_GROUPS.replace("SECTION", "ingress").replace("WORD", '"from\\e[2J').replace("Groups:", 'Groups":')
    )
    output = io.StringIO()
    assert lint_files([str(file)], "north", output=output) == ExitCode.CHECK_FAILED
    assert ("[2J" in output.getvalue(), "\x1b" in output.getvalue()) == (True, False)


def test_a_case_that_is_neither_is_refused_with_both_reasons() -> None:
    with pytest.raises(CommandError, match=r"neither JSON .* nor YAML") as caught:
        evaluate_file("{cluster: [", AnswerForm.JSON, io.StringIO())
    assert caught.value.code == ExitCode.USAGE


def test_one_tenant_s_yaml_bomb_is_refused() -> None:
    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{new}: &{new} [*{old},*{old},*{old},*{old},*{old},*{old},*{old}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(CommandError, match="YAML"):
        evaluate_file(bomb, AnswerForm.JSON, io.StringIO())


ONLY_GROUPS = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: groups, namespace: default}
spec:
  endpointSelector: {}
  SECTION: [{WORDGroups: [{aws: {region: x}}]}]
"""


@pytest.mark.parametrize(("section", "text"), [("ingress", "selects nobody"), ("ingressDeny", "denies everybody")])
def test_lint_ends_with_3_where_a_valid_policy_is_not_enforced_as_written(
    tmp_path: Path, section: str, text: str
) -> None:
    file = tmp_path / "groups.yaml"
    file.write_text(ONLY_GROUPS.replace("SECTION", section).replace("WORD", "from"))
    output = io.StringIO()
    assert lint_files([str(file)], "north", output=output) == ExitCode.DEGRADED
    assert (
        f"warning: cnp/default/groups: spec.{section}[0].fromGroups: fromGroups is not resolved yet; it {text}"
        in output.getvalue()
    )


def test_lint_ends_with_0_on_a_correct_policy_and_4_on_a_wrong_one(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    for words, code in (("fromEntities: [host]", ExitCode.OK), ("fromEntity: [host]", ExitCode.CHECK_FAILED)):
        file.write_text(ONLY_GROUPS.replace("SECTION", "ingress").replace("WORDGroups: [{aws: {region: x}}]", words))
        assert lint_files([str(file)], "north", output=io.StringIO()) == code


def test_a_summary_counts_what_becomes_of_each_policy_of_a_directory(tmp_path: Path) -> None:
    plain = ONLY_GROUPS.replace("SECTION", "ingress").replace(
        "WORDGroups: [{aws: {region: x}}]", "fromEntities: [host]"
    )
    inside = tmp_path / "deeper"
    inside.mkdir()
    (tmp_path / "plain.yaml").write_text(f"{plain}\n---\n{plain}\n---\nkind: Deployment\n")
    (inside / "part.yml").write_text(ONLY_GROUPS.replace("SECTION", "ingress").replace("WORD", "from"))
    (inside / "wrong.json").write_text('{"kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}}')
    (inside / "notes.txt").write_text("no manifest")
    output = io.StringIO()
    code = lint_files([str(tmp_path)], "north", is_summary=True, output=output)
    assert code == ExitCode.CHECK_FAILED
    findings, policies, *_ = output.getvalue().splitlines()
    assert findings.endswith("in 3 files")
    assert policies == "4 policies: 2 enforced as written, 1 in part, 1 refused; 1 other document"


def test_a_summary_groups_reasons_without_places_and_what_documents_hold(tmp_path: Path) -> None:
    def written(name: str, spec: str) -> None:
        (tmp_path / f"{name}.yaml").write_text(
            f"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\n"
            f"spec: {{endpointSelector: {{}}, {spec}}}\n"
        )

    rules = "toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {kafka: [{role: produce}]}}]"
    written("one", f"ingress: [{{{rules}}}, {{{rules.replace('80', '81')}}}]")
    written("two", f"egress: [{{}}, {{{rules}}}, {{toGroups: [{{aws: {{}}}}]}}]")
    written("three", "ingress: [{fromEndpoints: [{matchExpressions: [{key: a, operator: in}]}]}]")
    written("four", "ingress: [{}, {fromEndpoints: [{}, {matchExpressions: [{key: b, operator: xx}]}]}]")
    written("five", "egress: [{toServices: []}]")
    output = io.StringIO()
    lint_files([str(tmp_path)], "north", is_summary=True, output=output)
    assert output.getvalue().splitlines()[1:] == [
        "5 policies: 1 enforced as written (1 with a warning), 2 in part, 2 refused; 0 other documents",
        "    2 in part: a list of kafka rules cannot be enforced yet",
        "    1 in part: toGroups is not resolved yet",
        "    2 refused: operator: … is not a valid label selector operator",
    ]


def test_rules_about_requests_are_enforced_and_told_of_once(tmp_path: Path) -> None:
    (tmp_path / "gets.yaml").write_text(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: gets}\n"
        "spec: {endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {app: x}}], "
        "toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]}]}\n"
    )
    said, counted = io.StringIO(), io.StringIO()
    lint_files([str(tmp_path)], "north", output=said)
    lint_files([str(tmp_path)], "north", is_summary=True, output=counted)
    assert said.getvalue().count("means pods of cluster north only") == 1
    assert "enforced yet" not in said.getvalue()
    assert "1 enforced as written" in counted.getvalue()


def test_a_directory_without_manifests_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="holds no manifest"):
        lint_files([str(tmp_path)], "north", output=io.StringIO())


def test_a_case_that_is_no_text_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    file = tmp_path / "case.yaml"
    file.write_bytes(b"\xff\xfe")
    with file.open(encoding="utf-8") as stream, pytest.raises(CommandError, match=r"case\.yaml") as caught:
        policy_eval(stream)
    assert caught.value.code == ExitCode.USAGE


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n---\n"])
def test_files_without_any_document_are_an_error_and_one_beside_others_is_not(tmp_path: Path, text: str) -> None:
    (tmp_path / "empty.yaml").write_text(text)
    output = io.StringIO()
    assert lint_files([str(tmp_path)], "north", output=output) == ExitCode.CHECK_FAILED
    assert output.getvalue().startswith("error: nothing to read: no file holds a document")
    (tmp_path / "other.yaml").write_text(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec: {endpointSelector: {}, ingress: [{}]}\n"
    )
    output = io.StringIO()
    assert lint_files([str(tmp_path)], "north", output=output) == ExitCode.OK
