# SPDX-License-Identifier: Apache-2.0
"""The resolver of this machine is asked for real."""

from __future__ import annotations

from meshkit.resolve import ipv4_addresses


def test_an_address_is_itself_and_the_own_name_is_here() -> None:
    assert ipv4_addresses("203.0.113.9") == ("203.0.113.9",)
    assert "127.0.0.1" in ipv4_addresses("localhost")


def test_a_name_that_nobody_knows_has_no_address() -> None:
    assert ipv4_addresses("nobody.invalid") == ()
    assert ipv4_addresses("::1") == ()
