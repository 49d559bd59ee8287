# SPDX-License-Identifier: Apache-2.0
"""A distribution carries the BPF objects: compiled when they are missing or older than a source, refused when they cannot be.

Everything else about the package is in pyproject.toml. An editable installation takes what `make bpf` makes.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist
from setuptools.errors import ExecError

BPF = Path(__file__).parent / "agent/datapath/bpf"


def compile_objects() -> None:
    """Raises: ExecError where an object is needed and the compiler fails or is not there."""
    sources = [*BPF.rglob("*.c"), *BPF.rglob("*.h")]
    newest = max(path.stat().st_mtime for path in sources)
    objects = [path.with_suffix(".o") for path in BPF.glob("*.bpf.c")]
    if all(path.exists() and path.stat().st_mtime >= newest for path in objects):
        return
    try:
        subprocess.run(["bash", BPF / "build.sh"], check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        why = "the BPF objects cannot be compiled: install clang and the headers of the C library and of libbpf"
        raise ExecError(f"{why} ({exc})") from exc


class BuildWithObjects(build_py):
    """Into a wheel."""

    def run(self) -> None:
        if not self.editable_mode:
            compile_objects()
        super().run()


class SourceWithObjects(sdist):
    """Into a source distribution, so that a machine without a compiler builds the same wheel from it."""

    def run(self) -> None:
        compile_objects()
        super().run()


setup(cmdclass={"build_py": BuildWithObjects, "sdist": SourceWithObjects})
