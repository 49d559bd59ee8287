# SPDX-License-Identifier: Apache-2.0
"""Reading a peer's connection file, good and bad."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.channel import channel_target
from kvstore.clientconfig import StoreEndpoint, is_client_config, parse_client_config
from kvstore.errors import Rejected
from tests.support.effort import examples

CILIUM = b"""\
endpoints:
- https://green.mesh.cilium.io:2379
trusted-ca-file: /var/lib/cilium/clustermesh/common-etcd-client-ca.crt
key-file: /var/lib/cilium/clustermesh/common-etcd-client.key
cert-file: /var/lib/cilium/clustermesh/common-etcd-client.crt
cilium-host-aliases:
- hostname: green.mesh.cilium.io
  ips: [192.0.2.40, 192.0.2.41, "2001:db8::1"]
"""


def test_ciliums_own_form_is_read() -> None:
    config = parse_client_config(CILIUM)
    assert config.endpoints == (StoreEndpoint("green.mesh.cilium.io", 2379, is_tls=True),)
    assert config.ca_file.endswith("-ca.crt")
    assert config.key_file.endswith(".key")
    targets, name = config.targets()
    assert targets == ["192.0.2.40:2379", "192.0.2.41:2379", "[2001:db8::1]:2379"]
    assert name == "green.mesh.cilium.io"


def test_an_alias_wins_over_the_resolver_and_the_resolver_over_dns() -> None:
    config = parse_client_config(
        b"endpoints: ['http://aliased:1', 'http://service.ns.svc:2', 'http://other:3']\n"
        b"cilium-host-aliases: [{hostname: aliased, ips: [192.0.2.1]}]\n"
    )
    targets, _ = config.targets({"service.ns.svc": "10.0.0.9", "aliased": "203.0.113.1"}.get)
    assert sorted(targets) == ["10.0.0.9:2", "192.0.2.1:1", "other:3"]


def test_endpoints_are_shuffled() -> None:
    config = parse_client_config(b"endpoints: ['http://10.0.0.1', 'http://10.0.0.2', 'http://10.0.0.3']")
    firsts = {config.targets(rng=random.Random(seed))[0][0] for seed in range(20)}
    assert firsts == {"10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"}


def test_relative_files_are_looked_for_beside_the_file(tmp_path: Path) -> None:
    config = parse_client_config(
        b"endpoints: ['https://a']\ntrusted-ca-file: ca.crt\ncert-file: /abs.crt\nkey-file: k", tmp_path
    )
    assert config.ca_file == str(tmp_path / "ca.crt")
    assert config.cert_file == "/abs.crt"


def test_certificates_are_read_at_each_connect_and_a_missing_one_is_named(tmp_path: Path) -> None:
    config = parse_client_config(
        b"endpoints: ['https://a']\ntrusted-ca-file: ca.crt\ncert-file: c.crt\nkey-file: c.key", tmp_path
    )
    with pytest.raises(Rejected, match=r"ca\.crt: No such file"):
        config.connect()
    for round_number in (b"1", b"2"):
        for name in ("ca.crt", "c.crt", "c.key"):
            (tmp_path / name).write_bytes(name.encode() + round_number)
        tls = config.tls("a")
        assert tls is not None
        assert (tls.ca, tls.cert, tls.key, tls.server_name) == (
            b"ca.crt" + round_number,
            b"c.crt" + round_number,
            b"c.key" + round_number,
            "a",
        )
        assert "c.key" not in repr(tls)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a YAML mapping"),
        (b"[endpoints]", "not a YAML mapping"),
        (b"[endpoints:]", "not YAML"),
        (b"endpoints: " + b"[" * 100_000, "nested deeper than 100 levels"),
        (b"endpoints: [", "not YAML"),
        (b"endpoints:", "endpoints is empty"),
        (b"endpoints: []", "endpoints is empty"),
        (b"endpoints: https://a:1", "endpoints is not a list of texts"),
        (b"endpoints: [1]", "endpoints is not a list of texts"),
        (b"endpoints: ['ftp://a']", "is not http"),
        (b"endpoints: ['https://']", "is not http"),
        (b"endpoints: ['http://a:99999']", "no usable port"),
        (b"endpoints: ['http://a/path']", "is not http"),
        (b"endpoints: ['http://a', 'https://b']", "mix http and https"),
        (b"endpoints: ['https://a']", "need trusted-ca-file"),
        (b"endpoints: ['https://a']\ntrusted-ca-file: [x]", "trusted-ca-file is not a text"),
        (b"endpoints: ['http://a']\ncilium-host-aliases: {}", "is not a list"),
        (b"endpoints: ['http://a']\ncilium-host-aliases: [x]", "not a mapping"),
        (b"endpoints: ['http://a']\ncilium-host-aliases: [{ips: [1.2.3.4]}]", "without hostname"),
        (b"endpoints: ['http://a']\ncilium-host-aliases: [{hostname: a}]", "has no ips"),
        (b"endpoints: ['http://a']\ncilium-host-aliases: [{hostname: a, ips: []}]", "has no ips"),
        (
            b"endpoints: ['http://a']\ncilium-host-aliases: [{hostname: a, ips: [x]}, {hostname: a, ips: [z]}]",
            "given twice",
        ),
        (b"endpoints: " + b"x" * (2 << 20), "larger than 1 MiB"),
    ],
)
def test_a_bad_file_is_refused_with_its_problem(content: bytes, problem: str) -> None:
    with pytest.raises(Rejected, match=problem):
        parse_client_config(content)


@settings(max_examples=examples(300))
@given(st.binary(max_size=300) | st.text(alphabet="endpoints:[]{}&*!-'\"\n https://", max_size=80).map(str.encode))
def test_no_file_crashes_the_reader(content: bytes) -> None:
    """Whatever the file holds, the answer is a configuration or Rejected."""
    try:
        parse_client_config(b"endpoints:" + content)
    except Rejected:
        return


def test_only_files_with_endpoints_are_peers() -> None:
    assert is_client_config(CILIUM)
    assert not is_client_config(b"-----BEGIN CERTIFICATE-----")
    assert not is_client_config(b"")


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["10.0.0.1:1", "10.0.0.2:2"], "ipv4:10.0.0.1:1,10.0.0.2:2"),
        (["[::1]:1"], "ipv6:[::1]:1"),
        (["a.example:1"], "dns:///a.example:1"),
        (["a.example:1", "10.0.0.1:1"], "dns:///a.example:1"),
    ],
)
def test_targets_become_what_grpc_understands(targets: list[str], expected: str) -> None:
    assert channel_target(targets) == expected


@pytest.mark.parametrize("targets", [[], ["host"], ["host:"], [":1"], ["host:port"]])
def test_unusable_targets_are_refused(targets: list[str]) -> None:
    with pytest.raises(Rejected):
        channel_target(targets)
