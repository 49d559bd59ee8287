# SPDX-License-Identifier: Apache-2.0
"""Which programs the repository starts, found in its files, and which Debian package brings each. Pure but for reading.

A program's name is found where an argument vector or a command line may begin: as the first word among the arguments of a
call or in a list, at the head of each command of a longer text, and at the head of each command in a shell script, a
Makefile recipe or a manifest. Many such words are no programs: `NOT_STARTED` names those that a machine might take for one.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[3]
SYSTEM_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
INSTALLER: Final = ROOT / "scripts" / "install-packages.sh"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# on every Debian, or needed by apt itself
ESSENTIAL: Final[Mapping[str, str]] = {
    "bash": "bash",
    "coreutils": "cat chmod cp cut date dirname echo env expand false head id ls mkdir mktemp mv printf pwd rm"
    " rmdir seq sleep sort stat tail tee test timeout touch tr true tty uname wc whoami yes",
    "dash": "sh",
    "debianutils": "which",
    "diffutils": "diff cmp",
    "dpkg": "dpkg dpkg-query",
    "apt": "apt-get apt-cache apt-config",
    "findutils": "find xargs",
    "grep": "grep",
    "hostname": "hostname",
    "libc-bin": "getent",
    "mawk": "awk",
    "mount": "mount umount",
    "sed": "sed",
    "tar": "tar",
}
INSTALLED: Final[Mapping[str, str]] = {
    "bpftool": "bpftool",
    "chromium": "chromium",
    "clang": "clang",
    "curl": "curl",
    "dnsutils": "dig",
    "etcd-client": "etcdctl",
    "etcd-server": "etcd",
    "gcc": "cc gcc",
    "iproute2": "ip ss tc bridge",
    "git": "git",
    "iputils-ping": "ping",
    "jq": "jq",
    "kubernetes-client": "kubectl",
    "llvm": "llvm-objdump",
    "nftables": "nft",
    "nginx-light": "nginx",
    "procps": "kill pgrep pkill ps sysctl",
    "python3-venv": "python3",
    "systemd": "systemd-analyze",
    "util-linux": "flock nsenter pivot_root prlimit setpriv setsid taskset unshare",
}
# what the user has who types the commands of README.md, and what only a maintainer starts
BROUGHT_ALONG: Final = frozenset({"buildah", "make", "mmdebstrap"})
OWN: Final = frozenset(
    {
        "clustermesh",
        "clustermesh-agent",
        "clustermesh-apiserver",
        "python",
        "lint-imports",
        "mypy",
        "ruff",
        "container.sh",
    }
)
# words of ours that happen to be programs on some machine
NOT_STARTED: Final = _names("absent file host init link node open patch reset route script service size watch write")
SHELL_WORDS: Final = _names(
    "break case cd command do done elif else esac eval exec exit export fi for function if in local read return set shift"
    " source then trap umask unset until wait while"
)

WORD: Final = re.compile(r"[a-z][a-z0-9_.+-]+")
HEAD: Final = re.compile(
    r"(?:^|[|;&(`\n]|\$\()\s*(?:(?:!|do|then|else|exec|xargs|if|while|until|[A-Z_]+=\S*)\s+)*"
    r"([a-z][a-z0-9_.+-]*)(?=\s|$|;|\))"
)
STARTERS: Final = frozenset({"create_subprocess_exec", "Popen", "execv", "execvp", "which"})
OF_SUBPROCESS: Final = frozenset({"run", "call", "check_call", "check_output"})


def provided() -> dict[str, str]:
    """The package of each program that the code may start."""
    return {
        program: package
        for packages in (ESSENTIAL, INSTALLED)
        for package, programs in packages.items()
        for program in programs.split()
    }


def python_files() -> list[Path]:
    folders = [
        path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".") and path.name != "build"
    ]
    return sorted(path for folder in folders for path in folder.rglob("*.py") if path.parent != Path(__file__).parent)


def programs_of_module(text: str) -> tuple[set[str], set[str]]:
    """Programs that are started for sure, and words at the places of argument vectors and command lines.

    Sure are the head of what a process-starting call is given, what follows `--`, and what follows `netns exec NAME`.
    """
    sure: set[str] = set()
    possible: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call | ast.List | ast.Tuple):
            texts = [_text(place) for place in _vector(node)]
            sure |= {Path(word).name for word in _sure(node, texts) if word}
            possible |= {word for text in _heads(_vector(node), texts) for word in _words(text)}
    return sure, possible


def _heads(vector: list[ast.expr], texts: list[str | None]) -> Iterator[str]:
    """Texts where an argument vector may begin: the first one, if another argument follows; and whole command lines."""
    first = next((at for at, text in enumerate(texts) if text is not None), None)
    for at, text in enumerate(texts):
        has_arguments = texts[at + 1 :] and (texts[at + 1] is not None or isinstance(vector[at + 1], ast.Starred))
        if text and (not WORD.fullmatch(text) or (at == first and has_arguments)):
            yield text


def _sure(node: ast.expr, texts: list[str | None]) -> Iterator[str | None]:
    if isinstance(node, ast.Call) and node.args and _starts_processes(node.func):
        inner = _vector(node.args[0])
        yield _text(inner[0]) if inner else texts[0]
    yield from (after for before, after in itertools.pairwise(texts) if before == "--")
    yield from (texts[at + 2] for at in range(1, len(texts) - 2) if texts[at - 1 : at + 1] == ["netns", "exec"])


def heads_of_script(text: str) -> set[str]:
    """The first word of each command of a shell script or of a Makefile's recipes."""
    lines = [re.sub(r"(^|\s)#.*", "", line).strip().removeprefix("@") for line in text.splitlines()]
    found = {match[1] for line in lines for match in HEAD.finditer(re.sub(r"'[^']*'|\"[^\"$]*\"", "''", line))}
    return found - SHELL_WORDS


def commands_of_manifest(text: str) -> set[str]:
    """The words of every container command in the documents."""
    return {word for document in yaml.safe_load_all(text) for word in _commands(document)}


@functools.cache
def is_on_this_machine(word: str) -> bool:
    return shutil.which(word, path=SYSTEM_PATH) is not None


def _vector(node: ast.expr) -> list[ast.expr]:
    return node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.List | ast.Tuple) else []


def _text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _starts_processes(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        of_subprocess = isinstance(function.value, ast.Name) and function.value.id == "subprocess"
        return function.attr in STARTERS or (of_subprocess and function.attr in OF_SUBPROCESS)
    return isinstance(function, ast.Name) and function.id in STARTERS


def _words(text: str) -> set[str]:
    if WORD.fullmatch(text):
        return {text}
    # prose has no shell operators: only texts that have some are command lines
    return heads_of_script(text) if re.search(r"[|;&]|\$\(", text) else set()


def _commands(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "command" and isinstance(inner, list):
                yield from (word for text in inner for word in _words(str(text)))
            else:
                yield from _commands(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _commands(inner)
