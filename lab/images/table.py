# SPDX-License-Identifier: Apache-2.0
"""Which image names exist, and what starts when a container names one of them. Pure.

Every image's files are the machine's own; an entry adds what the real image would bring along.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS: Final = Path(sys.prefix, "bin")
REPOSITORY: Final = Path(__file__).resolve().parents[2]
# a shell that waits: a bare sleep would, as process 1, ignore the signal that asks it to end
IDLE: Final = ("/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done")

NGINX_CONFIGURATION: Final = """\
user root;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr warn;
events { worker_connections 512; }
http {
  include /etc/nginx/mime.types;
  default_type application/octet-stream;
  access_log /dev/stdout;
  server { listen 80; root %s; index index.html; }
}
"""


@dataclass(frozen=True, slots=True)
class Image:
    """What a container of this image runs if its specification names no command of its own. `root` is the directory with
    its files, the machine's own if empty."""

    entrypoint: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "SIGTERM"
    root: str = ""


def _web_server(root: str, files: Mapping[str, str]) -> Image:
    configuration = {"/etc/nginx/nginx.conf": NGINX_CONFIGURATION % root}
    return Image(("nginx",), ("-g", "daemon off;"), files={**files, **configuration}, stop_signal="SIGQUIT")


def _program(*entrypoint: str) -> Image:
    return Image(
        entrypoint,
        environment={"PATH": f"{PROGRAMS}:{SYSTEM_PATH}", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(REPOSITORY)},
    )


_idle = Image(IDLE)
IMAGES: Final[Mapping[str, Image]] = {
    "nginx": _web_server("/usr/share/nginx/html", {}),
    "json-mock": _web_server("/srv/json-mock", {"/srv/json-mock/index.html": '{"posts": [], "comments": []}\n'}),
    "alpine": _idle,
    "alpine-curl": _idle,
    "busybox": _idle,
    "curl": _idle,
    "debian": _idle,
    "netshoot": _idle,
    "pause": _idle,
    "clustermesh-agent": _program("clustermesh-agent"),
    "clustermesh-apiserver": _program("clustermesh-apiserver"),
    "clustermesh-relay": _program("clustermesh-relay"),
    "coredns": _program(str(PROGRAMS / "python"), "-m", "lab.images.dns"),
}


def short_name(reference: str) -> str:
    """The last path part, without tag and digest: `json-mock` of `quay.io/cilium/json-mock:v1@sha256:…`."""
    return reference.split("@", 1)[0].rsplit("/", 1)[-1].split(":", 1)[0]


def find_image(reference: str) -> Image | None:
    """The entry for an image reference; None is what a registry would answer with 404."""
    return IMAGES.get(short_name(reference))


def command_line(image: Image, command: tuple[str, ...], arguments: tuple[str, ...]) -> tuple[str, ...]:
    """What runs: the specification's command and arguments, the image's own where it says nothing."""
    if command:
        return command + arguments
    return image.entrypoint + (arguments or image.arguments)
