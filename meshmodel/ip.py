# SPDX-License-Identifier: Apache-2.0
"""An address, who is behind it and on which node (K7). Source: spec of the wire format, 2.3, and what was observed, 4.3."""

from __future__ import annotations

from typing import Final

import msgspec

from meshmodel.address import decode_prefix, parse_address
from meshmodel.errors import ModelError, RecordError
from meshmodel.identity import FIRST_ALLOCATED, IdentityRange, Reserved
from meshmodel.limits import decode_json


class IpRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One pod address or prefix. `host_ip` is where its packets are tunnelled to; "" when unknown."""

    ip: str = msgspec.field(name="IP", default="")
    mask: str | None = msgspec.field(name="Mask", default=None)
    host_ip: str | None = msgspec.field(name="HostIP", default="")
    identity: int = msgspec.field(name="ID", default=0)
    encryption_key: int = msgspec.field(name="Key", default=0)
    metadata: str = msgspec.field(name="Metadata", default="")
    namespace: str = msgspec.field(name="K8sNamespace", default="")
    pod: str = msgspec.field(name="K8sPodName", default="")
    service_account: str = msgspec.field(name="K8sServiceAccount", default="")

    @property
    def prefix(self) -> str:
        """The address with its length: /32 or /128 for one pod."""
        if self.mask is not None:
            return decode_prefix(self.ip, self.mask)
        return f"{self.ip}/{128 if ':' in self.ip else 32}"

    def encode(self) -> bytes:
        """Bytes as the anchor writes them: empty namespace, pod and service account are left out."""
        document: dict[str, object] = {
            "IP": self.ip,
            "Mask": self.mask,
            "HostIP": self.host_ip or "",
            "ID": self.identity,
            "Key": self.encryption_key,
            "Metadata": self.metadata,
        }
        for name, value in (
            ("K8sNamespace", self.namespace), ("K8sPodName", self.pod), ("K8sServiceAccount", self.service_account)
        ):  # fmt: skip
            if value:
                document[name] = value
        return msgspec.json.encode(document)


_DECODER: Final = msgspec.json.Decoder(IpRecord)


def decode(key: str, value: bytes, *, identities: IdentityRange) -> IpRecord:
    """The record stored under `key`, an address or `network/length`, by the cluster whose identities are `identities`.

    A peer's `host` (1) is a remote node (6) to us. Identity 0 passes: the address is known, its identity not yet.
    Raises RecordError: bad-json, wrong-type, too-large, bad-address, key-mismatch, out-of-range.
    """
    record = decode_json(_DECODER, key, value)
    try:
        address = parse_address(record.ip)
        host = parse_address(record.host_ip) if record.host_ip else ""
        prefix = record.prefix
    except ModelError as exc:
        raise RecordError(key, "bad-address", str(exc)) from exc
    if key != (record.ip if record.mask is None else prefix):
        raise RecordError(key, "key-mismatch", f"holds {prefix}")
    identity = record.identity
    if (identity >= FIRST_ALLOCATED and not identities.contains(identity)) or identity < 0:
        raise RecordError(key, "out-of-range", f"identity {identity} is not the publisher's to give")
    if identity == Reserved.HOST:
        identity = int(Reserved.REMOTE_NODE)
    if identity == record.identity and address == record.ip and host == record.host_ip:
        return record
    return msgspec.structs.replace(record, identity=identity, ip=address, host_ip=host)
