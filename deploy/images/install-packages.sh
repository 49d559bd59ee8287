#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs Debian packages into an image and leaves nothing of the installation but the packages and their licences.
set -eu
# no package may start or set up a service here
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends "$@" >/dev/null
find /usr/share/doc -not -name copyright -not -type d -delete
rm -rf /usr/sbin/policy-rc.d /usr/share/man /usr/share/locale /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf/*-old \
    /var/lib/etcd /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
