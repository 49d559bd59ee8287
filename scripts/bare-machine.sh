#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs README's two commands, or others, from a fresh clone on a minimal Debian 12 that has nothing installed by hand.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/bare-machine.sh [--limit SECONDS] [COMMAND...]

Makes a minimal Debian 12 root (Debian's mmdebstrap), clones the checked-out commit into it, and runs each COMMAND there
with bash, in mount, pid and cgroup namespaces of its own and the network of this machine. Without a COMMAND it runs
'make lab' and 'make test'. Stops at the first COMMAND that fails, with its exit code; 124 means the limit was reached.

The packages come from where this machine gets them: its apt sources and settings, pip settings and CA certificates are
copied. What only exists in the working tree is not tested: commit first.

  --limit SECONDS   end everything after this long (default 5400)
  -h, --help        this text

Needs root, mmdebstrap and a kernel with BPF. Nothing of it stays: neither processes, mounts, nor files.
example: scripts/bare-machine.sh 'make setup' '.venv/bin/python -m pytest -q tests/integration/lab'
TEXT
}

limit_s=5400
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --limit) limit_s=${2:?--limit needs seconds}; shift 2 ;;
        --) shift; break ;;
        -*) usage >&2; exit 2 ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || set -- 'make lab' 'make test'

[ "$(id -u)" -eq 0 ] || { echo "bare-machine: needs root, for namespaces and BPF" >&2; exit 1; }
command -v mmdebstrap >/dev/null || { echo "bare-machine: install Debian's mmdebstrap first" >&2; exit 1; }

repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
name=clustermesh-bare
commit=$(git -C "$repository" rev-parse HEAD)
# several GB: not on a file system in memory
root=/var/tmp/$name-$$
cgroup_mount=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$cgroup_mount" ] || { echo "bare-machine: no cgroup2 file system is mounted" >&2; exit 1; }
group=$cgroup_mount/$name-$$

# Everything started is in the group, and the mounts exist only in its namespaces: without processes they are gone.
remove() {
    local group=$1 root=$2 try
    if [ -d "$group" ]; then
        echo 1 >"$group/cgroup.kill"
        for try in $(seq 100); do
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [ -d "$group" ] || break
            sleep 0.1
        done
    fi
    rm -rf --one-file-system "$root"
}
trap 'remove "$group" "$root"' EXIT
trap 'exit 130' INT TERM HUP

# what a run left that was killed before it could clean up
for left in /var/tmp/"$name"-*; do
    pid=${left##*-}
    [ ! -d "$left" ] || [ -d "/proc/$pid" ] || remove "$cgroup_mount/$name-$pid" "$left"
done

stage() { echo "bare-machine: $1 ($(date +%T))"; }

stage "minimal root in $root"
mkdir -p "$root" "$group"
sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ ! -s "$file" ] || sources+=("$file")
done
settings=$(mktemp)
apt-config dump | grep '^Acquire::' >"$settings" || true
timeout 600 mmdebstrap --quiet --variant=minbase --include=make,ca-certificates --aptopt="$settings" \
    bookworm "$root" "${sources[@]}" || { rm -f "$settings"; exit 1; }
rm -f "$settings"

# the machine's own ways to its package mirrors
copy() {
    [ -e "$1" ] || return 0
    # the new root's absolute links would lead out of it
    rm -rf "${root:?}$1"
    mkdir -p "$root$(dirname "$1")"
    cp -aLT "$1" "$root$1"
}
for path in /etc/apt/keyrings /etc/apt/trusted.gpg.d /etc/ssl/certs /etc/resolv.conf /etc/hosts \
    /etc/pip.conf /etc/xdg/pip "$HOME/.config/pip" "$HOME/.pip"; do
    copy "$path"
done
environment=(HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
while read -r variable; do
    environment+=("$variable")
done < <(env | grep -E '^(PIP_|SSL_CERT_|REQUESTS_CA_|CURL_CA_|[a-zA-Z]+_(proxy|PROXY)=)' || true)

# local package folders that pip's settings name: an index's files lie beside its pages
folders=()
while read -r path; do
    path=${path%/simple}
    [ ! -d "$path" ] || folders+=("$path")
done < <({ cat /etc/pip.conf /etc/xdg/pip/pip.conf "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf" 2>/dev/null
           env | grep '^PIP_'; } | grep -vE '^ *#' | tr ' =' '\n\n' | sed -n 's,^\(file://\)\?\(/.*\)$,\2,p' | sort -u)

git clone --quiet --no-local "$repository" "$root/root/clustermesh"
git -C "$root/root/clustermesh" checkout --quiet --detach "$commit"

# Process 1 of the new pid namespace: the root becomes / and the commands run one after the other.
cat >"$root/root/inside.sh" <<'INSIDE'
set -euo pipefail
root=$1; shift
mount --bind "$root" "$root"
while [ "$1" != -- ]; do
    mkdir -p "$root$1"
    mount --bind -o ro "$1" "$root$1"
    shift
done
shift
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t bpf bpf "$root/sys/fs/bpf"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
cd "$root"
mkdir -p .old
pivot_root . .old
umount --lazy /.old
rmdir /.old
cd /root/clustermesh
for command in "$@"; do
    echo "bare-machine: $command ($(date +%T))"
    SECONDS=0
    bash -c "$command" || { code=$?; echo "bare-machine: $command: exit code $code after $SECONDS s"; exit $code; }
    echo "bare-machine: $command: done after $SECONDS s"
done
INSIDE

stage "commands, for at most $limit_s s"
# joins the group, then makes the namespaces: the new cgroup namespace's root is the group
code=0
sh -c 'echo 0 >"$1/cgroup.procs"; shift; exec "$@"' sh "$group" \
    timeout --kill-after=10 "$limit_s" env -i "${environment[@]}" \
    unshare --mount --propagation private --pid --fork --kill-child --cgroup \
    bash "$root/root/inside.sh" "$root" "${folders[@]}" -- "$@" </dev/null &
# waited for, because a trap would not run before a command in the foreground has ended
wait $! || code=$?
stage "exit code $code"
exit "$code"
