# SPDX-License-Identifier: Apache-2.0
"""Settings of the programs that `enable --set PROGRAM.NAME=VALUE` gives them: checked, kept in the ConfigMap, made flags. Pure.

What the programs take is in deploy/settings.yaml, written from their own definitions. What the manifests decide, by flags,
mounts and probes, cannot be set here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from clustermesh_cli.exit_code import CommandError, CommandRefusedError, ExitCode
from meshapi.installed import CONFIG_MAP, SCOPE_KEY

AGENT: Final = "agent"
APISERVER: Final = "apiserver"
RELAY: Final = "relay"
FIXED: Final = {
    AGENT: frozenset(
        {
            "node-name", "node-ip", "kubeconfig", "context", CONFIG_MAP, "local-etcd-certificates",
            "local-etcd-config", "pin-directory", "datapath", "listen", "port", "probe-port", "socket", "once-uninstall",
            "detach", "proxy-directory",
        }
    ),
    APISERVER: frozenset(
        {
            "kubeconfig", "context", "etcd-config", "manage-etcd-users", "etcd-binary", "data-dir", "server-cert-dir",
            "ca-file", "ca-bundle-dir", "users-file", "listen-address", "listen-port", "status-address", "status-port",
            "status-socket", "probe-port", "agent-status-port", "agent-token-file",
        }
    ),
    RELAY: frozenset(
        {
            "kubeconfig", "context", "certificates", "server-certificates", "ca-bundle-dir", "grants-dir", "peer-ca-dir",
            "flow-peers-dir", "agent-port", "apiserver-port", "token-file", "listen-address", "port", "peers-port",
            "http-port", "http-socket", "probe-port",
        }
    ),
}  # fmt: skip
"""Decided by the manifests: mounted files (the agent's peers are named like the ConfigMap), ports of Services and probes."""
OF_PROXIES: Final = ("envoy", "log-format", "log-level")
"""Settings of the agent that its node's proxies must have, too."""
SHARED: Final = ((APISERVER, "default-global-namespace"), (AGENT, "flow-port"))
"""Settings of other programs that the relay must have, too."""
OF_ENABLE: Final = {
    AGENT: frozenset(
        {
            "cluster-name", "cluster-id", "max-connected-clusters", SCOPE_KEY, "config-namespace",
            "local-etcd",
        }
    ),
    APISERVER: frozenset(
        {
            "cluster-name", "cluster-id", "max-connected-clusters", "namespace", "mirror", "mirror-config-dir",
            "certificate-lifetime",
        }
    ),
    RELAY: frozenset({"cluster-name", "namespace", *(name for _, name in SHARED)}),
}  # fmt: skip
"""What `enable` itself says, by flags of its own or by what it keeps."""
_WORDS: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
CILIUM_KEYS: Final = {"clustermesh-default-global-namespace": f"{APISERVER}.default-global-namespace"}
"""What Cilium's ConfigMap says of a setting of ours."""


@dataclass(frozen=True, slots=True)
class KnownSetting:
    """One setting as its program defines it. `type` is str, int, float, bool or path; no choices allow every value."""

    type: str
    is_list: bool = False
    choices: tuple[str, ...] = ()


Known = Mapping[str, Mapping[str, KnownSetting]]
"""By program and name."""


def read_known(document: Mapping[str, Mapping[str, Mapping[str, object]]]) -> Known:
    """The content of deploy/settings.yaml."""
    return {
        program: {
            name: KnownSetting(str(d["type"]), bool(d.get("list")), tuple(map(str, _listed(d.get("choices")))))
            for name, d in settings.items()
        }
        for program, settings in document.items()
    }


def parse_settings(given: Iterable[str], known: Known) -> dict[str, str | None]:
    """Keys of the ConfigMap with their values; None for one that is taken away by `PROGRAM.NAME=`.

    Raises: CommandError (usage) for what the program would not take, CommandRefusedError for what the manifests decide.
    """
    found: dict[str, str | None] = {}
    for text in given:
        key, equals, value = text.partition("=")
        program, _, name = key.partition(".")
        if not equals or program not in known:
            raise _usage(text, f"write {' or '.join(f'{p}.NAME=VALUE' for p in sorted(known))}")
        setting = known[program].get(name)
        if setting is None:
            near = get_close_matches(name, known[program], 1)
            raise _usage(text, f"{program} has no setting {name}" + (f"; did you mean {near[0]}?" if near else ""))
        if name in FIXED[program] | OF_ENABLE[program]:
            who = "enable itself" if name in OF_ENABLE[program] else "the manifests"
            raise CommandRefusedError(f"--set {text}: {name} is decided by {who}")
        if value:
            _check(text, setting, value)
        found[key] = value or None
    return found


def settings_in(config: Mapping[str, str], known: Known) -> dict[str, str]:
    """What the ConfigMap says by keys of ours, and for what it does not, by Cilium's."""
    own = {
        f"{program}.{name}": config[f"{program}.{name}"]
        for program, settings in known.items()
        for name in settings
        if f"{program}.{name}" in config
    }
    theirs = {ours: config.get(name, "") for name, ours in CILIUM_KEYS.items()}
    return {ours: value for ours, value in theirs.items() if value.lower() in _WORDS} | own


def flags_of(program: str, settings: Mapping[str, str], known: Known) -> list[str]:
    """The program's flags for its settings, by name. Raises: CommandError for a value that somebody wrote by hand."""
    found = []
    for key, value in sorted(settings.items()):
        owner, _, name = key.partition(".")
        if owner != program:
            continue
        _check(f"{key}={value}", known[program][name], value)
        if known[program][name].type == "bool":
            found.append(f"--{name}" if _WORDS[value.lower()] else f"--no-{name}")
        else:
            found.append(f"--{name}={value}")
    return found


def relay_flags(settings: Mapping[str, str], known: Known) -> list[str]:
    """The relay's own settings, and what it must know as the programs that it asks do."""
    shared = {f"{RELAY}.{name}": settings[f"{owner}.{name}"] for owner, name in SHARED if f"{owner}.{name}" in settings}
    return flags_of(RELAY, {**settings, **shared}, known)


def proxies_flags(settings: Mapping[str, str], known: Known) -> list[str]:
    """What the nodes' proxies must know as their agents do."""
    shared = {f"{AGENT}.{name}": settings[f"{AGENT}.{name}"] for name in OF_PROXIES if f"{AGENT}.{name}" in settings}
    return flags_of(AGENT, shared, known)


def _check(text: str, setting: KnownSetting, value: str) -> None:
    for part in value.split(",") if setting.is_list else [value]:
        try:
            match setting.type:
                case "bool":
                    _WORDS[part.lower()]
                case "int":
                    int(part)
                case "float":
                    float(part)
        except (KeyError, ValueError):
            raise _usage(text, f"expected {setting.type}") from None
        if setting.choices and part not in setting.choices:
            raise _usage(text, f"choose one of {', '.join(setting.choices)}")


def _usage(text: str, why: str) -> CommandError:
    return CommandError(f"--set {text}: {why}", ExitCode.USAGE)


def _listed(found: object) -> list[object]:
    return list(found) if isinstance(found, list) else []
