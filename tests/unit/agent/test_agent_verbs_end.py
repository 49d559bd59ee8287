# SPDX-License-Identifier: Apache-2.0
"""Every verb of the agent's command says at most one line where its answer cannot be written, and ends with 1."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Final

import msgspec
import pytest
import yaml

from agent.cli.verbs import main
from meshapi.agent import AgentStatus, EndpointRow, NamesForgotten, PolicyList, Verification
from meshapi.row import encode
from meshkit.answer_form import AnswerForm

ANSWERS: Final = {
    "/v1/status": encode(AgentStatus(node="n1", ready=True, started=86_400.0)),
    "/v1/policy": encode(PolicyList(revision=1, policies=[])),
    "/v1/verify": encode(Verification(node="n1")),
    "/v1/repair": encode(Verification(node="n1")),
    "/v1/endpoints": encode([EndpointRow(7, "10.1.0.7", 70_000, True, True)]),
    "/v1/fqdn/cache/clean": encode(NamesForgotten(forgotten=0)),
    "/v1/tables": b"services",
    "/v1/flows": b"{}\n",
}
VERBS: Final = (
    "status", "service list", "bpf lb list", "bpf ipcache list", "bpf policy get 7", "node list", "identity list",
    "fqdn cache list", "fqdn cache clean",
    "endpoint list", "policy get", "policy selectors", "table show", "verify", "verify --repair", "monitor",
    "troubleshoot clustermesh --clustermesh-config /nowhere",
)  # fmt: skip
WHOLE: Final = "from agent.app import main; main()"


class Answers(BaseHTTPRequestHandler):
    """What an agent with nothing to tell answers."""

    def do_GET(self) -> None:
        body = ANSWERS.get(self.path.partition("?")[0], b"[]")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the name that the library looks for

    def log_message(self, *_words: object) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("agent") / "agent.sock"
    with ThreadingUnixStreamServer(str(path), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def run(verb: str, socket: Path, stdout: int, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WHOLE, *verb.split(), "--socket", str(socket), *words]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False)


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_one_line_and_a_closed_pipe_none(verb: str, socket: Path) -> None:
    well = run(verb, socket, subprocess.PIPE)
    assert (well.stderr, bool(well.stdout)) == ("", True)
    full = os.open("/dev/full", os.O_WRONLY)
    done = run(verb, socket, full)
    os.close(full)
    assert (done.returncode, done.stderr) == (1, "Error: the answer cannot be written: No space left on device\n")
    reading, writing = os.pipe()
    os.close(reading)
    done = run(verb, socket, writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("form", AnswerForm)
def test_a_status_has_every_form(form: str, socket: Path) -> None:
    done = run("status", socket, subprocess.PIPE, "-o", form)
    assert done.returncode == 0
    assert {"table": "Node:", "json": '"node": "n1"', "yaml": "node: n1"}[form] in done.stdout


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "monitor"])
def test_every_document_has_a_schema_number_and_no_seconds_since_1970(
    verb: str, socket: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*verb.split(), "--socket", str(socket), "-o", "json"])
    document = msgspec.json.decode(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document.get("started", "1970-01-02T00:00:00Z") == "1970-01-02T00:00:00Z"
    main([*verb.split(), "--socket", str(socket), "-o", "yaml"])
    assert yaml.safe_load(capsys.readouterr().out) == document
