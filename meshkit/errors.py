# SPDX-License-Identifier: Apache-2.0
"""The first question a caller has about a failure is whether trying again helps; that is the first split."""

from typing import Final

MAXIMUM_TEXT: Final = 256
"""Characters that are logged or shown of a text which others wrote: servers, peers, libraries."""


class MeshError(Exception):
    """Base of every error we raise on purpose."""


class TransientError(MeshError):
    """Trying again later can succeed without a change of settings or objects."""


class PermanentError(MeshError):
    """A person, or a new record, must change something first."""


class ExhaustedError(TransientError):
    """There is no room. Trying again helps once something was removed, and not before."""
