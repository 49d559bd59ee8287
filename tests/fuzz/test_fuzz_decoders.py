# SPDX-License-Identifier: Apache-2.0
"""A coverage-guided fuzzer looks at every decoder for a bounded number of inputs; seeds are our golden records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import zstandard

ROOT = Path(__file__).parents[2]
RUNS = 60_000
DECODERS = {"service": 2, "ip": 3, "node": 4, "identity": 5}
# an endpoint slice as Cilium encodes it, before compression
SLICE = bytes.fromhex(
    "0a04626c756510011a0473686f70220a636172742d78376b32702a220a1a6b756265726e657465732e696f2f"
    "736572766963652d6e616d651204636172743a044950763442280a0931302e31312e332e3712020801320762"
    "6c75652d77313a0465752d6142080a060a0465752d614a0e0a0468747470120354435018903f"
)


def test_no_input_the_fuzzer_finds_raises_anything_but_a_record_error(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "slice-frame").write_bytes(b"\x00" + zstandard.ZstdCompressor().compress(SLICE))
    (corpus / "slice-message").write_bytes(b"\x01" + SLICE)
    for golden in sorted((ROOT / "tests/golden/wire").iterdir()):
        kind = DECODERS.get(golden.name.partition("-")[0])
        if kind is not None:
            (corpus / golden.name).write_bytes(bytes([kind]) + golden.read_bytes().rstrip(b"\n"))
    target = Path(__file__).with_name("endpointslice_target.py")
    limits = [f"-atheris_runs={RUNS}", f"-runs={RUNS}", "-rss_limit_mb=1024", "-timeout=0", "-max_len=4096", "-seed=7"]
    done = subprocess.run(
        [sys.executable, str(target), *limits, f"-artifact_prefix={tmp_path}/", str(corpus)],
        capture_output=True, text=True, cwd=ROOT, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done" in done.stderr, done.stderr[-2000:]
