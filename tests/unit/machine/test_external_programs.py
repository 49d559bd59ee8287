# SPDX-License-Identifier: Apache-2.0
"""Every program that code, tests and scripts start is brought by a package that `make setup` installs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from external_programs import (
    BROUGHT_ALONG,
    INSTALLED,
    INSTALLER,
    NOT_STARTED,
    OWN,
    ROOT,
    commands_of_manifest,
    heads_of_script,
    is_on_this_machine,
    programs_of_module,
    provided,
    python_files,
)

KNOWN = set(provided()) | OWN | BROUGHT_ALONG
SCRIPTS = [*sorted(ROOT.glob("[a-z]*/**/*.sh")), ROOT / "Makefile", ROOT / ".ci" / "run"]
ADVICE = "no package of scripts/install-packages.sh is known to bring {}: add it there and to external_programs.py"


def unknown_programs(sure: set[str], possible: set[str] = frozenset()) -> set[str]:  # type: ignore[assignment]
    """What no package brings: all that is surely started, and what this machine has among the rest."""
    here = {word for word in possible if is_on_this_machine(word)}
    return {word for word in (sure | here) - NOT_STARTED if re.sub(r"-\d+$", "", word) not in KNOWN}


def in_module(text: str) -> set[str]:
    return unknown_programs(*programs_of_module(text))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_program_that_a_module_starts_is_installed() -> None:
    found = {relative(path): unknown for path in python_files() if (unknown := in_module(path.read_text()))}
    assert not found, ADVICE.format(found)


def test_every_program_that_a_script_starts_is_installed() -> None:
    found = {relative(path): unknown_programs(set(), heads_of_script(path.read_text())) for path in SCRIPTS}
    assert not any(found.values()), ADVICE.format(found)


def test_every_program_that_a_pod_of_a_manifest_starts_is_installed() -> None:
    everything = [path for folder in ("lab", "deploy") for path in sorted((ROOT / folder).rglob("*.yaml"))]
    # the chart's templates are written from deploy/manifests
    paths = [path for path in everything if "chart" not in path.parts]
    found = {relative(path): unknown_programs(set(), commands_of_manifest(path.read_text())) for path in paths}
    assert not any(found.values()), ADVICE.format(found)


@pytest.mark.parametrize(
    "line",
    [
        'subprocess.run(["tcpdump", "-n"], check=True)',
        'await asyncio.create_subprocess_exec("/usr/sbin/tcpdump", "-n")',
        'shutil.which("tcpdump")',
        'run("ip", "netns", "exec", pod.namespace, "tcpdump", "-c", "2")',
        'command = [*mounts, "--", "tcpdump"]',
    ],
)
def test_a_program_that_no_package_brings_is_found(line: str) -> None:
    assert in_module(f"async def f():\n    {line}") == {"tcpdump"}


def test_a_program_of_this_machine_is_everythingwherever_an_argument_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "is_on_this_machine", lambda word: word == "tcpdump")
    for line in ('on_node(lab, source, "tcpdump", "-c1")', 'pod("sh", "-c", "sleep 1; X=1 tcpdump -c1 | wc -l")'):
        assert in_module(line) == {"tcpdump"}
    assert heads_of_script("if true; then tcpdump -n; fi # ping\n") >= {"tcpdump"}


def test_the_reviewed_packages_are_the_installed_ones() -> None:
    listed = re.search(r"packages=\((.*?)\n\)", INSTALLER.read_text(), re.DOTALL)
    assert listed
    packages = {word for line in listed[1].splitlines() for word in line.split("#")[0].split()}
    libraries = {"libbpf-dev", "libbpf1", "libc6-dev"}
    assert packages == set(INSTALLED) - {"kubernetes-client"} | libraries
    assert "kubernetes-client" in INSTALLER.read_text()
