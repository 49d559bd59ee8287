# SPDX-License-Identifier: Apache-2.0
"""The wheel as a user gets it: a source distribution of the tracked files, unpacked, built, and installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[3]
_BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def copy_tracked(folder: Path, *, with_objects: bool) -> None:
    """What a clone has, in the state of the working tree; the BPF objects that `make bpf` made, if wanted."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True).stdout.decode()
    objects = [str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "agent/datapath/bpf").glob("*.o")]
    for name in [*listed.rstrip("\0").split("\0"), *(objects if with_objects else ())]:
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)


def build(what: str, source: Path, into: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`what` is build_sdist or build_wheel, of the build backend that pyproject.toml names."""
    into.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", _BUILD, what, str(into)],
        cwd=source, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def build_wheel(folder: Path) -> Path:
    """Through a source distribution, in a folder of the test."""
    copy_tracked(clone := folder / "clone", with_objects=True)
    made = build("build_sdist", clone, folder / "sdist")
    assert made.returncode == 0, made.stderr
    (unpacked := folder / "unpacked").mkdir()
    subprocess.run(["tar", "-xzf", next((folder / "sdist").glob("*.tar.gz")), "-C", unpacked], check=True)
    # without a compiler, or any other program
    (empty := folder / "empty").mkdir()
    made = build("build_wheel", next(unpacked.iterdir()), folder / "wheel", PATH=str(empty))
    assert made.returncode == 0, made.stderr
    return next((folder / "wheel").glob("*.whl"))


def install(wheel: Path, into: Path) -> Path:
    """A virtual environment with the wheel and what it requires, taken from this one, and nothing else; its bin folder."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", into], check=True)
    python = into / "bin" / "python"
    words = ["--python", str(python), "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([sys.executable, "-m", "pip", *words, wheel], check=True)
    packages = next((into / "lib").glob("python*")) / "site-packages"
    (own,) = packages.glob("clustermesh-*.dist-info")
    for found in _required(Distribution.at(own)).values():
        for entry in {path.parts[0] for path in found.files or () if path.parts[0] not in {"..", "__pycache__"}}:
            (packages / entry).exists() or (packages / entry).symlink_to(Path(str(found.locate_file(entry))))
    return into / "bin"


def _required(of: Distribution) -> dict[str, Distribution]:
    """Transitively, without extras that nobody asks for."""
    found: dict[str, Distribution] = {}
    open_ = [(of, frozenset[str]())]
    while open_:
        current, extras = open_.pop()
        for requirement in map(Requirement, current.requires or ()):
            wanted = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}
            )
            if wanted and requirement.name not in found:
                found[requirement.name] = distribution(requirement.name)
                open_.append((found[requirement.name], frozenset(requirement.extras)))
    return found
