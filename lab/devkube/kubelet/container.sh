#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Becomes a container's first process: container.sh DIRECTORY HOSTNAME COMMAND...
# Runs in the container's own mount, pid, uts and ipc namespaces. DIRECTORY holds upper/, work/, root/ and the file
# mounts, one "MODE<tab>SOURCE<tab>TARGET" per line. The container's environment is this script's own, but for what begins with
# CONTAINER_: where it starts, and the capabilities that are left to it as setpriv(1) writes them (all, if nothing is said).
set -eu
directory=$1
hostname=$2
shift 2
container_path=$PATH
PATH=/usr/sbin:/usr/bin:/sbin:/bin
root=$directory/root
mount -t overlay overlay -o "lowerdir=$CONTAINER_ROOT,upperdir=$directory/upper,workdir=$directory/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
hostname "$hostname"
mkdir -p "$root/.machine"
cd "$root"
pivot_root . .machine
cd /
# only now does a path such as /var/run, a link on most machines, mean the container's and not the machine's
tab=$(printf '\t')
while IFS=$tab read -r mode source target; do
    if [ -d "/.machine$source" ]; then
        mkdir -p "$target"
    else
        mkdir -p "$(dirname "$target")"
        [ -e "$target" ] || : >"$target"
    fi
    mount --rbind "/.machine$source" "$target"
    [ "$mode" = rw ] || mount -o "remount,bind,$mode" "$target"
done <"/.machine$directory/mounts"
umount --lazy /.machine
rmdir /.machine
cd "${CONTAINER_WORKING_DIRECTORY:-/}"
unset CONTAINER_WORKING_DIRECTORY CONTAINER_ROOT
PATH=$container_path
export PATH
if [ -n "${CONTAINER_CAPABILITIES-}" ]; then
    capabilities=$CONTAINER_CAPABILITIES
    unset CONTAINER_CAPABILITIES
    exec /usr/bin/setpriv --inh-caps=-all --bounding-set="$capabilities" --no-new-privs -- "$@"
fi
exec "$@"
