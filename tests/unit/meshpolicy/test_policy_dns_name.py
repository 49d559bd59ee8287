# SPDX-License-Identifier: Apache-2.0
"""Which names a name or a pattern of a policy is about."""

from __future__ import annotations

import pytest

from meshpolicy.dns_name import EVERY_NAME, allows_name, canonical, dns_rule


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        ("*.cilium.io", ("a.cilium.io", "A.Cilium.IO.", "a-b_c.cilium.io"), ("cilium.io", "a.b.cilium.io", "acilium.io")),
        ("*cilium.io", ("cilium.io", "subcilium.io"), ("a.cilium.io", "cilium.io.evil")),
        ("**.cilium.io", ("a.cilium.io", "a.b.cilium.io"), ("cilium.io", "acilium.io", ".cilium.io", "a..cilium.io")),
        ("sub*.cilium.io", ("sub.cilium.io", "sub1.cilium.io"), ("sub.1.cilium.io", "xsub.cilium.io")),
        ("a.**.io", ("a.b.io",), ("a.b.c.io", "a.io")),
        ("*", ("x", "a.b.c", ".", r"a\.b.io"), ()),
        ("*.*", ("a.b",), ("a.b.c", "a")),
        ("a.io.", ("a.io", "A.io."), ("a-io", "axio", "b.a.io")),
    ],
)  # fmt: skip
def test_patterns(pattern: str, matched: tuple[str, ...], others: tuple[str, ...]) -> None:
    rule = dns_rule(match_pattern=pattern)
    assert {name: rule.matches(canonical(name)) for name in (*matched, *others)} == {
        **dict.fromkeys(matched, True),
        **dict.fromkeys(others, False),
    }


def test_a_name_is_that_name_only() -> None:
    rule = dns_rule("Google.COM")
    assert rule.matches("google.com.")
    assert not any(rule.matches(name) for name in ("www.google.com.", "google.com.evil.", "googlexcom.", "."))
    assert not dns_rule().matches("."), "an entry that names nothing is about nothing"


def test_a_list_is_about_what_any_entry_is_about() -> None:
    rules = frozenset((dns_rule("a.io", "*.b.io"), dns_rule("c.io")))
    assert [allows_name(rules, name) for name in ("a.io.", "x.b.io.", "c.io.", "d.io.")] == [True, True, True, False]
    assert allows_name((EVERY_NAME,), "anything.")
    assert not allows_name((), "a.io.")


def test_a_label_that_is_no_host_name_is_not_taken_for_labels() -> None:
    assert not dns_rule(match_pattern="*.google.com").matches(r"x\.google.com.")
    assert not dns_rule(match_pattern="**.com").matches(r"a\032b.com.")
    assert not dns_rule(match_pattern="*.com").matches("é.com.")


def test_a_pattern_of_many_stars_is_matched_at_once() -> None:
    rule = dns_rule(match_pattern="*a" * 120)
    assert rule.matches(canonical("a" * 250))
    assert not rule.matches(canonical("a" * 250 + "b"))
