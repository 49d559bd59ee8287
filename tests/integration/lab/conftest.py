# SPDX-License-Identifier: Apache-2.0
"""One real lab for all tests of this folder, under a name of its own; nothing of it may be left afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lab_harness import Eventually, Kubectl

from lab import cleanup, mesh
from lab.names import LabNames, lab_names
from tests.support.labs import lab_name, remove_abandoned

LIMIT_S = 20.0


@pytest.fixture
def eventually() -> Eventually:
    """Ask until the answer is true, for a bounded time; returns it."""

    def ask(question: Callable[[], Any]) -> Any:
        limit = time.monotonic() + LIMIT_S
        while not (answer := question()):
            assert time.monotonic() < limit, f"not within {LIMIT_S:g} s: {question.__doc__ or question}"
        return answer

    return ask


@pytest.fixture(scope="session")
def lab() -> Iterator[LabNames]:
    remove_abandoned()
    lab = lab_names(lab_name("t"))
    mesh.up(lab)
    yield lab
    cleanup.remove_lab(lab)
    assert cleanup.leftovers(lab) == []


@pytest.fixture(scope="session")
def kubectl(lab: LabNames) -> Kubectl:
    return Kubectl(lab, "koornacht")


@pytest.fixture(scope="session")
def client(kubectl: Kubectl) -> str:
    """A pod to type in."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "client", "labels": {"name": "client"}},
        "spec": {"containers": [{"name": "c", "image": "curlimages/curl"}]},
    }
    kubectl.apply(pod)
    kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=20s")
    return "client"
