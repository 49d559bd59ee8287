# SPDX-License-Identifier: Apache-2.0
"""What `clustermesh observe` was asked for: the request, and how answers are shown. Pure. Source: `hubble observe`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from flows.document import read_json
from flows.errors import FilterError, RequestError
from flows.flags import NOT, SIDED, SINGLE, SWITCHES, FilterFlag, make_lists, takes_value
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.text import Look
from meshkit.arguments import Arguments

LAST_DEFAULT: Final = 20
ALL: Final = (1 << 64) - 1
FORMS: Final = ("compact", "dict", "table", "json", "jsonpb")
_SHORT: Final = {"namespace": "-n", "all-namespaces": "-A", "label": "-l", "type": "-t", "ipv4": "-4", "ipv6": "-6"}
_UNITS_S: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_RELATIVE: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|h|m|s))+")
_STAMPS: Final = {
    "RFC3339": ("%Y-%m-%dT%H:%M:%S", 0, "Z"),
    "RFC3339Milli": ("%Y-%m-%dT%H:%M:%S", 3, "Z"),
    "RFC3339Micro": ("%Y-%m-%dT%H:%M:%S", 6, "Z"),
    "RFC1123Z": ("%a, %d %b %Y %H:%M:%S", 0, " +0000"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveWish:
    """`raw` asks for the request itself; `server` is empty where the agents are asked through the API server."""

    request: observer.GetFlowsRequest
    form: str
    look: Look
    raw: bool
    agent_events: bool
    arguments: argparse.Namespace

    @property
    def server(self) -> str:
        return str(self.arguments.server)

    @property
    def clusters(self) -> tuple[str, ...]:
        """Those that were named; none: the one that is asked."""
        return tuple(name for name in str(self.arguments.clusters).split(",") if name)


class ObserveArguments(Arguments):
    """Wrong use is an error like any other of the command."""

    def error(self, message: str) -> NoReturn:
        """Raises: RequestError."""
        text = " ".join(message.split()).rstrip(".")
        raise RequestError(f"{text}. See {self.prog} --help.")


class _Record(argparse.Action):
    """Keeps filter flags in the order in which they are given."""

    def __call__(
        self,
        parser: Any,  # noqa: ARG002 - argparse's signature
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        flags: list[FilterFlag] = getattr(namespace, "flags", None) or []
        namespace.flags = [
            *flags,
            FilterFlag(str(self.metavar or self.dest), values if isinstance(values, str) else ""),
        ]


def make_parser(server: str = "") -> ObserveArguments:
    """Every flag of `clustermesh observe`. `server` is the one that the environment names."""
    parser = ObserveArguments(
        prog="clustermesh observe",
        usage="clustermesh observe [flags] [flows|agent-events]",
        allow_abbrev=False,
        description="Flows of the mesh, as `hubble observe` shows them.",
    )
    parser.add_argument(
        "what", nargs="?", choices=("flows", "agent-events"), default="flows", help="flows (default) or agent-events"
    )
    chosen = parser.add_argument_group("which of them")
    chosen.add_argument(
        "--last", type=int, help=f"the last so many of each node; {LAST_DEFAULT} if nothing is asked for"
    )
    chosen.add_argument("--first", type=int, help="the first so many that are kept")
    chosen.add_argument("--all", action="store_true", help="all that are kept")
    chosen.add_argument("--since", default="", help="only later ones: 5m, or a time such as 2026-01-31T10:00:00Z")
    chosen.add_argument("--until", default="", help="only earlier ones")
    chosen.add_argument("-f", "--follow", action="store_true", help="go on with every new one")
    filters = parser.add_argument_group("filters; values of one flag are alternatives, flags are not")
    for name in SIDED:
        for side in ("", "from-", "to-"):
            _add_filter(
                filters, f"{side}{name}", "" if side else f"of either side; --from-{name} and --to-{name}: of one"
            )
    for name, text in SINGLE.items():
        _add_filter(filters, name, text)
    for name in SWITCHES:
        _add_filter(filters, name, "")
    filters.add_argument("--not", dest=NOT, action=_Record, nargs=0, help="what the next filter says is left out")
    filters.add_argument("--allowlist", action="append", default=[], help="a filter as JSON")
    filters.add_argument("--denylist", action="append", default=[], help="a filter as JSON of what is left out")
    filters.add_argument("--print-raw-filters", action="store_true", help="show the filters as JSON and ask nobody")
    shown = parser.add_argument_group("how they are shown")
    shown.add_argument("-o", "--output", choices=FORMS, default="compact", help="form of a flow")
    shown.add_argument("--print-node-name", action="store_true", help="show where each was seen")
    shown.add_argument("--print-policy-names", action="store_true", help="show which policies decided")
    shown.add_argument("--print-cluster-name", action="store_true", help="show the cluster before each pod")
    shown.add_argument("--numeric", action="store_true", help="addresses instead of names")
    shown.add_argument("--ip-translation", type=_truth, default=True, metavar="BOOL", help="names instead of addresses")
    shown.add_argument("--time-format", choices=("StampMilli", *_STAMPS), default="StampMilli", help="form of times")
    add_server_flags(parser, server)
    asked = parser.add_argument_group(
        "who is asked without --server: the relay, or without one every agent, through the API server"
    )
    asked.add_argument(
        "--clusters",
        default="",
        metavar="NAMES",
        help="clusters whose relays are asked: all, or names separated by commas; this one by default",
    )
    asked.add_argument("--context", help="kubeconfig context; the current one by default")
    asked.add_argument("--kubeconfig", help="path of the kubeconfig")
    asked.add_argument("--mesh-namespace", default="", help="where the mesh runs")
    return parser


def add_server_flags(parser: argparse.ArgumentParser, server: str) -> None:
    """How an observer or a relay is reached."""
    reached = parser.add_argument_group("an observer or a relay that is asked")
    reached.add_argument("--server", default=server, help="host:port, tls://host:port or unix:///path; HUBBLE_SERVER")
    reached.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for a connection")
    reached.add_argument("--tls", action="store_true", help="with TLS")
    reached.add_argument("--tls-ca-cert-files", action="append", default=[], help="authorities of the server")
    reached.add_argument("--tls-client-cert-file", default="", help="our certificate")
    reached.add_argument("--tls-client-key-file", default="", help="its key")
    reached.add_argument("--tls-server-name", default="", help="the name to expect")


def _add_filter(group: Any, name: str, text: str) -> None:
    words = [*([_SHORT[name]] if name in _SHORT else []), f"--{name}"]
    group.add_argument(
        *words, dest=f"filter {name}", metavar=name, action=_Record, nargs=None if takes_value(name) else 0, help=text
    )


def _truth(text: str) -> bool:
    words = {"true": True, "false": False}
    if text not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return words[text]


def parse_wish(words: Sequence[str], server: str, wall_s: float) -> ObserveWish:
    """The words after `observe`. Raises: FilterError, RequestError."""
    arguments = make_parser(server).parse_args(words)
    lists = make_lists(getattr(arguments, "flags", None) or [])
    request = observer.GetFlowsRequest(follow=arguments.follow)
    request.whitelist.extend([*lists.whitelist, *(_raw("--allowlist", text) for text in arguments.allowlist)])
    request.blacklist.extend([*lists.blacklist, *(_raw("--denylist", text) for text in arguments.denylist)])
    _choose(request, arguments, wall_s)
    if arguments.output == "table" and arguments.follow:
        raise RequestError("-o table needs all flows before the first is shown: leave out --follow")
    look = Look(
        nodes=arguments.print_node_name,
        numeric=arguments.numeric or not arguments.ip_translation,
        policies=arguments.print_policy_names,
        clusters=arguments.print_cluster_name,
        stamp=_stamp(arguments.time_format),
    )
    return ObserveWish(
        request=request,
        form=arguments.output,
        look=look,
        raw=arguments.print_raw_filters,
        agent_events=arguments.what == "agent-events",
        arguments=arguments,
    )


def _choose(request: observer.GetFlowsRequest, arguments: argparse.Namespace, wall_s: float) -> None:
    """How many, and of which time."""
    for name in ("first", "last"):
        if (value := getattr(arguments, name)) is not None and not 0 < value <= ALL:
            raise RequestError(f"--{name} {value}: expected a positive number")
    given = [f"--{name}" for name in ("first", "last", "all", "follow") if getattr(arguments, name)]
    for one, other in (("--first", "--last"), ("--first", "--follow"), ("--first", "--all"), ("--last", "--all")):
        if one in given and other in given:
            raise RequestError(f"{one} and {other} cannot be combined")
    if arguments.since:
        request.since.FromNanoseconds(parse_time(arguments.since, wall_s))
    if arguments.until:
        request.until.FromNanoseconds(parse_time(arguments.until, wall_s))
    request.first = arguments.first is not None
    if arguments.all:
        request.number = ALL
    elif arguments.first or arguments.last:
        request.number = arguments.first or arguments.last
    elif not (arguments.follow or arguments.since or arguments.until):
        request.number = LAST_DEFAULT


def parse_time(text: str, wall_s: float) -> int:
    """Nanoseconds of wall time: so long ago, or a time in UTC unless it says otherwise. Raises: RequestError."""
    if _RELATIVE.fullmatch(text):
        ago_s = sum(float(n) * _UNITS_S[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text))
        return int((wall_s - ago_s) * 1e9)
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e9)
    except (ValueError, OverflowError) as exc:
        raise RequestError(
            f"{text[:100]!r} is neither a time such as 2026-01-31T10:00:00Z nor a duration such as 5m"
        ) from exc


def _raw(flag: str, text: str) -> pb.FlowFilter:
    try:
        return read_json(text, pb.FlowFilter(), flag)
    except RequestError as exc:
        raise FilterError(flag, str(exc).removeprefix(f"{flag}: ")) from exc


def _stamp(name: str) -> Callable[[float], str] | None:
    if name not in _STAMPS:
        return None
    form, digits, end = _STAMPS[name]

    def show(wall_s: float) -> str:
        moment = datetime.fromtimestamp(wall_s, UTC)
        fraction = f".{moment.microsecond:06d}"[: digits + 1] if digits else ""
        return f"{moment:{form}}{fraction}{end}"

    return show
