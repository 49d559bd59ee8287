# SPDX-License-Identifier: Apache-2.0
"""`enable --set`: every setting of both programs is reachable or decided by enable and the manifests, and is kept."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.settings import AgentSettings
from clustermesh_apiserver.settings import ApiserverSettings
from clustermesh_cli.commands.disable import workloads
from clustermesh_cli.commands.enable import EnableOptions, plan_objects
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.manifests import load_settings
from clustermesh_cli.plan.cluster_identity import ClusterIdentity
from clustermesh_cli.plan.exposure import Exposure, ExposureWish
from clustermesh_cli.plan.program_settings import FIXED, OF_ENABLE, flags_of, parse_settings, settings_in
from meshkit.settings import Settings, describe, make_parser, resolve
from meshmodel.names import ClusterId, ClusterName
from relay.settings import RelaySettings

PROGRAMS: dict[str, type[Settings]] = {"agent": AgentSettings, "apiserver": ApiserverSettings, "relay": RelaySettings}
KNOWN = load_settings()
VALUES = {"int": "300", "float": "900.5", "str": "10.0.0.0/8", "path": "/tmp/x", "bool": "yes"}


def test_the_file_says_what_the_programs_define() -> None:
    path = Path(str(files("deploy") / "settings.yaml"))
    found = {program: describe(cls) for program, cls in PROGRAMS.items()}
    if os.environ.get("SCRIPT_UPDATE"):
        head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
        path.write_text(head + yaml.safe_dump(found, sort_keys=True, default_flow_style=None, width=130))
    assert yaml.safe_load(path.read_text()) == found


@pytest.mark.parametrize(
    ("program", "name"), [(program, name) for program in PROGRAMS for name in sorted(KNOWN[program])], ids="-".join
)
def test_every_setting_is_reachable_or_decided(program: str, name: str) -> None:
    """What is set is a flag that the program understands, as the value that was meant."""
    setting = KNOWN[program][name]
    value = setting.choices[-1] if setting.choices else VALUES[setting.type]
    given = f"{program}.{name}={value}"
    if name in FIXED[program] | OF_ENABLE[program]:
        with pytest.raises(CommandError, match="decided by") as caught:
            parse_settings([given], KNOWN)
        assert caught.value.code == ExitCode.REFUSED
        return
    config = {key: text for key, text in parse_settings([given], KNOWN).items() if text}
    (flag,) = flags_of(program, settings_in(config, KNOWN), KNOWN)
    cls = PROGRAMS[program]
    needed = ["--cluster-name=north", *(["--cluster-id=1"] if program != "relay" else [])]
    if name == "service-export-mode":
        assert flag == f"--{name}={value}"
        return
    settings = resolve(cls, vars(make_parser(cls).parse_args([*needed, flag])), {})
    found = settings.effective()[name]
    assert str(found if not isinstance(found, list) else ",".join(map(str, found))) in {
        value,
        value.replace("yes", "True"),
    }


def test_what_is_decided_exists_and_what_manifests_say_is_decided() -> None:
    for program in PROGRAMS:
        assert (FIXED[program] | OF_ENABLE[program]) <= KNOWN[program].keys()
        assert not FIXED[program] & OF_ENABLE[program]
    pods = {o["metadata"]["name"]: o for o in workloads("x") if o["kind"] in ("Deployment", "DaemonSet")}
    for program in PROGRAMS:
        arguments = pods[f"clustermesh-{program}"]["spec"]["template"]["spec"]["containers"][0]["args"]
        names = {a.removeprefix("--").partition("=")[0].removeprefix("no-") for a in arguments if a.startswith("--")}
        assert names - {"renew-certificates"} <= FIXED[program] | OF_ENABLE[program]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("agent.external-ip-ranges", "write agent.NAME=VALUE"),
        ("operator.x=1", "write agent.NAME=VALUE"),
        ("external-ip-ranges=10.0.0.0/8", "write agent.NAME=VALUE"),
        ("agent.external-ip-range=10.0.0.0/8", "did you mean external-ip-ranges"),
        ("agent.service-entries=many", "expected int"),
        ("apiserver.mcs-api=perhaps", "expected bool"),
        ("apiserver.source=both", "choose one of"),
        ("agent.policy-entries=", None),
    ],
)
def test_what_a_program_would_not_take_is_refused_before_anything_is_asked(given: str, words: str | None) -> None:
    if words is None:
        assert parse_settings([given], KNOWN) == {"agent.policy-entries": None}
        return
    with pytest.raises(CommandError, match=words) as caught:
        parse_settings([given], KNOWN)
    assert caught.value.code == ExitCode.USAGE


def planned(config: dict[str, str], *given: str) -> tuple[dict[str, str], list[str], list[str]]:
    """Data of the ConfigMap, and the arguments of the apiserver and the agent."""
    settings = parse_settings(given, KNOWN)
    options = EnableOptions("mesh-system", None, None, ExposureWish(), (), "apiserver", "agent", settings=settings)
    identity = ClusterIdentity(ClusterName("north"), ClusterId(1), 255)
    objects: list[dict[str, Any]] = plan_objects(options, identity, config, Exposure("NodePort", 32379))
    data = next(o["data"] for o in objects if o["kind"] == "ConfigMap")
    pods = {o["kind"]: o for o in objects if o["kind"] in ("Deployment", "DaemonSet")}
    found = [pods[kind]["spec"]["template"]["spec"]["containers"][0]["args"] for kind in ("Deployment", "DaemonSet")]
    return data, found[0], found[1]


def test_a_setting_stays_until_it_is_set_anew_or_taken_away() -> None:
    data, apiserver, agent = planned(
        {}, "agent.external-ip-ranges=192.0.2.0/24,198.51.100.0/24", "apiserver.mcs-api=true"
    )
    assert "--external-ip-ranges=192.0.2.0/24,198.51.100.0/24" in agent
    assert "--mcs-api" in apiserver
    again, apiserver, agent = planned(data, "apiserver.mcs-api=no")
    assert "--external-ip-ranges=192.0.2.0/24,198.51.100.0/24" in agent
    assert "--no-mcs-api" in apiserver
    assert "--mcs-api" not in apiserver
    last, apiserver, agent = planned(again, "apiserver.mcs-api=", "agent.external-ip-ranges=")
    assert not [flag for flag in (*apiserver, *agent) if "mcs-api" in flag or "external-ip" in flag]
    assert not [key for key in last if "." in key]


def test_what_cilium_says_of_namespaces_is_taken_unless_set_here() -> None:
    """An opt-in cluster would publish every namespace otherwise."""
    cilium = {"cluster-name": "north", "cluster-id": "1", "clustermesh-default-global-namespace": "false"}
    data, apiserver, _ = planned(cilium)
    assert "--no-default-global-namespace" in apiserver
    _, apiserver, _ = planned(data)
    assert "--no-default-global-namespace" in apiserver
    _, apiserver, _ = planned(data, "apiserver.default-global-namespace=true")
    assert "--default-global-namespace" in apiserver
    _, apiserver, _ = planned({**cilium, "clustermesh-default-global-namespace": "?"})
    assert not [flag for flag in apiserver if "global" in flag]


def test_the_relay_has_its_settings_and_knows_what_the_programs_that_it_asks_were_told() -> None:
    given = parse_settings(
        ["relay.log-level=debug", "agent.flow-port=4344", "apiserver.default-global-namespace=no"], KNOWN
    )
    options = EnableOptions("x", None, None, ExposureWish(), (), "apiserver", "agent", settings=given, relay=True)
    identity = ClusterIdentity(ClusterName("north"), ClusterId(1), 255)
    objects: list[dict[str, Any]] = plan_objects(options, identity, {}, Exposure("NodePort", 32379))
    relay = next(o for o in objects if (o["kind"], o["metadata"]["name"]) == ("Deployment", "clustermesh-relay"))
    flags = relay["spec"]["template"]["spec"]["containers"][0]["args"]
    assert flags[-3:] == ["--no-default-global-namespace", "--flow-port=4344", "--log-level=debug"]
