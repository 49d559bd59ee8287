# SPDX-License-Identifier: Apache-2.0
"""`disable` that dies after any of its deletions leaves a cluster that can be enabled again as what it was."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest

import kube.resource as k
from clustermesh_cli.commands import disable as command
from clustermesh_cli.commands.disable import DisableOptions, disable
from clustermesh_cli.console import Console
from kube.client import KubeClient
from kube.errors import KubeError, ServerFailed, Unreachable
from meshapi.installed import CONFIG_MAP

IDENTITIES = {"131073", "131074"}


class KilledError(BaseException):
    """The command is gone."""


class Cluster:
    """An enabled cluster without agents; dies after so many deletions."""

    def __init__(self, dies_after: int) -> None:
        self.left = dies_after
        self.config: dict[str, Any] | None = {"data": {"cluster-name": "south", "cluster-id": "2"}}
        self.identities = set(IDENTITIES)

    def get(self, resource: k.Resource, name: str, _namespace: str | None = None) -> dict[str, Any] | None:
        return self.config if (resource, name) == (k.CONFIG_MAPS, CONFIG_MAP) else None

    def list(self, resource: k.Resource, *_: object) -> list[dict[str, Any]]:
        names = sorted(self.identities) if resource == k.CILIUM_IDENTITIES else []
        return [{"metadata": {"name": name}} for name in names]

    def delete(self, resource: k.Resource, name: str, _namespace: str | None = None) -> bool:
        if (resource, name) == (k.CONFIG_MAPS, CONFIG_MAP):
            self.config = None
        self.identities.discard(name)
        self.left -= 1
        if self.left == 0:
            raise KilledError
        return True


def run(cluster: Cluster, options: DisableOptions) -> bool:
    """Whether it came to its end."""
    try:
        disable(cast(KubeClient, cluster), "kube-system", options, Console(plain=True, stream=io.StringIO()))
    except KilledError:
        return False
    return True


def test_the_id_is_known_until_nothing_is_numbered_by_it() -> None:
    for dies_after in range(1, 200):
        cluster = Cluster(dies_after)
        if run(cluster, DisableOptions()):
            break
        assert cluster.config is not None or not cluster.identities, f"after {dies_after} deletions"
    assert dies_after > 10
    assert (cluster.config, cluster.identities) == (None, set())


@pytest.mark.parametrize("dies_after", [1, 5, 10])
def test_disable_again_ends_what_was_begun(dies_after: int) -> None:
    cluster = Cluster(dies_after)
    assert not run(cluster, DisableOptions())
    assert run(cluster, DisableOptions())
    assert (cluster.config, cluster.identities) == (None, set())


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, Unreachable("delete"), ServerFailed("delete", 503)])
def test_interrupted_it_says_what_to_run_next(end: type[BaseException] | KubeError) -> None:
    class Interrupted(Cluster):
        def delete(self, resource: k.Resource, name: str, namespace: str | None = None) -> bool:
            raise end

    said = io.StringIO()
    console = Console(plain=True, stream=said)
    with pytest.raises(end if isinstance(end, type) else type(end)):
        disable(cast(KubeClient, Interrupted(0)), "kube-system", DisableOptions(), console)
    assert "run clustermesh disable again with the same flags to finish, or clustermesh enable" in said.getvalue()


class Leaving(Cluster):
    """A node detaches; the API server is away when its agent confirms that, for so many questions."""

    def __init__(self, away: int) -> None:
        super().__init__(0)
        self.away, self.asked = away, 0

    def get(self, resource: k.Resource, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        if resource == k.DAEMON_SETS:
            return {"metadata": {"name": name}, "spec": {"template": {"spec": {"containers": [{"name": "agent"}]}}}}
        return super().get(resource, name, namespace)

    def patch_merge(self, *_: object) -> dict[str, Any]:
        return {}

    def list(self, resource: k.Resource, *words: object) -> list[dict[str, Any]]:
        if resource == k.NODES:
            self.asked += 1
            if self.asked <= self.away:
                raise Unreachable("list nodes")
        return super().list(resource, *words)


def test_an_api_server_that_is_away_while_nodes_detach_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "POLL_S", 0.01)
    cluster = Leaving(away=3)
    assert run(cluster, DisableOptions())
    assert (cluster.config, cluster.identities, cluster.asked) == (None, set(), 4)


def test_an_api_server_that_stays_away_ends_the_command_and_nothing_was_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "POLL_S", 0.01)
    cluster = Leaving(away=1 << 30)
    with pytest.raises(Unreachable):
        run(cluster, DisableOptions(wait_s=0.05))
    assert (cluster.config is None, cluster.identities, cluster.left) == (False, IDENTITIES, 0)


def test_identities_are_kept_with_what_numbers_them() -> None:
    cluster = Cluster(0)
    assert run(cluster, DisableOptions(keep_identities=True))
    assert cluster.config is not None
    assert cluster.identities == IDENTITIES
