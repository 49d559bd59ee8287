#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages the product, its lab and its tests use. Asks nothing; does nothing when all are there.
set -euo pipefail

packages=(
    etcd-server etcd-client            # the store behind every clustermesh-apiserver, and its command
    clang llvm libbpf-dev libbpf1      # compile and open the BPF objects
    bpftool                            # look at real maps
    git iproute2 iputils-ping nftables util-linux       # the lab's nodes and its kube-proxy
    nginx-light curl                   # what the lab's well-known images run
    chromium                           # the tests of the relay's page
    python3-venv jq dnsutils procps gcc libc6-dev systemd      # of the last, what judges our units; it is not started
)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
# kubectl may come from anywhere; Debian's is taken only where there is none
command -v kubectl >/dev/null || missing+=(kubernetes-client)

if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "these packages are missing and only root can install them: ${missing[*]}" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    # the lab runs its own servers: nothing that a package brings may be started on this machine
    policy=/usr/sbin/policy-rc.d
    [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; trap 'rm -f "$policy"' EXIT; }
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
fi

# Debian's own kubectl beside whichever is installed, so that the tests speak to both an old and a new one
old=build/tools/kubectl-1.20
if [ ! -x "$old" ]; then
    mkdir -p build/tools/deb
    if (cd build/tools/deb && apt-get download -qq kubernetes-client 2>/dev/null); then
        dpkg -x build/tools/deb/kubernetes-client_*.deb build/tools/deb/root
        mv build/tools/deb/root/usr/bin/kubectl "$old"
    fi
    rm -rf build/tools/deb
fi
