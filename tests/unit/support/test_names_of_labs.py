# SPDX-License-Identifier: Apache-2.0
"""No run of tests removes a lab that is in use: neither its own workers' nor another run's."""

from __future__ import annotations

import os

import pytest

from lab.names import lab_names
from tests.support.labs import VARIABLE, WORKER, is_abandoned, lab_name

NOBODY = 4194305
"""Greater than any process id of Linux."""


def test_every_worker_has_a_lab_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "4194304")
    names = set()
    for worker in ("gw0", "gw1"):
        monkeypatch.setenv(WORKER, worker)
        names |= {lab_name("e2e"), lab_name("e2e", "w")}
    monkeypatch.delenv(WORKER)
    names |= {lab_name("e2e"), lab_name("e2e", "w")}
    assert len(names) == 6
    assert {lab_names(name).name for name in names} == names


def test_the_run_of_a_worker_is_the_process_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv(WORKER, "gw0")
    assert lab_name("e2e") == f"e2e{os.getppid():05}a"


@pytest.mark.parametrize("suffix", ["", "a", "b", "wa"])
def test_labs_of_this_run_are_in_use_whatever_its_process_is_called(
    monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setenv(VARIABLE, str(NOBODY))
    assert not is_abandoned(f"e2e{NOBODY:05}{suffix}")


def test_labs_of_a_run_that_ended_are_abandoned_and_those_of_people_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert is_abandoned(f"e2e{NOBODY:05}wa")
    assert is_abandoned(f"t{NOBODY:05}")
    assert not is_abandoned("mesh")
    assert not is_abandoned("e2e")
    assert not is_abandoned("u1")
    assert not is_abandoned("t12")
