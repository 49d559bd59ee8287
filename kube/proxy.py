# SPDX-License-Identifier: Apache-2.0
"""Which proxy stands between us and an API server, from the kubeconfig or the environment."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit


def choose_proxy(server: str, configured: str, environ: Mapping[str, str]) -> str | None:
    """The proxy's address, or None. What the kubeconfig says stands before the environment; loopback never has one."""
    host = (urlsplit(server).hostname or "").lower()
    if _is_loopback(host):
        return None
    if configured:
        return configured
    scheme = urlsplit(server).scheme or "https"
    found = _setting(environ, f"{scheme}_proxy") or _setting(environ, "all_proxy")
    if not found or _is_excepted(host, urlsplit(server).port, _setting(environ, "no_proxy")):
        return None
    return found if "://" in found else f"http://{found}"


def _setting(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.upper()) or ""


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _is_excepted(host: str, port: int | None, exceptions: str) -> bool:
    """Whether NO_PROXY names the host: itself, a domain above it, a network it is in, or everything."""
    return any(_names(entry.strip().lower(), host, port) for entry in exceptions.split(",") if entry.strip())


def _names(entry: str, host: str, port: int | None) -> bool:
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    name, separator, number = entry.rpartition(":")
    if separator and number.isdecimal():
        if port is not None and int(number) != port:
            return False
        entry = name.strip("[]")
    return host == entry.lstrip("*.") or host.endswith(f".{entry.lstrip('*.')}")
