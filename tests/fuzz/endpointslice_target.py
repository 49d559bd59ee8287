# SPDX-License-Identifier: Apache-2.0
"""A coverage-guided fuzzer of the one binary format we read: zstd frames of protobuf endpoint slices.

Run by test_fuzz_decoders.py for a bounded number of inputs, and by hand for as long as one likes:
    python tests/fuzz/endpointslice_target.py -max_total_time=600 build/fuzz
Anything but a RecordError is a finding; libFuzzer then prints the input.
"""

from __future__ import annotations

import signal
import sys

import atheris
import zstandard

with atheris.instrument_imports(include=["meshmodel"]):
    from meshmodel import endpointslice, identity_record, ip, node, service
    from meshmodel.errors import RecordError
    from meshmodel.identity import identity_range

_IDENTITIES = identity_range(1)
_compressor = zstandard.ZstdCompressor()


def one_input(data: bytes) -> None:
    """The first byte says which decoder gets the rest; slices also get it as a proper frame of hostile protobuf."""
    kind, body = (data[0] % 6, data[1:]) if data else (0, b"")
    try:
        match kind:
            case 0:
                endpointslice.decode("shop/cart-x7k2p", body, cluster="blue", cluster_id=1)
            case 1:
                endpointslice.decode("shop/cart-x7k2p", _compressor.compress(body), cluster="blue", cluster_id=1)
            case 2:
                service.decode("shop/cart", body, cluster="blue", cluster_id=1)
            case 3:
                ip.decode("10.1.0.1", body, identities=_IDENTITIES)
            case 4:
                node.decode("blue-w1", body, cluster="blue", cluster_id=1)
            case _:
                identity_record.decode("65600", body, cluster="blue", identities=_IDENTITIES)
    except RecordError:
        return


if __name__ == "__main__":
    # libFuzzer's timer may ring when Python has taken its handlers down, and would kill a run that found nothing
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
