# SPDX-License-Identifier: Apache-2.0
"""Which name and id a cluster gets, and when it is refused another."""

from __future__ import annotations

import pytest

from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.plan.cluster_identity import decide_identity


def test_what_the_cluster_already_is_wins_over_the_context() -> None:
    config = {"cluster-name": "koornacht", "cluster-id": "1"}
    decided = decide_identity(name=None, id_=None, config=config, context="kind-other")
    assert (decided.name, decided.id, decided.maximum) == ("koornacht", 1, 255)


def test_a_new_cluster_is_named_after_its_context_and_numbered_the_same_each_time() -> None:
    first = decide_identity(name=None, id_=None, config={}, context="kind-tion")
    again = decide_identity(name=None, id_=None, config={}, context="kind-tion")
    assert first.name == "tion"
    assert first == again
    assert 1 <= first.id <= 255


def test_the_default_values_of_a_cilium_installation_count_as_not_set() -> None:
    decided = decide_identity(name="blue", id_=7, config={"cluster-name": "default", "cluster-id": "0"}, context=None)
    assert (decided.name, decided.id) == ("blue", 7)


@pytest.mark.parametrize(
    ("name", "id_", "config", "words"),
    [
        ("tion", None, {"cluster-name": "koornacht", "cluster-id": "1"}, "already has the name koornacht"),
        (None, 9, {"cluster-name": "koornacht", "cluster-id": "1"}, "already has the id 1"),
        ("Tion", 1, {}, "Tion"),
        ("tion", 256, {}, "256"),
        (None, None, {}, "has no name yet"),
    ],
    ids=["rename", "renumber", "bad-name", "id-too-large", "nothing-to-go-by"],
)
def test_what_cannot_be_is_refused(name: str | None, id_: int | None, config: dict[str, str], words: str) -> None:
    with pytest.raises(CommandRefusedError, match=words):
        decide_identity(name=name, id_=id_, config=config, context=None)
