# SPDX-License-Identifier: Apache-2.0
"""What a single field may hold, and the sentence that says why not: shared by the rules of each kind. Pure.

Sources: the API reference of Kubernetes and what its servers answer.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from lab.devkube.api.error import Cause

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
PROTOCOLS = ("SCTP", "TCP", "UDP")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
_LINK_LOCAL_MULTICAST = (ipaddress.ip_network("224.0.0.0/24"), ipaddress.ip_network("ff02::/16"))


def required(field: str, why: str = "") -> Cause:
    return Cause(field, "FieldValueRequired", f"Required value: {why}" if why else "Required value")


def bad_value(field: str, value: object, why: str) -> Cause:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Cause(field, "FieldValueInvalid", f"Invalid value: {shown}: {why}")


def forbidden(field: str, why: str) -> Cause:
    return Cause(field, "FieldValueForbidden", f"Forbidden: {why}")


def duplicate(field: str, value: object) -> Cause:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Cause(field, "FieldValueDuplicate", f"Duplicate value: {shown}")


def one_of(field: str, value: object, known: tuple[str, ...]) -> Iterator[Cause]:
    """A word out of a list."""
    if value not in known:
        words = ", ".join(f'"{word}"' for word in known)
        yield Cause(field, "FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {words}')


def port_number(field: str, value: object) -> Iterator[Cause]:
    if not isinstance(value, int) or not 0 < value < 65536:
        yield bad_value(field, value, "must be between 1 and 65535, inclusive")


def port_name(field: str, value: str) -> Iterator[Cause]:
    """The name of a container's port: a service name of IANA."""
    if len(value) > 15 or not _PORT_NAME.fullmatch(value):
        why = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), at least one letter, and no more than 15"
        yield bad_value(field, value, why)


def number_or_name(field: str, value: object) -> Iterator[Cause]:
    """A port as a number, or as the name that containers give it."""
    yield from port_name(field, value) if isinstance(value, str) else port_number(field, value)


def label_name(field: str, value: str) -> Iterator[Cause]:
    if len(value) > 63 or not LABEL.fullmatch(value):
        why = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'"
        yield bad_value(field, value, why)


def label_value(field: str, value: object) -> Iterator[Cause]:
    if len(str(value)) > 63 or not _LABEL_VALUE.fullmatch(str(value)):
        why = (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
            "end with an alphanumeric character"
        )
        yield bad_value(field, value, why)


def network(field: str, value: object) -> Iterator[Cause]:
    """A network as CIDR."""
    try:
        if "/" not in str(value):
            raise ValueError
        ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        yield bad_value(field, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")


def target_address(field: str, value: object, kinds: tuple[str, ...]) -> Iterator[Cause]:
    """An address that traffic may be sent to, as Kubernetes reads it since leading zeros are refused."""
    try:
        address = ipaddress.ip_address(str(value))
    except ValueError:
        yield bad_value(field, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
        return
    if f"IPv{address.version}" not in kinds:
        yield bad_value(field, value, f"must be an {kinds[0]} address")
    ranges = (
        (address.is_unspecified, f"may not be unspecified ({value})"),
        (address.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (address.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (
            any(address in found for found in _LINK_LOCAL_MULTICAST if found.version == address.version),
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ),
    )
    yield from (bad_value(field, value, why) for is_in, why in ranges if is_in)
