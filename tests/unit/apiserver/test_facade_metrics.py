# SPDX-License-Identifier: Apache-2.0
"""What the metrics say of those who use the facade: one row for each user, however many clients the user is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from clustermesh_apiserver.apiserver import Apiserver
from clustermesh_apiserver.settings import ApiserverSettings
from clustermesh_apiserver.status.metrics import collect
from kvstore.facade.connections import ClientInfo


class Facade:
    """A facade with two of our agents, one of them gone, and a peer that left."""

    refused = 4

    def clients(self) -> list[ClientInfo]:
        return [
            ClientInfo("local-blue 10.0.0.1", "local-blue", 2, 3, 9, in_flight_bytes=100, refused=1, limit=""),
            ClientInfo("local-blue 10.0.0.2", "local-blue", 0, 0, 0, in_flight_bytes=20, refused=5, limit=""),
            ClientInfo("remote-green", "remote-green", 0, 0, 0, in_flight_bytes=0, refused=7, limit=""),
        ]

    def history_bytes(self) -> int:
        return 12


def samples(facade: Facade | None) -> dict[tuple[str, str], float]:
    """Of an apiserver that has no store open."""
    apiserver = SimpleNamespace(
        settings=ApiserverSettings(cluster_name="blue", cluster_id=1),
        facade_server=SimpleNamespace(facade=facade, not_after_s=0.0),
        confirmations=SimpleNamespace(waiting=list),
        allocator=SimpleNamespace(pending=3),
        publication=None,
        peers=list,
        stores=dict,
    )
    return {
        (sample.name.removeprefix("clustermesh_apiserver_"), ",".join(sample.labels.values())): sample.value
        for family in collect(cast(Apiserver, apiserver))
        for sample in family.samples
    }


def test_clients_of_one_user_are_one_row_and_who_has_no_connection_is_not_connected() -> None:
    found = samples(Facade())
    assert found["facade_clients", "local-blue"] == 2
    assert ("facade_clients", "remote-green") not in found
    assert found["facade_in_flight_bytes", "local-blue"] == 120
    assert found["facade_limited_total", "local-blue"] == 6
    assert found["facade_limited_total", "remote-green"] == 7
    assert (found["facade_refused_total", ""], found["facade_history_bytes", ""]) == (4, 12)


def test_without_a_store_or_a_certificate_nothing_is_made_up() -> None:
    found = samples(None)
    assert (found["facade_refused_total", ""], found["facade_history_bytes", ""]) == (0, 0)
    assert found["identities_pending", ""] == 3
    names = {name for name, _ in found}
    assert not names & {"etcd_size_bytes", "etcd_used_bytes", "certificate_expiry_timestamp_seconds", "facade_clients"}
