#!/bin/bash
# root.sh DIR: makes a root of Debian sid with the current versions of docker, buildx, buildah and podman in DIR, and beside it
# DIR.versions, a line per builder. Nothing is done when it is there; remove DIR to make it anew.
#
# Packages come from the machine's own apt sources, sid in the place of this release, with the machine's own settings.
set -euo pipefail

root=${1:?usage: root.sh DIR}
here=$(cd "$(dirname "$0")" && pwd)
if [ -e "$root.versions" ] && [ -d "$root" ]; then exit 0; fi

release=$(. /etc/os-release && echo "${VERSION_CODENAME:?/etc/os-release names no VERSION_CODENAME}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/../../examples/host.sh" "$work/host"
sed -n 's|"/mnt/ca-certificates.crt"|"'"$work"'/host/ca-certificates.crt"|; /^Acquire::/p' "$work/host/apt.conf" >"$work/acquire.conf"

# The archive that this release itself comes from; its updates and security fixes have no counterpart in sid.
archive=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk -v release="$release" '$1 == release && $2 == "main" { print $3; exit }')
if [ -z "$archive" ]; then
    echo "root.sh: apt knows no archive of $release: this needs a Debian host, after apt-get update" >&2
    exit 1
fi

rm -rf "$root" "$root.making"
mkdir -p "$(dirname "$root")"
# Builders, what they run containers with, and what they look for in PATH.
mmdebstrap --mode=root --variant=minbase --format=directory --quiet \
    --aptopt="$work/acquire.conf" \
    --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --include=docker.io,docker-cli,docker-buildx,buildah,podman,skopeo,golang-github-containers-common \
    --include=runc,crun,conmon,netavark,iptables,nftables,kmod,ca-certificates,git,util-linux,procps,xz-utils,zstd \
    sid "$root.making" "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive sid main"

# What reaches the machine's archives stays out of what is kept.
rm -rf "$root.making"/etc/apt/sources.list* "$root.making"/etc/apt/apt.conf.d/99mmdebstrap "$root.making"/var/cache/apt/* \
    "$root.making"/var/lib/apt/lists/*
mkdir -p "$root.making"/{store,share,works,old,etc/containers}
printf '{"default":[{"type":"insecureAcceptAnything"}]}\n' >"$root.making/etc/containers/policy.json"
printf 'unqualified-search-registries = []\n' >"$root.making/etc/containers/registries.conf"
printf '[storage]\ndriver = "overlay"\ngraphroot = "/store/containers"\nrunroot = "/run/containers"\n' \
    >"$root.making/etc/containers/storage.conf"
for package in docker.io docker-buildx buildah podman skopeo runc crun; do
    chroot "$root.making" dpkg-query --show --showformat='${Package} ${Version}\n' "$package"
done >"$work/versions"
mv "$root.making" "$root"
mv "$work/versions" "$root.versions"
