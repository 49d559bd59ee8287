# SPDX-License-Identifier: Apache-2.0
"""A connection through a service may say nothing for longer than a connection that never got an answer is remembered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.mesh import CLUSTERS, Mesh, wait_until
from e2e.patient import CLIENT, patient_servers
from e2e.policies import Place, in_pod

SILENCE_S = 75
CONNECTIONS = 12
SILENT = f"""{CLIENT}
made = [connect() for _ in range({CONNECTIONS})]
before = [ask(one) for one in made]
print("asked", flush=True)
time.sleep({SILENCE_S})
for one, first in zip(made, before):
    try:
        print(first, ask(one), flush=True)
    except OSError as exc:
        print(first, type(exc).__name__, flush=True)
"""


@pytest.fixture
def patient(whole: Mesh) -> Iterator[Mesh]:
    """Both clusters run the server behind one global service."""
    with patient_servers(whole):
        yield whole


def _both_answer(mesh: Mesh, place: Place) -> bool:
    script = SILENT.replace(f"time.sleep({SILENCE_S})", "")
    with in_pod(mesh, place, script) as lines:
        wait_until("every connection is answered", lambda: len(lines()) == CONNECTIONS + 1)
        return {line.split()[0] for line in lines()[1:]} == set(CLUSTERS)


def test_a_connection_silent_for_75_seconds_is_answered_by_the_same_backend(patient: Mesh) -> None:
    place = Place("koornacht", patient.pod("koornacht", "x-wing")[0])
    wait_until("both clusters answer", lambda: _both_answer(patient, place))
    with in_pod(patient, place, SILENT) as lines:
        wait_until(f"{SILENCE_S} s have passed", lambda: len(lines()) == CONNECTIONS + 1, SILENCE_S + 15 * CONNECTIONS)
        pairs = [line.split() for line in lines()[1:]]
    assert {before for before, _ in pairs} == set(CLUSTERS)
    assert [after for _, after in pairs] == [before for before, _ in pairs]
