# SPDX-License-Identifier: Apache-2.0
"""Which resources there are: the built-in ones, and those that custom resource definitions add while we run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lab.devkube.api.error import no_such_path

ResourceKey = tuple[str, str]
"""Group ("" for the core group) and plural: what objects are stored under, whatever version they are asked in."""

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class ApiResource:
    """One row of the discovery document: a kind in one version."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    custom: bool = False
    singular: str = ""

    @property
    def key(self) -> ResourceKey:
        return self.group, self.plural

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The name that error messages use, such as deployments.apps."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def has_generation(self) -> bool:
        """Whether metadata.generation counts changes of intent; kinds of the core group mostly have none."""
        return self.custom or self.group in _GENERATION_GROUPS


_GENERATION_GROUPS = frozenset(
    {
        "apps",
        "batch",
        "networking.k8s.io",
        "discovery.k8s.io",
        "policy",
        "scheduling.k8s.io",
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
    }
)
_RBAC = "rbac.authorization.k8s.io"
_STATUS = ("status",)
_SCALED = ("status", "scale")
_HOOKS = ("api-extensions",)
_POD_SUBRESOURCES = ("status", "log", "exec", "binding", "eviction", "proxy")

BUILT_IN: tuple[ApiResource, ...] = (
    ApiResource("", "v1", "namespaces", "Namespace", False, ("ns",), (), ("status", "finalize")),
    ApiResource("", "v1", "nodes", "Node", False, ("no",), (), _STATUS),
    ApiResource("", "v1", "pods", "Pod", True, ("po",), ("all",), _POD_SUBRESOURCES),
    ApiResource("", "v1", "services", "Service", True, ("svc",), ("all",), ("status", "proxy")),
    ApiResource("", "v1", "configmaps", "ConfigMap", True, ("cm",)),
    ApiResource("", "v1", "secrets", "Secret"),
    ApiResource("", "v1", "serviceaccounts", "ServiceAccount", True, ("sa",), (), ("token",)),
    ApiResource("", "v1", "endpoints", "Endpoints", True, ("ep",), singular="endpoints"),
    ApiResource("", "v1", "events", "Event", True, ("ev",)),
    ApiResource("apps", "v1", "deployments", "Deployment", True, ("deploy",), ("all",), _SCALED),
    ApiResource("apps", "v1", "replicasets", "ReplicaSet", True, ("rs",), ("all",), _SCALED),
    ApiResource("apps", "v1", "daemonsets", "DaemonSet", True, ("ds",), ("all",), _STATUS),
    ApiResource("apps", "v1", "controllerrevisions", "ControllerRevision"),
    ApiResource("batch", "v1", "jobs", "Job", True, (), ("all",), _STATUS),
    ApiResource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
    ApiResource("coordination.k8s.io", "v1", "leases", "Lease"),
    ApiResource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", True, ("netpol",)),
    ApiResource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", True, ("pdb",), (), _STATUS),
    ApiResource(_RBAC, "v1", "roles", "Role"),
    ApiResource(_RBAC, "v1", "rolebindings", "RoleBinding"),
    ApiResource(_RBAC, "v1", "clusterroles", "ClusterRole", False),
    ApiResource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", False),
    ApiResource(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        False,
        ("crd", "crds"),
        ("api-extensions",),
        _STATUS,
    ),
)

"""Kinds of which something follows here: pods, addresses, rights, rules, answers."""

KEPT: tuple[ApiResource, ...] = (
    ApiResource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", True, ("pvc",), (), _STATUS),
    ApiResource("", "v1", "persistentvolumes", "PersistentVolume", False, ("pv",), (), _STATUS),
    ApiResource("", "v1", "limitranges", "LimitRange", True, ("limits",)),
    ApiResource("", "v1", "resourcequotas", "ResourceQuota", True, ("quota",), (), _STATUS),
    ApiResource("apps", "v1", "statefulsets", "StatefulSet", True, ("sts",), ("all",), _SCALED),
    ApiResource("batch", "v1", "cronjobs", "CronJob", True, ("cj",), ("all",), _STATUS),
    ApiResource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", True, ("hpa",), ("all",), _STATUS),
    ApiResource("networking.k8s.io", "v1", "ingresses", "Ingress", True, ("ing",), (), _STATUS),
    ApiResource("networking.k8s.io", "v1", "ingressclasses", "IngressClass", False),
    ApiResource("storage.k8s.io", "v1", "storageclasses", "StorageClass", False, ("sc",)),
    ApiResource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", False, ("pc",)),
    ApiResource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", False),
    ApiResource("apiregistration.k8s.io", "v1", "apiservices", "APIService", False, (), _HOOKS, _STATUS),
    ApiResource(
        "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration",
        False, (), _HOOKS,
    ),
    ApiResource(
        "admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration",
        False, (), _HOOKS,
    ),
)  # fmt: skip
"""Kinds that applications' manifests bring: they have their schema, defaults and columns, and nothing follows from them."""

_CREATE_ONLY = ("create",)
REVIEWS: tuple[ApiResource, ...] = tuple(
    ApiResource(group, "v1", plural, kind, namespaced, verbs=_CREATE_ONLY)
    for group, plural, kind, namespaced in (
        ("authentication.k8s.io", "tokenreviews", "TokenReview", False),
        ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", False),
        ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", False),
        ("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview", True),
        ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False),
        ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", False),
    )
)


@dataclass(slots=True)
class Catalog:
    """All resources served now. `generation` grows with every change, so that documents made from it can be kept."""

    generation: int = 0
    _served: dict[tuple[str, str, str], ApiResource] = field(default_factory=dict)

    def put(self, resource: ApiResource) -> None:
        self._served[(resource.group, resource.version, resource.plural)] = resource
        self.generation += 1

    def remove(self, resource: ApiResource) -> None:
        self._served.pop((resource.group, resource.version, resource.plural), None)
        self.generation += 1

    def find(self, group: str, version: str, plural: str) -> ApiResource | None:
        return self._served.get((group, version, plural))

    def by_plural(self, plural: str, group: str = "") -> ApiResource:
        """The resource in its preferred version. Raises ApiError 404 if it is not served."""
        for resource in self._served.values():
            if resource.plural == plural and resource.group == group:
                return resource
        raise no_such_path()

    def by_kind(self, group: str, kind: str) -> ApiResource | None:
        return next((r for r in self._served.values() if r.group == group and r.kind == kind), None)

    def is_served(self, resource: ApiResource) -> bool:
        return (resource.group, resource.version, resource.plural) in self._served

    def versions(self) -> dict[str, list[str]]:
        """Versions by group, the preferred one first, in order of registration."""
        found: dict[str, list[str]] = {}
        for resource in self._served.values():
            versions = found.setdefault(resource.group, [])
            if resource.version not in versions:
                versions.append(resource.version)
        return found

    def in_version(self, group: str, version: str) -> list[ApiResource]:
        return [r for r in self._served.values() if (r.group, r.version) == (group, version)]

    def __iter__(self) -> Iterator[ApiResource]:
        return iter(tuple(self._served.values()))


def built_in_catalog() -> Catalog:
    catalog = Catalog()
    for resource in (*BUILT_IN, *KEPT, *REVIEWS):
        catalog.put(resource)
    return catalog
