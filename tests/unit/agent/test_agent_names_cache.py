# SPDX-License-Identifier: Apache-2.0
"""What pods were told: an answer counts for its TTL and while a connection needs it, and no pod fills the memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.answered_names import LONGEST_NAME, AnsweredAddress
from agent.dns.message import text_of
from agent.fqdn import name_cache
from agent.fqdn.name_cache import ADDRESSES_OF_NAME, USE_S, HeardAddress, NameCache, Pair
from agent.fqdn.name_file import decode_answers, encode_answers

POD, OTHER, NAME = "10.1.0.5", "10.1.0.6", "shop.example."


def cache(is_selected: Callable[[str], bool] = lambda _name: True) -> NameCache:
    return NameCache(is_selected)


def told(
    known: NameCache, *addresses: str, ttl_s: int = 60, pod: str = POD, name: str = NAME, now: float = 0
) -> set[str]:
    return known.learn(pod, name, [AnsweredAddress(address, ttl_s) for address in addresses], now)


def test_an_answer_counts_until_its_ttl_ends() -> None:
    known = cache()
    assert told(known, "192.0.2.1") == {"192.0.2.1"}
    assert known.sweep(59, set()) == set()
    assert known.names_for(POD, "192.0.2.1") == ["shop.example"]
    assert known.sweep(60, set()) == {"192.0.2.1"}
    assert known.size == 0
    assert not known.has_names("192.0.2.1")


def test_an_answer_without_ttl_counts_long_enough_to_connect() -> None:
    known = cache()
    told(known, "192.0.2.1", ttl_s=0)
    assert known.sweep(USE_S - 1, set()) == set()
    assert known.sweep(USE_S, set()) == {"192.0.2.1"}


def test_a_connection_keeps_the_name_of_its_own_pod_only() -> None:
    known = cache()
    told(known, "192.0.2.1")
    told(known, "192.0.2.2", pod=OTHER)
    connected = {Pair(POD, "192.0.2.1"), Pair(POD, "192.0.2.2")}
    assert known.sweep(100, connected) == {"192.0.2.2"}
    assert known.sweep(200, connected) == set()
    assert known.sweep(300, set()) == {"192.0.2.1"}


def test_a_shorter_answer_does_not_shorten_an_earlier_one() -> None:
    known = cache()
    told(known, "192.0.2.1", ttl_s=600)
    assert told(known, "192.0.2.1", ttl_s=40, now=10) == set()
    assert known.sweep(500, set()) == set()


def test_an_address_keeps_its_name_while_another_pod_knows_it() -> None:
    known = cache()
    told(known, "192.0.2.1", ttl_s=60)
    assert told(known, "192.0.2.1", ttl_s=600, pod=OTHER) == set()
    assert known.sweep(60, set()) == set()
    assert list(known.names_of("192.0.2.1")) == [NAME]
    assert known.names_for(POD, "192.0.2.1") == []


def test_a_name_with_too_many_addresses_is_cut_and_counted() -> None:
    known = cache()
    told(known, *(f"192.0.{i // 250}.{i % 250 + 1}" for i in range(ADDRESSES_OF_NAME + 50)))
    assert known.size == ADDRESSES_OF_NAME
    assert known.given_up == 50


def test_addresses_beyond_the_limit_of_a_name_are_kept_for_connections_only() -> None:
    known = cache()
    told(known, "198.51.100.1", ttl_s=100)
    told(known, *(f"192.0.{i // 250}.{i % 250 + 1}" for i in range(ADDRESSES_OF_NAME)), ttl_s=500)
    assert known.sweep(1, {Pair(POD, "198.51.100.1")}) == set()
    assert known.sweep(2, set()) == {"198.51.100.1"}


def test_a_pod_that_asks_for_everything_loses_what_no_policy_means_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_cache, "ANSWERS_OF_POD", 100)
    known = cache(lambda name: name == NAME)
    told(known, "192.0.2.1", ttl_s=40)
    told(known, "192.0.2.9", ttl_s=40, pod=OTHER)
    for index in range(5000):
        told(known, f"198.51.{index % 250}.{index // 250 + 1}", ttl_s=3600, name=f"x{index}.example.")
    assert known.size <= 101
    assert known.given_up >= 4900
    assert known.names_for(POD, "192.0.2.1") == ["shop.example"]
    assert known.names_for(OTHER, "192.0.2.9") == ["shop.example"]


def test_the_pod_with_most_answers_gives_way_when_the_node_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_cache, "ANSWERS_OF_NODE", 100)
    known = cache()
    told(known, "192.0.2.1")
    for index in range(500):
        told(known, f"198.51.{index % 250}.{index // 250 + 1}", pod=OTHER, name=f"x{index}.example.")
    assert known.size <= 100
    assert known.names_for(POD, "192.0.2.1") == ["shop.example"]


def test_answers_kept_for_connections_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_cache, "DEFERRED_OF_POD", 2)
    known = cache()
    for index in range(4):
        told(known, f"192.0.2.{index}", ttl_s=100 + index)
    everyone = {Pair(POD, f"192.0.2.{index}") for index in range(4)}
    assert known.sweep(1000, everyone) == {"192.0.2.0", "192.0.2.1"}
    assert known.given_up == 2


def test_the_file_brings_everything_back() -> None:
    known, again = cache(), cache()
    told(known, "192.0.2.1", "192.0.2.2")
    told(known, "192.0.2.2", pod=OTHER, name="other.example.")
    assert again.restore(decode_answers(encode_answers(known.answers()), 0)) == {"192.0.2.1", "192.0.2.2"}
    assert list(again.answers()) == list(known.answers())


def test_the_file_brings_back_the_longest_name_that_a_pod_can_ask_for() -> None:
    longest = text_of(tuple(b"\1" * size for size in (63, 63, 63, 61)))
    assert len(longest) == LONGEST_NAME
    known = cache()
    told(known, "192.0.2.1", name=longest)
    assert decode_answers(encode_answers(known.answers()), 0) == list(known.answers())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"[2,[]]",
        b'[1,[["10.1.0.5","a.b.","nowhere",1]]]',
        b'[1,[["10.1.0.5","a.b","192.0.2.1",1]]]',
        b'[1,[["10.1.0.5","a.b.","192.0.2.1"]]]',
        b'[1,[["10.1.0.5","%s.","192.0.2.1",1]]]' % (b"a" * LONGEST_NAME),
    ],
)
def test_a_file_that_is_no_file_of_names_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_answers(data, 0)


def test_a_file_cannot_make_an_answer_last_for_ever() -> None:
    (answer,) = decode_answers(encode_answers([HeardAddress(POD, NAME, "192.0.2.1", 1e18)]), 100.0)
    assert answer.until_s == 100.0 + 2**31
