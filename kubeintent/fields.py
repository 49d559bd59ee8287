# SPDX-License-Identifier: Apache-2.0
"""One field of an object as a value of its type: canonical, or absent and named in `problems`. Pure.

`where` is the path that people know from the object. A field that is null or missing is absent, and no problem.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from kubeintent.read import Obj
from kubeintent.rows import Pairs
from meshmodel.address import canonical_ip, canonical_prefix, is_ipv4

MAX_IDENTITY: Final = (1 << 32) - 1
"""What fits where Kubernetes objects hold the number of an identity."""
PROTOCOLS: Final = frozenset({"TCP", "UDP", "SCTP"})
SPECIAL_IPV4: Final = ("0.", "127.", "169.254.", "224.0.0.")
_EMPTY: Final[Obj] = {}
_SPECIAL: Final = (*SPECIAL_IPV4, "fe", "ff", ":")


def mapping(obj: Mapping[str, Any], name: str, problems: list[str]) -> Obj:
    """The object in this field; empty if there is none."""
    value = obj.get(name)
    if value is None:
        return _EMPTY
    if isinstance(value, dict):
        return value
    problems.append(f"{name}: {shown(value)} is no object")
    return _EMPTY


def entries(obj: Mapping[str, Any], name: str, problems: list[str]) -> list[Any]:
    """The list in this field; empty if there is none."""
    value = obj.get(name)
    if value is None:
        return []
    if isinstance(value, list):
        return value
    problems.append(f"{name}: {shown(value)} is no list")
    return []


def objects(obj: Mapping[str, Any], name: str, problems: list[str]) -> Iterator[Obj]:
    """The objects of the list in this field."""
    for value in entries(obj, name, problems):
        if isinstance(value, dict):
            yield value
        else:
            problems.append(f"{name}: {shown(value)} is no object")


def text(obj: Mapping[str, Any], name: str, problems: list[str], where: str = "") -> str:
    """The text in this field; empty if there is none."""
    value = obj.get(name)
    if isinstance(value, str):
        return value
    if value is not None:
        problems.append(f"{where or name}: {shown(value)} is no text")
    return ""


def texts(obj: Mapping[str, Any], names: Iterable[str], problems: list[str]) -> list[str]:
    """The text of each field; quicker than one by one where most of an object's fields are text."""
    get = obj.get
    found = []
    for name in names:
        value = get(name)
        found.append(value if type(value) is str else "" if value is None else text(obj, name, problems))
    return found


def flags(obj: Mapping[str, Any], names: Iterable[str], problems: list[str]) -> list[bool | None]:
    """True, false or None of each field."""
    get = obj.get
    found = []
    for name in names:
        value = get(name)
        found.append(value if value is None or value is True or value is False else flag(obj, name, problems))
    return found


def number(obj: Mapping[str, Any], name: str, first: int, last: int, problems: list[str]) -> int | None:
    """The whole number in this field."""
    value = obj.get(name)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and first <= value <= last:
        return value
    problems.append(f"{name}: {shown(value)} is no number from {first} to {last}")
    return None


def flag(obj: Mapping[str, Any], name: str, problems: list[str]) -> bool | None:
    """True, false, or None where the field does not say."""
    value = obj.get(name)
    if value is None or isinstance(value, bool):
        return value
    problems.append(f"{name}: {shown(value)} is neither true nor false")
    return None


def choice(obj: Mapping[str, Any], name: str, known: Iterable[str], default: str, problems: list[str]) -> str | None:
    """One of the known values; the default where the field is absent, None where it is another."""
    value = obj.get(name)
    if value is None or value == "":
        return default
    if isinstance(value, str) and value in known:
        return value
    problems.append(f"{name}: {shown(value)} is none of {', '.join(sorted(known))}")
    return None


def pairs(obj: Mapping[str, Any], name: str, problems: list[str]) -> Pairs:
    """A map of text to text, sorted by key; entries of another type are left out."""
    if obj.get(name) is None:
        return ()
    found = mapping(obj, name, problems)
    kept = found
    for value in found.values():
        if type(value) is not str:
            kept = {key: value for key, value in found.items() if isinstance(value, str)}
            problems.append(f"{name}: some values are no text")
            break
    return tuple(sorted(kept.items())) if len(kept) > 1 else tuple(kept.items())


def address(value: object, where: str, problems: list[str], *, special: bool = True) -> str | None:
    """The address in its one form. Without `special`, those that no API server takes for an endpoint are refused:
    unspecified, loopback, link-local and link-local multicast. Absent is None, and no problem.
    """
    if value is None or value == "":
        return None
    if type(value) is str and is_ipv4(value) and (special or not value.startswith(SPECIAL_IPV4)):
        return value
    try:
        found = canonical_ip(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None:
        problems.append(f"{where}: {shown(value)} is no IP address")
        return None
    if not special and (kind := _special(found)):
        problems.append(f"{where}: {found} is {kind}")
        return None
    return found


def addresses(values: Sequence[object], where: str, problems: list[str], *, special: bool = True) -> tuple[str, ...]:
    """Every address once, in order."""
    if not values:
        return ()
    found: dict[str, None] = {}
    for value in values:
        ip = address(value, where, problems, special=special)
        if ip is not None:
            found[ip] = None
    return tuple(found)


def prefixes(values: Iterable[object], where: str, problems: list[str]) -> tuple[str, ...]:
    """Every network once, in order, in its one form."""
    found: dict[str, None] = {}
    for value in values:
        if value is None or value == "":
            continue
        try:
            if not isinstance(value, str):
                raise ValueError
            found[canonical_prefix(value)] = None
        except ValueError:
            problems.append(f"{where}: {shown(value)} is no network")
    return tuple(found)


def shown(value: object) -> str:
    """A value as a problem names it, cut."""
    return repr(value)[:64]


def _special(ip: str) -> str:
    """What an address is that no endpoint can have; empty for all others. Quick for nearly every one."""
    if not ip.startswith(_SPECIAL):
        return ""
    parsed = ipaddress.ip_address(ip)
    if parsed.is_unspecified:
        return "the unspecified address"
    if parsed.is_loopback:
        return "a loopback address"
    if parsed.is_link_local:
        return "a link-local address"
    is_local_multicast = ip.startswith("224.0.0.") or (parsed.is_multicast and ip.startswith("ff02:"))
    return "a link-local multicast address" if is_local_multicast else ""
