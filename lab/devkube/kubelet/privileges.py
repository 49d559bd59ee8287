# SPDX-License-Identifier: Apache-2.0
"""As whom a container of a real image runs, by its pod's security contexts. Pure."""

from __future__ import annotations

from typing import Any, Final

from lab.devkube.api.objects import Obj, part
from lab.devkube.kubelet.capabilities import kept_capabilities

DEFAULT_CAPABILITIES: Final = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip
"""What container runtimes give to a container that asks for nothing."""


def volume_group(pod: Obj) -> int | None:
    """The group that may read the pod's volumes."""
    group = part(pod["spec"], "securityContext").get("fsGroup")
    return None if group is None else int(group)


def setpriv_words(pod: Obj, container: Obj) -> list[str]:
    """The command, of util-linux, that takes from a process of root what the specification does not leave it."""
    user, group = _chosen(pod, container, "runAsUser"), _chosen(pod, container, "runAsGroup")
    groups = [str(number) for number in (volume_group(pod),) if number is not None]
    words = ["setpriv", f"--bounding-set={kept_capabilities(container) or _runtimes_set(container)}", "--inh-caps=-all"]
    words += [f"--groups={','.join(groups)}"] if groups else ["--clear-groups"]
    words += [f"--regid={group or 0}"] if group is not None or user is not None else []
    words += [f"--reuid={user}"] if user is not None else []
    if part(container, "securityContext").get("allowPrivilegeEscalation") is False:
        words.append("--no-new-privs")
    return [*words, "--"]


def _chosen(pod: Obj, container: Obj, field: str) -> Any:
    own = part(container, "securityContext").get(field)
    return part(pod["spec"], "securityContext").get(field) if own is None else own


def _runtimes_set(container: Obj) -> str:
    wish = part(part(container, "securityContext"), "capabilities")
    kept = {*DEFAULT_CAPABILITIES, *(wish.get("add") or ())} - set(wish.get("drop") or ())
    return ",".join(["-all", *(f"+{name.lower()}" for name in sorted(kept))])
