#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles every *.bpf.c beside this script to *.bpf.o and prints each program's size in instructions.
# Needs clang and the C library's and libbpf's headers; CLANG and OBJDUMP choose other binaries.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

pick() { for name in "$@"; do command -v "$name" >/dev/null && { echo "$name"; return; }; done; echo "$1"; }
clang=${CLANG:-$(pick clang clang-14 clang-15 clang-16 clang-19)}
objdump=${OBJDUMP:-$(pick llvm-objdump llvm-objdump-14 llvm-objdump-15 llvm-objdump-16 llvm-objdump-19)}
flags=(-O2 -g -target bpf -mcpu=v3 -std=gnu11 -Wall -Wextra -Werror "-I/usr/include/$(uname -m)-linux-gnu")

for source in *.bpf.c; do
	object=${source%.c}.o
	"$clang" "${flags[@]}" -c "$source" -o "$object.new"
	mv "$object.new" "$object"
	echo "$object"
	"$objdump" -t "$object" | sed -n 's/.* F \([^ \t]*\)[ \t]*\([0-9a-f]*\) \(.*\)/\2 \3/p' | while read -r size name; do
		printf '  %-24s %5d instructions\n' "$name" $((16#$size / 8))
	done
done
