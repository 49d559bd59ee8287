# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.bench [SUITE]`: run one suite or all, print the figures and keep them as build/bench/<suite>.json."""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from pathlib import Path

SUITES = ("slice", "wire", "policy", "loadbalancer", "datapath", "command", "observe", "l7")
OUTPUT = Path("build/bench")


def main(wanted: list[str]) -> int:
    unknown = [name for name in wanted if name not in SUITES]
    if unknown:
        print(f"unknown suite {', '.join(unknown)}: choose of {', '.join(SUITES)}", file=sys.stderr)
        return 2
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name in wanted or SUITES:
        figures = importlib.import_module(f"tests.bench.{name}.run").run()
        machine = {"kernel": platform.release(), "python": platform.python_version(), "cores": os.cpu_count()}
        text = json.dumps({"suite": name, "machine": machine, "figures": figures}, indent=2, sort_keys=False)
        (OUTPUT / f"{name}.json").write_text(text + "\n")
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
