# SPDX-License-Identifier: Apache-2.0
"""`python -m lab`, which is also `clustermesh lab`: a mesh on this machine, by hand."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from lab import cleanup, faults, mesh
from lab.names import DEFAULT_NAME, LabNameError, LabNames, lab_names
from lab.pod_network import Cni
from lab.topology import CLUSTERS, POSSIBLE, node_named
from lab.walkthrough import replay

app = typer.Typer(
    name="lab",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Kubernetes clusters on this machine, to be one mesh: nodes are network namespaces, pods are processes.",
)
Name = Annotated[str, typer.Option("--name", help="which lab; two labs with different names run side by side")]


def main() -> None:
    """Run the command; every failure is one line, 2 is wrong use."""
    if os.geteuid() != 0:
        sys.exit("Error: a lab needs root, for network namespaces and BPF")
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        sys.exit(130)
    except TyperException as exc:
        message = exc.format_message()
        if not message.startswith("Usage: ") and "\n" not in message.strip():
            message = f"Error: {message.rstrip('.')}. See clustermesh lab --help."
        print(message, file=sys.stderr)
        sys.exit(2)
    except (mesh.LabError, LabNameError, faults.UnknownPlaceError, OSError) as exc:
        sys.exit(f"Error: {exc}")
    sys.exit(code if isinstance(code, int) else 0)


@app.command()
def up(
    name: Name = DEFAULT_NAME,
    size: Annotated[
        int,
        typer.Option("--clusters", min=len(CLUSTERS), max=len(POSSIBLE), help="how many; the third has two nodes"),
    ] = len(CLUSTERS),
    cni: Annotated[
        Cni, typer.Option("--cni", help="how pods reach their nodes, as different CNI plugins do it")
    ] = Cni.ROUTED,
    images: Annotated[
        Path | None,
        typer.Option("--images", exists=True, file_okay=False, help="directory of unpacked images; see docs/lab.md"),
    ] = None,
) -> None:
    """Bring the lab up (nothing happens if it is) and say how to use it."""
    lab = lab_names(name)
    before_s = time.monotonic()
    mesh.up(lab, size, cni, images)
    print(
        f"lab {name!r} is up after {time.monotonic() - before_s:.1f} s: {', '.join(c.context for c in mesh.clusters(lab))}"
    )
    for line in mesh.export_lines(lab):
        print(f"  {line}")


@app.command()
def down(name: Name = DEFAULT_NAME) -> None:
    """Remove the lab: its processes, namespaces, mounts, maps and files."""
    cleanup.remove_lab(lab_names(name))
    print(f"lab {name!r} is gone")


@app.command()
def clean() -> None:
    """Remove every lab on this machine, by name, whatever state it is in."""
    names = cleanup.remove_all_labs()
    print(f"removed: {', '.join(names)}" if names else "there was no lab")


@app.command()
def status(name: Name = DEFAULT_NAME) -> None:
    """Show whether the lab runs, and which cuts are in force; fails if it does not run."""
    lab = lab_names(name)
    for cluster in mesh.status(lab):
        word = "ready" if cluster.ready else "starting"
        print(f"{cluster.name}: {word if cluster.running else 'down'}, {cluster.processes} processes in pods")
    for first, second in faults.cuts(lab):
        print(f"cut: {first} -> {second}")
    for line in mesh.export_lines(lab):
        print(f"  {line}")
    raise typer.Exit(0 if mesh.is_running(lab) else 1)


@app.command()
def cut(
    first: Annotated[str, typer.Argument(help="a cluster or a node")],
    second: Annotated[str, typer.Argument(help="a cluster or a node; everybody else if absent")] = "",
    name: Name = DEFAULT_NAME,
) -> None:
    """Drop everything on the underlay between two places."""
    pairs = faults.cut(_running(name), first, second or None)
    print(f"{len(pairs)} address pairs are cut")


@app.command()
def heal(
    first: Annotated[str, typer.Argument(help="a cluster or a node; without any, every cut is undone")] = "",
    second: Annotated[str, typer.Argument(help="a cluster or a node; everybody else if absent")] = "",
    name: Name = DEFAULT_NAME,
) -> None:
    """Undo cuts."""
    lab = _running(name)
    faults.heal(lab, first or None, second or None)
    print(f"{len(faults.cuts(lab))} address pairs are cut")


@app.command("exec", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def exec_(context: typer.Context, node: str, name: Name = DEFAULT_NAME) -> None:
    """Run a command on a node: lab exec koornacht-worker -- ip addr."""
    try:
        plan = node_named(node)
    except KeyError as exc:
        sys.exit(f"Error: {exc.args[0]}")
    command = context.args or ["/bin/sh"]
    argv = mesh.node_command(_running(name).node(plan.name), command)
    os.execvp(argv[0], argv)


@app.command()
def walkthrough(name: Name = DEFAULT_NAME) -> None:
    """Replay the Cluster Mesh walkthrough on a fresh lab; fails at the first step that shows something else."""
    lab = _running(name)
    if not replay(lab):
        raise typer.Exit(1)
    print("The lab stays up. To look around:")
    for line in mesh.export_lines(lab):
        print(f"  {line}")


def _running(name: str) -> LabNames:
    lab = lab_names(name)
    if not mesh.is_running(lab):
        raise mesh.LabError(f"lab {name!r} is not up: lab up --name {name}")
    return lab
