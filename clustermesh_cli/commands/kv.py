# SPDX-License-Identifier: Apache-2.0
"""`clustermesh kv ls | get | watch`: what the cluster's private store holds, decoded. Asked through its apiserver."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar
from urllib.parse import urlencode

import msgspec
import yaml

from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.program_client import ProgramClient
from clustermesh_cli.store_record import CONFIGS, Decoded, Known, decode, one_line, read_configs
from kube.client import KubeClient
from kube.errors import KubeError, Unreachable
from meshapi.apiserver import StoreEntry, StoreEvent, StorePage
from meshapi.row import SCHEMA
from meshkit.decoding import decode_as
from meshkit.refusal import read_refusal
from meshkit.text import visible_cell

PAGE: Final = 500
SILENCE_S: Final = 30.0

_T = TypeVar("_T")


class OutputForm(StrEnum):
    """How records are shown: for reading, one JSON object a line, a YAML document each, or the bytes as they are."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    RAW = "raw"


def parse_form(text: str) -> OutputForm:
    """Raises: CommandError (usage) for any other word."""
    if text not in list(OutputForm):
        raise CommandError(f"--output {text}: choose {', '.join(OutputForm)}", ExitCode.USAGE)
    return OutputForm(text)


@dataclass(frozen=True, slots=True)
class Shown:
    """One key as the store holds it. `event` is set in a watch."""

    key: str
    value: bytes
    revision: int
    lease: str = ""
    event: str = ""


class ReadableStore:
    """The store of one cluster, read only."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._programs = ProgramClient(client, namespace)

    def known(self) -> Known:
        """What records are judged by."""
        return read_configs((entry.key, entry.value) for entry in self.entries(CONFIGS))

    def entries(self, prefix: str, *, keys_only: bool = False) -> Iterator[Shown]:
        """Every key under the prefix, page by page."""
        after = ""
        while True:
            query = {"prefix": prefix, "after": after, "limit": PAGE, "keys_only": str(keys_only).lower()}
            page = self._ask("v1/kv", StorePage, query)
            found = [_shown(entry) for entry in page.entries]
            yield from found
            if not page.more:
                return
            after = found[-1].key

    def get(self, key: str) -> Shown:
        """One key. Raises: CommandError if there is none."""
        return _shown(self._ask("v1/kv/get", StoreEntry, {"key": key}))

    def changes(self, prefix: str) -> Iterator[Shown]:
        """What is there, then every change; ends when the connection does."""
        stream = self._programs.follow_apiserver("v1/kv/watch", {"prefix": prefix}, SILENCE_S)
        buffer = b""
        try:
            while data := stream.read():
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    if line.startswith(b"data: "):
                        yield _shown(decode_as(line[6:], StoreEvent))
        except Unreachable as exc:
            raise CommandError(f"the watch ended: {exc}") from exc
        finally:
            stream.close()

    def _ask(self, path: str, answer: type[_T], query: Mapping[str, object]) -> _T:
        try:
            code, body = self._programs.get_apiserver(f"{path}?{urlencode(query)}")
            if code == 200:
                return decode_as(body, answer)
        except (KubeError, msgspec.DecodeError) as exc:
            raise CommandError(f"clustermesh-apiserver does not answer: {exc}") from exc
        raise CommandError(read_refusal(body) or f"clustermesh-apiserver answered HTTP {code}", _exit_code(code))


def ls(store: ReadableStore, prefix: str, form: OutputForm, console: Console) -> None:
    """Print every key under the prefix with its value, or with `raw` the keys alone."""
    known = Known() if form is OutputForm.RAW else store.known()
    for shown in store.entries(prefix, keys_only=form is OutputForm.RAW):
        if form is OutputForm.RAW:
            console.line(visible_cell(shown.key))
        else:
            console.line(_line(shown, known, form))


def get(store: ReadableStore, key: str, form: OutputForm, console: Console) -> None:
    """Print one record: spelled out, as JSON with what is known about it, or its bytes as text."""
    shown = store.get(key)
    if form is OutputForm.RAW:
        console.line(shown.value.decode("utf-8", "backslashreplace"))
        return
    decoded = decode(key, shown.value, store.known())
    if form in (OutputForm.JSON, OutputForm.YAML):
        console.line(_document(shown, decoded, form))
        return
    about = f"{decoded.kind}{' of ' + decoded.cluster if decoded.cluster else ''}, revision {shown.revision}"
    console.line(f"{key}  ({about}{', lease ' + shown.lease if shown.lease else ''})")
    said = decoded.value
    console.line(said if isinstance(said, str) else msgspec.json.format(msgspec.json.encode(said), indent=2).decode())
    if decoded.problem:
        console.warn(f"readers refuse it: {decoded.problem}")


def watch(store: ReadableStore, prefix: str, form: OutputForm, console: Console, *, limit: int = 0) -> None:
    """Print what is there, then every change as it comes; with a limit, stop after so many lines."""
    known = store.known()
    for count, shown in enumerate(store.changes(prefix), 1):
        if shown.key.startswith(CONFIGS):
            known = store.known()
        console.line(_mark(shown, form) if not shown.key else _line(shown, known, form))
        if count == limit:
            return


def _line(shown: Shown, known: Known, form: OutputForm) -> str:
    decoded = decode(shown.key, shown.value, known)
    if shown.event == "delete":
        decoded = Decoded(decoded.kind, decoded.cluster, "")
    if form in (OutputForm.JSON, OutputForm.YAML):
        return _document(shown, decoded, form)
    head = f"{shown.event:<7} " if shown.event else ""
    text = shown.value.decode("utf-8", "backslashreplace") if form is OutputForm.RAW else one_line(decoded)
    return f"{head}{visible_cell(shown.key)}  {text}".rstrip()


def _mark(shown: Shown, form: OutputForm) -> str:
    """That a watch has told everything there was, or was interrupted."""
    return shown.event if form in (OutputForm.TABLE, OutputForm.RAW) else _written({"event": shown.event}, form)


def _document(shown: Shown, decoded: Decoded, form: OutputForm) -> str:
    facts = {
        "event": shown.event,
        "key": shown.key,
        "kind": decoded.kind,
        "cluster": decoded.cluster,
        "revision": shown.revision,
        "lease": shown.lease,
        "value": decoded.value,
        "problem": decoded.problem,
    }
    return _written({name: fact for name, fact in facts.items() if fact != "" or name == "value"}, form)


def _written(facts: Mapping[str, object], form: OutputForm) -> str:
    document = {"schema": SCHEMA, **facts}
    if form is OutputForm.JSON:
        return msgspec.json.encode(document).decode()
    return "---\n" + yaml.safe_dump(msgspec.to_builtins(document), sort_keys=False).rstrip("\n")


def _shown(entry: StoreEntry | StoreEvent) -> Shown:
    return Shown(
        key=entry.key,
        value=base64.b64decode(entry.value or ""),
        revision=entry.revision,
        lease=entry.lease if isinstance(entry, StoreEntry) else "",
        event=entry.event if isinstance(entry, StoreEvent) else "",
    )


def _exit_code(status: int) -> ExitCode:
    return ExitCode.USAGE if status == 400 else ExitCode.INTERNAL
