# SPDX-License-Identifier: Apache-2.0
"""ServiceExport → row. Pure. Source: multicluster.x-k8s.io/v1alpha1."""

from __future__ import annotations

import re
from typing import Final

from kubeintent import fields
from kubeintent.read import Obj, Read, bounded, name_of
from kubeintent.rows import ExportIntent

_STAMP: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def read_service_export(obj: Obj) -> Read[ExportIntent]:
    """The export; `created` is as the API server writes it, or empty. Raises: UnreadableError."""
    name = name_of(obj)
    problems: list[str] = []
    meta, spec = obj["metadata"], fields.mapping(obj, "spec", problems)
    created = fields.text(meta, "creationTimestamp", problems)
    if created and not _STAMP.fullmatch(created):
        problems.append(f"creationTimestamp: {fields.shown(created)} is no time in UTC")
        created = ""
    row = ExportIntent(
        name.namespace,
        name.name,
        created,
        fields.pairs(spec, "exportedLabels", problems),
        fields.pairs(spec, "exportedAnnotations", problems),
    )
    return Read(row, bounded(problems), name.uid)
