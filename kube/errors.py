# SPDX-License-Identifier: Apache-2.0
"""What a Kubernetes API server can refuse, split by whether trying again helps."""

from __future__ import annotations

from meshkit.errors import MAXIMUM_TEXT, MeshError, PermanentError, TransientError


class KubeError(MeshError):
    """A request to Kubernetes did not do what was asked.

    `status` is the HTTP status, 0 where no answer came.
    """

    def __init__(self, what: str, status: int = 0, reason: str = "", detail: str = "") -> None:
        self.what, self.status, self.reason, self.detail = what, status, reason, detail[:MAXIMUM_TEXT]
        facts = " ".join(part for part in (str(status) if status else "", reason, self.detail) if part)
        super().__init__(f"{what}: {facts}" if facts else what)


class NotFound(KubeError, PermanentError):  # noqa: N818 - Kubernetes' own word for it
    """The object, its namespace or its kind does not exist."""


class Forbidden(KubeError, TransientError):  # noqa: N818 - Kubernetes' own word for it
    """Our account may not do this. A server that has just started says so of everything until it has read its roles."""


class Unauthorized(KubeError, TransientError):  # noqa: N818 - Kubernetes' own word for it
    """Our credentials were not accepted; a refreshed token may be."""


class Invalid(KubeError, PermanentError):  # noqa: N818 - Kubernetes' own word for it
    """The request or the object was not understood or breaks a rule."""


class Conflict(KubeError, TransientError):  # noqa: N818 - Kubernetes' own word for it
    """Somebody else changed the object first: read it again."""


class AlreadyExists(Conflict):
    """An object of this name was there before."""


class Gone(KubeError, TransientError):  # noqa: N818 - Kubernetes' own word for it
    """The resource version or continue token is too old: list again."""


class ServerFailed(KubeError, TransientError):  # noqa: N818 - Kubernetes' own word for it
    """The server answered that it cannot answer now (429 or 5xx)."""


class Unreachable(KubeError, TransientError):  # noqa: N818 - Kubernetes' own word for it
    """No answer: connection refused, reset, timed out, or TLS failed."""


class Silent(Unreachable):
    """A stream on which nothing came within its limit: the server has nothing to say, or it is gone."""


class ConfigError(KubeError, PermanentError):
    """No usable kubeconfig, context or service account."""


def error_for(what: str, status: int, reason: str, detail: str) -> KubeError:
    """The error that stands for one refused request.

    Source: HTTP status and `reason` of a Kubernetes Status object.
    """
    if status == 409 and reason == "AlreadyExists":
        return AlreadyExists(what, status, reason, detail)
    known: dict[int, type[KubeError]] = {
        400: Invalid,
        401: Unauthorized,
        403: Forbidden,
        404: NotFound,
        405: Invalid,
        409: Conflict,
        410: Gone,
        415: Invalid,
        422: Invalid,
        429: ServerFailed,
    }
    kind = known.get(status, ServerFailed if status >= 500 else KubeError)
    return kind(what, status, reason, detail)
