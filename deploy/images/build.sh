#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the images of the programs, and writes what each consists of (CycloneDX) to build/images.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: deploy/images/build.sh [--save]

Builds the images apiserver, agent and relay from the sources of this folder, with buildah, podman or docker: the first that is
there. Settings are variables of the environment:

  IMAGE_PREFIX  names are this and the program: registry.example/mesh- makes registry.example/mesh-agent (clustermesh/clustermesh-)
  IMAGE_TAG     (the version of the distribution)
  BASE          a Debian 12 (docker.io/library/debian:12-slim); mmdebstrap makes one from the apt sources of this machine, with
                buildah, for machines without a registry
  BUILDER       buildah, podman or docker
  PIP_SETTINGS  a pip.conf for the build; it stays in no layer
  AUTHORITIES   certificates that pip trusts, for the build; they stay in no layer

  --save        also write build/images/NAME.tar, for `kind load image-archive`
  -h, --help    this text
TEXT
}

save=
case ${1:-} in
    '') ;;
    --save) save=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
prefix=${IMAGE_PREFIX:-clustermesh/clustermesh-}
tag=${IMAGE_TAG:-$version}
base=${BASE:-docker.io/library/debian:12-slim}
builder=${BUILDER:-}
for name in buildah podman docker; do
    [ -n "$builder" ] || ! command -v "$name" >/dev/null || builder=$name
done
[ -n "$builder" ] || { echo "images: install buildah, podman or docker first" >&2; exit 1; }

if [ "$base" = mmdebstrap ]; then
    [ "$builder" = buildah ] || { echo "images: BASE=mmdebstrap needs BUILDER=buildah" >&2; exit 1; }
    base=localhost/clustermesh-base:12
    if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
        archive=$(mktemp --suffix .tar)
        trap 'rm -f "$archive"' EXIT
        sources=()
        for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
            [ ! -s "$file" ] || sources+=("$file")
        done
        mmdebstrap --quiet --variant=minbase bookworm "$archive" "${sources[@]}"
        container=$(buildah from scratch)
        buildah add --quiet "$container" "$archive" / >/dev/null
        buildah commit --quiet --rm "$container" "$base" >/dev/null
    fi
fi

words=(--build-arg "BASE=$base" --file deploy/images/Containerfile)
# needs no container runtime, so it also works in a container
[ "$builder" != buildah ] || words+=(--isolation chroot --layers)
[ -z "${PIP_SETTINGS:-}" ] || words+=(--secret "id=pip,src=$PIP_SETTINGS")
[ -z "${AUTHORITIES:-}" ] || words+=(--secret "id=ca,src=$AUTHORITIES")

built=()
mkdir -p build/images
rm -f build/images/built
for program in apiserver agent relay; do
    image=$prefix$program:$tag
    "$builder" build "${words[@]}" --label "org.opencontainers.image.version=$version" --target "$program" --tag "$image" .
    if [ "$builder" = buildah ]; then
        container=$(buildah from "$image")
        buildah run --isolation chroot "$container" -- cat /usr/share/materials.cdx.json >"build/images/$program.cdx.json"
        buildah rm "$container" >/dev/null
        [ -z "$save" ] || buildah push --quiet "$image" "docker-archive:build/images/$program.tar:$image"
    else
        "$builder" run --rm --entrypoint cat "$image" /usr/share/materials.cdx.json >"build/images/$program.cdx.json"
        [ -z "$save" ] || "$builder" save --output "build/images/$program.tar" "$image"
    fi
    echo "$image"
    built+=("$image")
done
# the tests mount what buildah has
[ "$builder" != buildah ] || printf '%s\n' "${built[@]}" >build/images/built
