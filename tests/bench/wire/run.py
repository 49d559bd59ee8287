# SPDX-License-Identifier: Apache-2.0
"""`make bench SUITE=wire`; `python -m tests.bench.wire.run PART...` for some parts only."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from tests.bench.wire import measurements
from tests.bench.wire.targets import judge

Part = Callable[[Path], Awaitable[dict[str, Any]]]

PARTS: dict[str, Part] = {
    "publish": measurements.publish,
    "publish_small": measurements.publish_small,
    "first_sync": measurements.first_sync,
    "mirror": measurements.mirror,
    "services": measurements.services,
    "facade": measurements.facade,
    "change": measurements.change,
}


def run(wanted: Sequence[str] = ()) -> dict[str, Any]:
    """The figures of the parts, all of them unless some are named, and how they stand to the targets."""
    figures = asyncio.run(_run(wanted or tuple(PARTS)))
    return {"targets": judge(figures), **figures}


async def _run(wanted: Sequence[str]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="clustermesh-wire-") as folder:
        for name in wanted:
            started = time.monotonic()
            directory = Path(folder) / name
            directory.mkdir()
            figures[name] = await PARTS[name](directory)
            print(f"wire: {name} took {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return figures


def main(wanted: list[str]) -> int:
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        print(f"unknown part {', '.join(unknown)}: choose of {', '.join(PARTS)}", file=sys.stderr)
        return 2
    print(json.dumps(run(wanted), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
