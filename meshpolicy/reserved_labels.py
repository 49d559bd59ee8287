# SPDX-License-Identifier: Apache-2.0
"""The labels of reserved identities. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from meshmodel.identity import NumericIdentity, Reserved
from meshmodel.labels import Label, Labels
from meshpolicy.selector import RESERVED_SOURCE

_RESERVED_NAMES: Final[Mapping[Reserved, tuple[str, ...]]] = {
    Reserved.HOST: ("host",),
    Reserved.WORLD: ("world",),
    Reserved.UNMANAGED: ("unmanaged",),
    Reserved.HEALTH: ("health",),
    Reserved.INIT: ("init",),
    Reserved.REMOTE_NODE: ("remote-node",),
    Reserved.KUBE_APISERVER: ("kube-apiserver", "remote-node"),
    Reserved.INGRESS: ("ingress",),
    Reserved.WORLD_IPV4: ("world-ipv4",),
    Reserved.WORLD_IPV6: ("world-ipv6",),
}
RESERVED_LABELS: Final[Mapping[NumericIdentity, Labels]] = {
    NumericIdentity(number): tuple(Label(RESERVED_SOURCE, name, "") for name in names)
    for number, names in _RESERVED_NAMES.items()
}
"""The identities that every engine knows from the start."""
