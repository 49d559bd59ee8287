# SPDX-License-Identifier: Apache-2.0
"""Numbers for label sets: the same for everybody, kept while used, free again after a grace."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from clustermesh_apiserver.identity.allocator import IdentityAllocator, manifest
from clustermesh_apiserver.identity.number_choice import Grace, IdentityBook
from clustermesh_apiserver.tables import Tables
from kube.errors import AlreadyExists, Unreachable
from kubeintent.cilium import read_cilium_identity
from kubeintent.read import UnreadableError
from kubeintent.rows import IdentityIntent
from meshkit.clock import ManualClock
from meshmodel.identity import identity_range
from meshmodel.labels import Labels, pod_labels
from tests.unit.apiserver.apiserver_wait import until

RANGE = identity_range(1)


def labels(app: str) -> Labels:
    return pod_labels({"app": app}, "shop", {"a": "b"}, "default", "blue")


def test_the_first_candidate_follows_from_the_labels_alone() -> None:
    one, two = IdentityBook(RANGE), IdentityBook(RANGE)
    two.set_identity(65999, labels("x"))
    assert next(one.candidates(labels("cart"))) == next(two.candidates(labels("cart")))
    assert next(one.candidates(labels("cart"))) != next(one.candidates(labels("web")))


def test_candidates_stay_in_the_range_and_skip_what_is_taken() -> None:
    book, rng = IdentityBook(RANGE), random.Random(1)
    for index in range(2000):
        wanted = labels(str(rng.random()))
        number = next(book.candidates(wanted))
        assert RANGE.first + 256 <= number <= RANGE.last
        assert book.labels_of(number) is None
        book.set_identity(number, wanted)
        assert len(book) == index + 1


def test_a_full_range_has_no_candidates() -> None:
    book = IdentityBook(identity_range(1)._replace(first=65536, last=65536 + 256 + 3))
    for index in range(4):
        book.set_identity(next(book.candidates(labels(str(index)))), labels(str(index)))
    assert list(book.candidates(labels("more"))) == []


def test_of_two_numbers_for_one_label_set_everybody_uses_the_lower() -> None:
    book = IdentityBook(RANGE)
    book.set_identity(70001, labels("cart"))
    book.set_identity(70000, labels("cart"))
    assert book.number_of(labels("cart")) == 70000
    book.forget(70000)
    assert book.number_of(labels("cart")) == 70001
    book.forget(70001)
    assert book.number_of(labels("cart")) is None


def test_a_number_expires_only_after_being_unused_the_whole_grace() -> None:
    grace = Grace(100)
    assert grace.expired({1, 2}, now=0) == []
    assert grace.expired({1}, now=60) == []
    assert grace.expired({1, 2}, now=100) == [1]
    assert grace.expired({2}, now=199) == []
    assert grace.expired({2}, now=200) == [2]


class Objects:
    """CiliumIdentity objects with an API server's answers."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, Any]] = {}
        self.fail = 0
        self.creates = 0

    def create(self, resource: object, obj: dict[str, Any]) -> dict[str, Any]:
        self.creates += 1
        if self.fail:
            self.fail -= 1
            raise Unreachable("POST")
        name = obj["metadata"]["name"]
        if name in self.stored:
            raise AlreadyExists("POST", 409, "AlreadyExists")
        self.stored[name] = obj
        return obj

    def get(self, resource: object, name: str) -> dict[str, Any] | None:
        return self.stored.get(name)

    def delete(self, resource: object, name: str) -> bool:
        return self.stored.pop(name, None) is not None


class World:
    """An allocator at work; `told` are the owners it woke."""

    def __init__(self, objects: Objects, clock: ManualClock | None = None) -> None:
        self.tables, self.told, self.rows = Tables(), [], []  # type: ignore[var-annotated]
        self.allocator = IdentityAllocator(
            objects,  # type: ignore[arg-type]
            self.tables,
            RANGE,
            on_identity=self.rows.append,
            on_number=self.told.append,
            grace_s=100,
            clock=clock,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        task = asyncio.get_running_loop().create_task(self.allocator.run())
        try:
            yield
        finally:
            task.cancel()

    async def number(self, owner: str, wanted: Labels) -> int:
        await until(lambda: self.allocator.use(owner, wanted) is not None)
        return int(self.allocator.use(owner, wanted) or 0)


async def test_a_missing_number_is_made_once_and_owners_are_told() -> None:
    objects = Objects()
    world = World(objects)
    with world.running():
        assert world.allocator.use("shop/a", labels("cart")) is None
        assert world.allocator.use("shop/b", labels("cart")) is None
        number = await world.number("shop/a", labels("cart"))
    assert objects.creates == 1
    assert world.told == [{"shop/a", "shop/b"}]
    assert world.rows == [str(number)]
    stored = read_cilium_identity(objects.stored[str(number)]).row
    assert stored == IdentityIntent(number, labels("cart"), "shop", managed=True)


async def test_labels_that_nobody_used_when_their_turn_came_get_a_number_when_somebody_does() -> None:
    objects = Objects()
    world = World(objects)
    world.allocator.use("shop/a", labels("cart"))
    world.allocator.release("shop/a")
    with world.running():
        await until(lambda: world.allocator.pending == 0)
        assert objects.creates == 0
        number = await world.number("shop/b", labels("cart"))
    assert list(objects.stored) == [str(number)]


async def test_two_replicas_meet_at_one_object() -> None:
    objects = Objects()
    one, two = World(objects), World(objects)
    with one.running(), two.running():
        numbers = await asyncio.gather(one.number("a", labels("cart")), two.number("a", labels("cart")))
    assert numbers[0] == numbers[1]
    assert list(objects.stored) == [str(numbers[0])]


async def test_a_number_that_somebody_else_took_for_other_labels_is_left_alone() -> None:
    objects = Objects()
    first = next(IdentityBook(RANGE).candidates(labels("cart")))
    objects.create(None, manifest(first, labels("web")))
    world = World(objects)
    with world.running():
        number = await world.number("a", labels("cart"))
    assert number != first
    assert world.allocator.use("b", labels("web")) == first


async def test_a_failed_request_is_repeated_and_shown_meanwhile() -> None:
    objects = Objects()
    objects.fail = 1
    clock = ManualClock()
    world = World(objects, clock)
    with world.running():
        world.allocator.use("a", labels("cart"))
        await until(lambda: bool(world.allocator.last_error))
        assert world.allocator.pending == 1

        def is_repeated() -> bool:
            clock.advance(1)
            return world.allocator.use("a", labels("cart")) is not None

        await until(is_repeated)
    assert world.allocator.last_error == ""


async def test_an_unused_identity_of_ours_goes_after_the_grace_and_others_stay() -> None:
    objects, clock = Objects(), ManualClock()
    world = World(objects, clock)
    world.tables.pods.synced = world.tables.identities.synced = True
    foreign = IdentityIntent(70000, labels("foreign"), "shop", managed=False)
    world.tables.identities.put("70000", foreign)
    world.allocator.observe(foreign)
    objects.stored["70000"] = {}
    with world.running():
        kept = await world.number("a", labels("kept"))
        gone = await world.number("b", labels("gone"))
        world.allocator.release("b")

        def is_gone() -> bool:
            clock.advance(61)
            return str(gone) not in objects.stored

        await until(is_gone)
    assert set(objects.stored) == {"70000", str(kept)}


async def test_an_identity_deleted_under_its_users_comes_back_with_its_number() -> None:
    objects = Objects()
    world = World(objects)
    with world.running():
        number = await world.number("a", labels("cart"))
        del objects.stored[str(number)]
        world.tables.identities.delete(str(number))
        world.allocator.forget(number)
        assert world.told[-1] == {"a"}
        assert await world.number("a", labels("cart")) == number
    with suppress(KeyError):
        assert objects.stored[str(number)]


@pytest.mark.parametrize("name", ["x", "", "12a", "-5", "¹²"])
def test_an_object_whose_name_is_no_number_is_no_identity(name: str) -> None:
    try:
        row = read_cilium_identity({"metadata": {"name": name}, "security-labels": {"k8s:a": "b"}}).row
    except UnreadableError:
        row = None
    assert row is None
