# SPDX-License-Identifier: Apache-2.0
"""What an image consists of: its Debian packages and Python distributions, as a CycloneDX document on standard output.

    python3 materials.py [ROOT]

Nothing but the standard library: it runs in the image that it describes. The same image gives the same bytes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

DPKG: Final = "var/lib/dpkg/status"
METADATA: Final = ("opt/clustermesh/lib/python3*/site-packages/*.dist-info/METADATA", "opt/envoy/*.dist-info/METADATA")


def describe(root: Path) -> dict[str, Any]:
    """The document: each part once, by its package URL.

    Raises: OSError where the root has no list of Debian packages.
    """
    parts = {part["purl"]: part for part in (*_debian(root), *_python(root))}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "components": [parts[purl] for purl in sorted(parts)],
    }


def _debian(root: Path) -> Iterator[dict[str, Any]]:
    for paragraph in (root / DPKG).read_text(encoding="utf-8").split("\n\n"):
        fields = HeaderParser().parsestr(paragraph)
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={fields['Architecture']}"
            yield _part("library", name, version, purl)


def _python(root: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(found for pattern in METADATA for found in root.glob(pattern)):
        fields = HeaderParser().parsestr(path.read_text(encoding="utf-8"))
        name, version = re.sub(r"[-_.]+", "-", fields["Name"]).lower(), fields["Version"]
        kind = "application" if name == "clustermesh" else "library"
        yield {**_part(kind, name, version, f"pkg:pypi/{quote(name)}@{quote(version)}"), **_licence(fields)}


def _licence(fields: Message) -> dict[str, Any]:
    expression = fields.get("License-Expression")
    return {"licenses": [{"expression": str(expression)}]} if expression else {}


def _part(kind: str, name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": kind, "name": name, "version": version, "purl": purl, "bom-ref": purl}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe(Path(*sys.argv[1:2] or ["/"])), indent=1) + "\n")
