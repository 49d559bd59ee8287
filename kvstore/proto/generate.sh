#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Generate the message classes and their typed stubs; gRPC stubs are left out on purpose (kvstore/methods.py).
set -eu
cd "$(dirname "$0")/../.."
python="${PYTHON:-.venv/bin/python}"
PATH="$(dirname "$python"):$PATH" "$python" -m grpc_tools.protoc -I . --python_out=. --mypy_out=quiet:. \
    kvstore/proto/kv.proto kvstore/proto/auth.proto kvstore/proto/rpc.proto
