# SPDX-License-Identifier: Apache-2.0
"""What passes between the proxy that sees answers to DNS queries and whoever makes policy entries of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

LONGEST_NAME: Final = 4 * (63 + 63 + 63 + 61) + 4
"""Characters of a name as text: four labels of bytes that are all escaped, and their dots. Source: RFC 1035 section 3.1."""


class AnsweredAddress(NamedTuple):
    """`address`: of IPv4 or IPv6, in canonical text. `ttl_s`: the smallest on the way from the name to it, 0 to 2**31 - 1."""

    address: str
    ttl_s: int


class NameListener(Protocol):
    """Who is told of answers before the pods that asked are."""

    async def learn(self, endpoint: str, name: str, addresses: Sequence[AnsweredAddress]) -> None:
        """A pod of this node is about to learn that the name has these addresses.

        Returns when every policy entry that follows is in the kernel, at once if none does; the answer is released then,
        or after 100 ms, and the call goes on in that case. Calls overlap. Raises nothing. What is installed stays for the
        TTL, whatever becomes of policies meanwhile: the same answer within that time is told and not waited for.

        `endpoint`: the address of the pod. `name`: what was asked for, in lower case with a dot at the end, as
        `meshpolicy.dns_name.canonical` gives it, at most `LONGEST_NAME` characters; names on the way (CNAME) are not told.
        `addresses`: not empty. The same answer may be told twice; answers of the time without an agent are told, with the
        rest of their TTLs, when it is back.
        """
        ...
