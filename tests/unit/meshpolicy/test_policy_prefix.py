# SPDX-License-Identifier: Apache-2.0
"""Prefixes and the labels that name them."""

from __future__ import annotations

import pytest

from meshpolicy.prefix import label_key, parse_address, parse_label_key, parse_prefix


@pytest.mark.parametrize(
    "text", ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "::/0", "fd00::/64", "2001:db8::1/128", "::1/128"]
)
def test_a_label_key_names_its_prefix(text: str) -> None:
    prefix = parse_prefix(text)
    assert str(prefix) == text
    assert ":" not in label_key(prefix)
    assert parse_label_key(label_key(prefix)) == prefix


def test_host_bits_are_cleared() -> None:
    assert str(parse_prefix("10.1.2.3/8")) == "10.0.0.0/8"


def test_covers_only_what_is_inside_the_same_family() -> None:
    outer = parse_prefix("10.0.0.0/8")
    assert outer.covers(parse_address("10.255.0.1"))
    assert outer.covers(outer)
    assert not outer.covers(parse_prefix("0.0.0.0/0"))
    assert not outer.covers(parse_address("11.0.0.0"))
    assert not parse_prefix("::/0").covers(parse_address("10.0.0.1"))
    assert parse_prefix("0.0.0.0/0").covers(outer)


def test_a_label_key_that_is_no_prefix_is_none() -> None:
    assert parse_label_key("nonsense") is None
