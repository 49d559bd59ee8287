# SPDX-License-Identifier: Apache-2.0
"""The Cluster Mesh walkthrough, from "Enable Cluster Mesh on both clusters" to its end, typed for real.

Two things differ from the text on paper: loops make more requests than ten where a split is judged, because ten
cannot tell a right one from a wrong one; and a change is given a bounded time to arrive before it is judged strictly.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable
from typing import Final

from lab import cgroup
from lab.daemon import MANIFESTS
from lab.names import LabNames
from lab.tabs import Output, Tab
from lab.transcript import MismatchError, Transcript
from lab.verdict import Expectation, Tally, both, half_silent, only, silence, tally

TEN: Final = 10
BURST: Final = 300
REQUESTS: Final = 60
SETTLE_S: Final = 15.0
SAMPLE: Final = 12
WAIT_S: Final = 180.0
LONG_S: Final = 3.0
PATIENT_S: Final = 30
"""For many clients started at once: on two busy cores a name alone may take two seconds."""
KOORNACHT, TION = "Koornacht", "Tion"
LOOP: Final = "for i in $(seq 1 {count}); do curl {options}rebel-base; done"
# each answer in one write, or the lines of many clients get mixed up
AT_ONCE: Final = 'for i in $(seq 1 {count}); do {{ r=$(curl -sS {options}rebel-base 2>&1); echo "$r"; }} & done; wait'
AGENT: Final = "k8s-app=clustermesh-agent"
DEPLOY: Final = {
    KOORNACHT: (
        "kubectl apply -f configmap_koornacht.yaml -f deployment.yaml -f service.yaml",
        "kubectl apply -f configmap_koornacht.yaml -o yaml",
        "kubectl apply -f service.yaml",
    ),
    TION: (
        "kubectl apply -f deployment.yaml",
        "kubectl apply -f configmap_tion.yaml -o yaml",
        "kubectl apply -f service.yaml",
    ),
}
SERVICE: Final = "kubectl annotate service rebel-base service.cilium.io/"


def exec_loop(count: int, options: str = "", shape: str = LOOP) -> str:
    """The walkthrough's curl loop, inside an x-wing pod."""
    script = shape.format(count=count, options=options)
    return f"kubectl exec -ti deployments/x-wing -- /bin/sh -c '{script}'"


class Walkthrough:
    """One replay. Every method types one part of the text. Raises: MismatchError at the first difference."""

    def __init__(self, lab: LabNames) -> None:
        self.lab = lab
        names = {KOORNACHT: "koornacht", TION: "tion", "Global": "global"}
        self.tabs = {tab: Tab(tab, lab.kubeconfig(name), MANIFESTS) for tab, name in names.items()}
        self.paper = Transcript()

    def run(self) -> None:
        for part in (
            self.enable,
            self.connect,
            self.deploy,
            self.make_global,
            self.kill_agents,
            self.unshare,
            self.prefer_local,
            self.prefer_remote,
            self.prefer_none,
            self.deny,
            self.allow_egress,
            self.allow_ingress_in_koornacht,
            self.allow_ingress_in_tion,
        ):
            part()

    # -- the parts of the text

    def enable(self) -> None:
        self.paper.step("Enable Cluster Mesh on both clusters")
        for tab in (KOORNACHT, TION):
            self.type_ok(tab, "clustermesh enable --service-type NodePort --with-relay", WAIT_S)
        for tab in (KOORNACHT, TION):
            self.type_ok(tab, "clustermesh status --wait", WAIT_S)

    def connect(self) -> None:
        self.paper.step("Connect the clusters")
        command = "clustermesh connect --context kind-koornacht --destination-context kind-tion --allow-flows"
        self.type_ok("Global", command, WAIT_S)
        for tab in (KOORNACHT, TION):
            self.type_ok(tab, "clustermesh status --wait", WAIT_S)

    def deploy(self) -> None:
        for tab, commands in DEPLOY.items():
            self.paper.step(f"Deploy the application on {tab}")
            for command in commands:
                self.type_ok(tab, command)
            for deployment in ("rebel-base", "x-wing"):
                self.type_ok(tab, f"kubectl rollout status deployment/{deployment} --timeout 60s")
            pods = self.type_ok(tab, "kubectl get pods -owide").text
            running = sum("Running" in line for line in pods.splitlines())
            self.paper.judge([] if running == 4 else [f"{running} pods are Running, not 4"], "all 4 pods are Running")
            self.expect(tab, only(tab), f"every answer comes from {tab}")

    def make_global(self) -> None:
        self.paper.step("Make the service global in both clusters")
        for tab in (KOORNACHT, TION):
            self.type_ok(tab, f'{SERVICE}global="true"')
        for tab in (KOORNACHT, TION):
            self.expect(tab, both(), f"{tab} reaches both clusters")

    def kill_agents(self) -> None:
        self.paper.step("Kill the agent of the client's node during the requests: not one is lost")
        node = self.client_node(KOORNACHT)
        self.lose_nothing(node, "kill -9 of the agent's process", self.kill_agent_process)
        self.lose_nothing(node, "kubectl delete pod of the agent", self.delete_agent_pod)

    def unshare(self) -> None:
        self.paper.step("Stop sharing the Koornacht service")
        self.type_ok(KOORNACHT, "kubectl scale deployment rebel-base --replicas 2")
        for tab in (KOORNACHT, TION):
            self.expect(tab, both(), f"{tab} reaches both clusters")
        self.type_ok(KOORNACHT, f'{SERVICE}shared="false"')
        self.expect(TION, only(TION), "Tion no longer reaches Koornacht's pods", context="kind-tion")
        self.expect(KOORNACHT, both(), "Koornacht still reaches both clusters")

    def prefer_local(self) -> None:
        self.paper.step("Prefer local backends: affinity=local")
        self.type_ok(KOORNACHT, f"{SERVICE}affinity=local")
        self.expect(KOORNACHT, only(KOORNACHT), "only Koornacht answers while it has pods")
        self.type_ok(KOORNACHT, "kubectl scale deployment rebel-base --replicas 0")
        self.expect(KOORNACHT, only(TION), "without pods in Koornacht all traffic goes to Tion")
        self.scale_back(KOORNACHT)
        self.expect(KOORNACHT, only(KOORNACHT), "the pods are back and get the traffic again")

    def prefer_remote(self) -> None:
        self.paper.step("The opposite effect: affinity=remote")
        self.type_ok(KOORNACHT, f"{SERVICE}affinity=remote --overwrite")
        self.expect(KOORNACHT, only(TION), "only Tion answers while it has pods")
        self.type_ok(TION, "kubectl scale deployment rebel-base --replicas 0")
        self.expect(KOORNACHT, only(KOORNACHT), "without pods in Tion all traffic stays in Koornacht")
        self.scale_back(TION)
        self.expect(KOORNACHT, only(TION), "the pods are back and get the traffic again")

    def prefer_none(self) -> None:
        self.paper.step("Remove the affinity")
        self.type_ok(KOORNACHT, f"{SERVICE}affinity-")
        self.expect(KOORNACHT, both(), "the service balances again to both clusters", "--max-time 2 ")

    def deny(self) -> None:
        self.paper.step("Deny everything by default in both clusters")
        for tab in (KOORNACHT, TION):
            self.type_ok(tab, "kubectl apply -f default-deny.yaml")
        self.expect_ten(silence(), "ten time-outs: denied packets are dropped, not refused", code=28)
        self.judge_drops()

    def allow_egress(self) -> None:
        self.paper.step("Allow x-wing in Koornacht to contact rebel-base")
        self.type_ok(KOORNACHT, "kubectl apply -f x-wing-to-rebel-base.yaml")
        self.expect_ten(silence(), "still dropped: nothing is allowed to come in yet", code=28)

    def allow_ingress_in_koornacht(self) -> None:
        self.paper.step("Allow rebel-base in Koornacht to be contacted by Koornacht's x-wing")
        self.type_ok(KOORNACHT, "kubectl apply -f rebel-base-from-x-wing.yaml")
        self.expect_at_once(half_silent(KOORNACHT), "exactly the Koornacht answers arrive; Tion's half times out")

    def allow_ingress_in_tion(self) -> None:
        self.paper.step("Allow the same in Tion")
        self.type_ok(TION, "kubectl apply -f rebel-base-from-x-wing.yaml")
        self.expect_at_once(both(), "the requests all go through", limit_s=PATIENT_S)
        self.expect(KOORNACHT, both(), "all of them, from both clusters", "--max-time 2 ")

    # -- typing and judging

    def type(self, tab: str, command: str, limit_s: float = WAIT_S) -> Output:
        self.paper.typed(tab, command)
        output = self.tabs[tab].run(command, limit_s)
        self.paper.came_back(output.text)
        if output.took_s > LONG_S:
            self.paper.note(f"took {output.took_s:.1f} s")
        return output

    def type_ok(self, tab: str, command: str, limit_s: float = WAIT_S) -> Output:
        output = self.type(tab, command, limit_s)
        if output.code:
            self.paper.judge([f"exit code {output.code}"], "")
        return output

    def expect(self, tab: str, wanted: Expectation, right: str, options: str = "", context: str = "") -> None:
        """A loop of requests one after the other ends as wanted."""
        self.settle(tab, wanted)
        command = exec_loop(REQUESTS, options)
        if context:
            command = command.replace("kubectl exec", f"kubectl --context {context} exec", 1)
        output = self.type(tab, command)
        self.judge_loop(output, wanted, REQUESTS, right)

    def expect_ten(self, wanted: Expectation, right: str, *, code: int) -> None:
        """The ten requests of the text, with its two seconds each."""
        self.settle(KOORNACHT, wanted)
        output = self.type(KOORNACHT, exec_loop(TEN, "--max-time 2 "))
        problems = [] if output.code == code else [f"exit code {output.code}, not {code}"]
        self.judge_loop(output, wanted, TEN, right, problems)

    def expect_at_once(self, wanted: Expectation, right: str, *, limit_s: int = 2) -> None:
        """Many requests side by side, each with so long to be answered."""
        self.settle(KOORNACHT, wanted)
        output = self.type(KOORNACHT, exec_loop(REQUESTS, f"--max-time {limit_s} ", AT_ONCE))
        self.judge_loop(output, wanted, REQUESTS, right)

    def judge_loop(
        self, output: Output, wanted: Expectation, requests: int, right: str, problems: list[str] | None = None
    ) -> None:
        found = tally(output.text)
        self.paper.judge([*(problems or []), *wanted.problems(found, requests)], f"{right} ({found})")

    def settle(self, tab: str, wanted: Expectation) -> None:
        """Wait until a small sample looks right, at most so long; what follows is judged whatever it shows."""
        since_s = time.monotonic()
        command = exec_loop(SAMPLE, "--max-time 2 ", AT_ONCE)
        while True:
            started_s = time.monotonic()
            found: Tally = tally(self.tabs[tab].run(command).text)
            if wanted.is_reached(found) or started_s - since_s > SETTLE_S:
                self.paper.note(f"in effect within {started_s - since_s:.1f} s")
                return

    def scale_back(self, tab: str) -> None:
        self.type_ok(tab, "kubectl scale deployment rebel-base --replicas 2")
        self.type_ok(tab, "kubectl rollout status deployment/rebel-base --timeout 60s")

    # -- agents

    def client_node(self, tab: str) -> str:
        """The node of the x-wing pod that `kubectl exec deployments/x-wing` enters."""
        pod = self.quiet(tab, "kubectl exec deployments/x-wing -- hostname")
        return self.quiet(tab, f"kubectl get pod {shlex.quote(pod)} -o jsonpath={{.spec.nodeName}}")

    def agent_on(self, node: str, field: str) -> str:
        """One field of the agent pod on the node."""
        where = f"-n kube-system -l {AGENT} --field-selector spec.nodeName={node}"
        return self.quiet(KOORNACHT, f"kubectl get pods {where} -o jsonpath='{{.items[0].{field}}}'")

    def quiet(self, tab: str, command: str) -> str:
        output = self.tabs[tab].run(command)
        if output.code:
            raise MismatchError(f"{command}: {output.text.strip()}")
        return output.text.strip().splitlines()[-1] if output.text.strip() else ""

    def lose_nothing(self, node: str, what: str, kill: Callable[[str], None]) -> None:
        command = exec_loop(BURST, "--max-time 2 ")
        self.paper.typed(KOORNACHT, command)
        loop = self.tabs[KOORNACHT].start(command)
        while not tally(loop.read(0.1)).total:
            pass
        self.paper.note(f"{what} on {node}")
        kill(node)
        done = tally(loop.read(0.05)).total
        output = loop.finish(WAIT_S)
        self.paper.came_back(output.text)
        late = [] if done < BURST else ["the requests were over before the agent was gone"]
        self.judge_loop(output, both(), BURST, f"{what} after {done} requests: none was lost", late)
        self.type_ok(KOORNACHT, "kubectl rollout status -n kube-system ds/clustermesh-agent --timeout 60s")

    def kill_agent_process(self, node: str) -> None:
        """As the machine's own kill would: everything in the pod's control group."""
        group = self.lab.node(node).cgroup / f"pod-{self.agent_on(node, 'metadata.uid')[:13]}"
        found = cgroup.processes(group)
        if not found:
            raise MismatchError(f"no agent runs on {node}")
        for pid in found:
            os.kill(pid, signal.SIGKILL)

    def delete_agent_pod(self, node: str) -> None:
        name = self.agent_on(node, "metadata.name")
        self.type_ok(KOORNACHT, f"kubectl delete pod -n kube-system {name}")

    def judge_drops(self) -> None:
        """The agent of the client's node shows what became of the ten requests."""
        pod = self.agent_on(self.client_node(KOORNACHT), "metadata.name")
        shown = self.type_ok(
            KOORNACHT, f"kubectl exec -n kube-system {pod} -- clustermesh-agent monitor --type drop"
        ).text
        lines = [
            line for line in shown.splitlines() if "default/x-wing" in line and ":80 " in line and "DROPPED" in line
        ]
        problems = [] if len(lines) >= TEN else [f"{len(lines)} drops from x-wing to port 80 are shown, not {TEN}"]
        self.paper.judge(problems, f"{len(lines)} drops are shown, each with its client, its target and the reason")


def replay(lab: LabNames) -> bool:
    """The whole text; says whether everything was as it says."""
    since_s = time.monotonic()
    walkthrough = Walkthrough(lab)
    try:
        walkthrough.run()
    except MismatchError as exc:
        print(f"\nMISMATCH in step {walkthrough.paper.steps}: {exc}")
        return False
    paper = walkthrough.paper
    print(
        f"\nAll {paper.checks} checks in {paper.steps} steps are as the text says, in {time.monotonic() - since_s:.0f} s."
    )
    return True
