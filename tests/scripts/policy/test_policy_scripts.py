# SPDX-License-Identifier: Apache-2.0
"""Policies as an operator would tell them: each .txtar file beside this one is a story, one command per line.

cluster NAME                      the local cluster (before anything else)
scope any | local                 policy-default-local-cluster off or on
pod NAME [@CLUSTER] LABEL...      a pod of namespace default (or namespace=NS), plain labels are k8s:
id NAME LABEL...                  anybody else, labels as source:key=value
address NAME IP                   where somebody outside the mesh is
apply FILE...                     policies in force from here on
remove FILE...                    and not any more
problem FILE TEXT                 the file is accepted, but a problem or warning of it contains TEXT
refused FILE TEXT                 the file is invalid, and the error contains TEXT
A -> B PORT/PROTO EGRESS INGRESS [METHOD PATH]
                                  the verdict of each side, + or -, on the connection, or on that request of it
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from meshmodel.labels import pod_labels
from meshpolicy import PolicyContext, PolicyError, parse_policy
from meshpolicy.evaluate import evaluate_case
from meshpolicy.proxy_ports import ProxyPorts
from tests.support.script import Script, scripts_in

SIGNS = {"+": "allowed", "-": "denied"}


class Story(Script):
    """What the commands so far amount to: one case of `policy eval`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.cluster, self.scope = "default", ""
        self.ids: dict[str, list[str]] = {}
        self.ips: dict[str, str] = {}
        self.applied: dict[str, str] = {}

    def do(self, words: list[str]) -> None:
        if "->" in words:
            self.check(words)
        else:
            super().do(words)

    def do_cluster(self, name: str) -> None:
        self.cluster = name

    def do_scope(self, word: str) -> None:
        self.scope = {"any": "", "local": self.cluster}[word]

    def do_pod(self, name: str, *words: str) -> None:
        cluster, namespace, labels, others = self.cluster, "default", {}, []
        for word in words:
            key, _, value = word.partition("=")
            if word.startswith("@"):
                cluster = word[1:]
            elif key == "namespace":
                namespace = value
            elif ":" in key:
                others.append(word)
            else:
                labels[key] = value
        known = pod_labels(
            labels,
            namespace=namespace,
            namespace_labels={"kubernetes.io/metadata.name": namespace},
            service_account="default",
            cluster=cluster,
        )
        self.ids[name] = [*map(str, known), *others]

    def do_id(self, name: str, *labels: str) -> None:
        self.ids[name] = list(labels)

    def do_address(self, name: str, address: str) -> None:
        self.ips[name] = address

    def do_apply(self, *names: str) -> None:
        self.applied.update({name: self.section(name) for name in names})

    def do_remove(self, *names: str) -> None:
        for name in names:
            del self.applied[name]

    def do_problem(self, name: str, *text: str) -> None:
        context = PolicyContext(self.cluster, bool(self.scope), proxy_ports=ProxyPorts())
        policy = parse_policy(yaml.safe_load(self.section(name)), context)
        assert " ".join(text) in "\n".join((*policy.problems, *policy.warnings))

    def do_refused(self, name: str, *text: str) -> None:
        with pytest.raises(PolicyError) as caught:
            parse_policy(yaml.safe_load(self.section(name)), PolicyContext(self.cluster))
        assert " ".join(text) in str(caught.value)

    def check(self, words: list[str]) -> None:
        source, _, destination, where, egress, ingress, *request = words
        port, _, protocol = where.partition("/")
        answer = evaluate_case(
            {
                "cluster": self.cluster,
                "scope": self.scope,
                "ids": self.ids,
                "ips": self.ips,
                "policies": list(self.applied.values()),
                "flows": [[source, destination, protocol, int(port), *([" ".join(request)] if request else [])]],
            }
        )
        assert answer == {"errors": [], "verdicts": [[SIGNS[egress], SIGNS[ingress]]]}


@pytest.mark.parametrize("path", scripts_in(Path(__file__).parent), ids=lambda path: path.stem)
def test_story(path: Path) -> None:
    Story.run_file(path)
