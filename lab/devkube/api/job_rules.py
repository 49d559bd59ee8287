# SPDX-License-Identifier: Apache-2.0
"""What is special about a Job: the labels that make its pods its own, and what makes it unacceptable. Pure.

Source: the answers of Kubernetes 1.36.
"""

from __future__ import annotations

from collections.abc import Iterator

from lab.devkube.api import field_rules as rule
from lab.devkube.api.error import Cause
from lab.devkube.api.objects import Obj, name_of, part, uid_of

_IMMUTABLE = ("selector", "template", "completions", "completionMode")
_POLICIES = '"OnFailure", "Never"'


def select_own_pods(job: Obj) -> None:
    """A new Job selects its pods by its uid, unless it says that it selects them itself."""
    spec = job["spec"]
    if spec.get("manualSelector"):
        return
    uid = {"batch.kubernetes.io/controller-uid": uid_of(job)}
    labels = spec["template"]["metadata"].setdefault("labels", {})
    labels |= uid | {"controller-uid": uid_of(job)}
    labels |= {"batch.kubernetes.io/job-name": name_of(job), "job-name": name_of(job)}
    spec["selector"] = {"matchLabels": uid}


def check_job(job: Obj, old: Obj | None) -> Iterator[Cause]:
    spec = part(job, "spec")
    policy = part(part(spec, "template"), "spec").get("restartPolicy")
    if policy not in ("OnFailure", "Never"):
        yield rule.required("spec.template.spec.restartPolicy", f"valid values: {_POLICIES}")
    for field in ("parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"):
        if (value := spec.get(field)) is not None and int(value) < 0:
            yield rule.bad_value(f"spec.{field}", value, "must be greater than or equal to 0")
    if old is None:
        if spec.get("selector") and not spec.get("manualSelector"):
            yield rule.bad_value("spec.selector", spec["selector"], "`selector` not auto-generated")
        return
    for field in _IMMUTABLE:
        if old["spec"].get(field) != spec.get(field):
            yield rule.bad_value(f"spec.{field}", spec.get(field), "field is immutable")
