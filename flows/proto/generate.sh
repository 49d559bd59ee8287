#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Generate the message classes and their typed stubs; gRPC stubs are left out on purpose (flows/methods.py).
set -eu
cd "$(dirname "$0")/../.."
python="${PYTHON:-.venv/bin/python}"
PATH="$(dirname "$python"):$PATH" "$python" -m grpc_tools.protoc -I . --python_out=. --mypy_out=quiet:. \
    flows/proto/flow.proto flows/proto/relay.proto flows/proto/observer.proto flows/proto/peer.proto flows/proto/health.proto
