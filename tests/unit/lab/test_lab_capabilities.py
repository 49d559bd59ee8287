# SPDX-License-Identifier: Apache-2.0
"""A container of the lab has the capabilities that its specification leaves it."""

from __future__ import annotations

from typing import Any

import pytest

from lab.devkube.kubelet.capabilities import kept_capabilities


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"drop": ["ALL"], "add": ["NET_ADMIN", "CAP_BPF"]}, "-all,+bpf,+net_admin"),
        ({"drop": ["ALL"]}, "-all"),
        ({"add": ["NET_ADMIN"]}, ""),
        ({}, ""),
    ],
)
def test_what_drops_all_has_what_it_adds(said: dict[str, Any], kept: str) -> None:
    assert kept_capabilities({"securityContext": {"capabilities": said}}) == kept
    assert kept_capabilities({}) == ""
