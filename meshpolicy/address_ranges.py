# SPDX-License-Identifier: Apache-2.0
"""The address ranges that policies name, each with a number of this node's own that follows from the range. Pure.

An address that policies mean by its DNS name is a range of one address, with a label for each name or pattern.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from meshmodel.identity import LOCAL_SCOPE_CIDR, NumericIdentity
from meshmodel.labels import Label, Labels
from meshpolicy.prefix import Cidr, label_key
from meshpolicy.selection import Selections
from meshpolicy.selector import CIDR_SOURCE, FQDN_SOURCE, RESERVED_SOURCE

_NUMBERS: Final = LOCAL_SCOPE_CIDR - 1


class AddressRanges:
    """Counts who uses a range. `touch` says which endpoints an identity concerns; it is asked while the identity is known."""

    def __init__(self, selections: Selections, touch: Callable[[int], set[int]], *, dual_stack: bool) -> None:
        self._selections, self._touch, self._dual_stack = selections, touch, dual_stack
        self._numbers: dict[Cidr, NumericIdentity] = {}
        self._texts: dict[str, NumericIdentity] = {}
        self._uses: Counter[Cidr] = Counter()
        self.held: frozenset[Cidr] = frozenset()
        """Those that are used whether or not a policy names them."""
        self.names: dict[Cidr, frozenset[str]] = {}
        """Addresses that are meant by their names, with the keys of these labels."""

    @property
    def numbers(self) -> Mapping[Cidr, NumericIdentity]:
        """Every range with its identity."""
        return self._numbers

    @property
    def texts(self) -> Mapping[str, NumericIdentity]:
        """The same by the text of each range."""
        return self._texts

    def is_named(self, prefix: Cidr) -> bool:
        """Whether a policy names this range."""
        return self._uses[prefix] > (prefix in self.held)

    def hold(self, prefixes: Iterable[Cidr]) -> tuple[set[Cidr], list[str], set[int]]:
        """Exactly these are held: the ranges that are new, those that are gone, and whom that concerns."""
        before, self.held = self.held, frozenset(prefixes)
        added, touched = self.use(self.held - before)
        gone, more = self.drop(before - self.held)
        return added, gone, touched | more

    def set_names(self, names: Mapping[Cidr, frozenset[str]]) -> tuple[set[Cidr], list[str], set[int]]:
        """Each address has exactly these labels of names, none: it is not meant by a name. Answers as `hold` does."""
        known = self.names
        changed = {prefix: keys for prefix, keys in names.items() if known.get(prefix, frozenset()) != keys}
        new = frozenset(prefix for prefix in changed if prefix not in known)
        left = frozenset(prefix for prefix, keys in changed.items() if not keys)
        for prefix, keys in changed.items():
            if keys:
                known[prefix] = keys
            else:
                del known[prefix]
        added, touched = self.use(new)
        gone, more = self.drop(left)
        touched |= more
        for prefix in changed.keys() - added:
            if prefix in self._numbers:
                touched |= self._label_again(prefix)
        return added, gone, touched

    def _label_again(self, prefix: Cidr) -> set[int]:
        number = int(self._numbers[prefix])
        touched = self._touch(number)
        self._selections.remove_identity(number)
        self._selections.add_identity(number, self._labels_of(prefix))
        return touched | self._touch(number)

    def use(self, prefixes: frozenset[Cidr]) -> tuple[set[Cidr], set[int]]:
        """Each is used once more: the ranges that are new, and whom that concerns."""
        self._uses.update(prefixes)
        added = {prefix for prefix in prefixes if prefix not in self._numbers}
        touched: set[int] = set()
        for prefix in sorted(added):
            number = self._free_number(prefix)
            self._numbers[prefix] = self._texts[str(prefix)] = NumericIdentity(number)
            self._selections.add_identity(number, self._labels_of(prefix))
            touched |= self._touch(number)
        return added, touched

    def drop(self, prefixes: frozenset[Cidr]) -> tuple[list[str], set[int]]:
        """Each is used once less: the ranges that are gone, and whom that concerns."""
        self._uses.subtract(prefixes)
        touched: set[int] = set()
        removed = sorted(prefix for prefix in prefixes if not self._uses[prefix])
        for prefix in removed:
            del self._uses[prefix]
            del self._texts[str(prefix)]
            number = int(self._numbers.pop(prefix))
            touched |= self._touch(number)
            self._selections.remove_identity(number)
        return [str(prefix) for prefix in removed], touched

    def _free_number(self, prefix: Cidr) -> int:
        """A number in the node-local scope that follows from the prefix, so that a restart gives the same one."""
        offset = zlib.crc32(str(prefix).encode()) % _NUMBERS
        while self._selections.identity(LOCAL_SCOPE_CIDR + 1 + offset) is not None:
            offset = (offset + 1) % _NUMBERS
        return LOCAL_SCOPE_CIDR + 1 + offset

    def _labels_of(self, prefix: Cidr) -> Labels:
        is_one_world = prefix.version == 4 and not self._dual_stack
        world = "world" if is_one_world else f"world-ipv{prefix.version}"
        names = (Label(FQDN_SOURCE, key, "") for key in sorted(self.names.get(prefix, ())))
        return Label(CIDR_SOURCE, label_key(prefix), ""), *names, Label(RESERVED_SOURCE, world, "")
