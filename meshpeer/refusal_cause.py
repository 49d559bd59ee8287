# SPDX-License-Identifier: Apache-2.0
"""Why no connection to a store can be made, when certificates are the reason: gRPC calls all of it "unavailable"."""

from __future__ import annotations

from typing import Final

from certs.diagnose import CertificateFinding, CertificateProblem, diagnose
from certs.errors import CertificateError
from certs.inspect import parse
from certs.store import CertFiles
from certs.validity import KeptCertificates, Validity, date, judge
from kvstore.options import Tls

TIMEOUT_S: Final = 3.0
OWN_REMEDY: Final = "run clustermesh certs rotate in this cluster"
CERTIFICATE_PROBLEMS: Final = frozenset(
    {
        CertificateProblem.OWN_CERTIFICATE,
        CertificateProblem.UNKNOWN_CA,
        CertificateProblem.EXPIRED,
        CertificateProblem.NOT_YET_VALID,
        CertificateProblem.WRONG_NAME,
        CertificateProblem.CLIENT_REJECTED,
    }
)


def own_problem(tls: Tls, wall_s: float) -> str:
    """What is wrong with the dates of our own certificate; empty if nothing is."""
    try:
        own = parse(tls.cert, "client certificate")[0]
    except CertificateError as exc:
        return f"{exc}: {OWN_REMEDY}"
    state = judge(wall_s, KeptCertificates(f"our certificate {own.subject_cn}", (own,), OWN_REMEDY))
    return state.sentence if state.validity in (Validity.EXPIRED, Validity.NOT_YET_VALID) else ""


async def find_cause(host: str, port: int, server_name: str, tls: Tls, wall_s: float) -> str:
    """A sentence, empty when certificates are not the reason; never raises for a bad peer."""
    if problem := own_problem(tls, wall_s):
        return problem
    files = CertFiles(tls.ca, tls.cert, tls.key)
    return describe(await diagnose(host, port, server_name, files, TIMEOUT_S))


async def find_end(host: str, port: int, server_name: str, tls: Tls) -> float:
    """When the certificate that the server shows ends, wall seconds; 0 if it shows none now."""
    found = await diagnose(host, port, server_name, CertFiles(tls.ca, tls.cert, tls.key), TIMEOUT_S)
    return found.server.not_after_s if found.server is not None else 0.0


def describe(finding: CertificateFinding) -> str:
    """The finding as a sentence with the date where it is a matter of dates."""
    if finding.problem not in CERTIFICATE_PROBLEMS:
        return ""
    server = finding.server
    if server is not None and finding.problem is CertificateProblem.EXPIRED:
        return f"the server's certificate expired on {date(server.not_after_s)}: run clustermesh certs rotate there"
    if server is not None and finding.problem is CertificateProblem.NOT_YET_VALID:
        return f"the server's certificate is not valid before {date(server.not_before_s)}: correct the clocks"
    return f"{finding.problem}: {finding.advice}"
