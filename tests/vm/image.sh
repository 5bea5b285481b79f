#!/bin/bash
# image.sh DIR: makes what the virtual machine boots from: DIR/{root.ext4,vmlinuz,initrd}. Kept while this script and its
# neighbour `init.sh` stay as they are.
#
# Debian's own kernel of this release with the tools that the tests use, so that what is tried there is not this
# machine's kernel. Needs root and mmdebstrap; takes about a minute.
set -euo pipefail

dir=${1:?usage: image.sh DIR}
here=$(cd "$(dirname "$0")" && pwd)
mark=$(cat "$here/image.sh" "$here/init.sh" | sha256sum | cut -c1-64)
if [ "$(cat "$dir/mark" 2>/dev/null)" = "$mark" ]; then exit 0; fi
release=$(. /etc/os-release && echo "${VERSION_CODENAME:?/etc/os-release names no VERSION_CODENAME}")

echo "image.sh: making the virtual machine's disk" >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/../../examples/host.sh" "$work/host"
# The machine's Acquire settings hold while the tree is made; the line about authorities names the copy made above.
sed -n 's|"/mnt/ca-certificates.crt"|"'"$work"'/host/ca-certificates.crt"|; /^Acquire::/p' "$work/host/apt.conf" >"$work/acquire.conf"

packages=(
    linux-image-cloud-amd64 initramfs-tools kmod   # the kernel and what loads its modules
    busybox-static gcc libc6-dev                   # what the sandbox's tests run and build
    iproute2 nftables passt slirp4netns uidmap     # what steps get networks and ids from
    qemu-user-static                               # runs steps of other architectures
    attr git python3 strace util-linux xz-utils zstd bzip2 procps
)
mmdebstrap \
    --mode=root --variant=minbase --format=directory --quiet \
    --aptopt="$work/acquire.conf" \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include=usr-is-merged \
    --include="$(IFS=,; echo "${packages[*]}")" \
    "$release" "$work/root" "$work"/host/sources.list.d/*
install -D --mode=755 "$here/init.sh" "$work/root/vm/init"

mkdir -p "$dir"
rm -f "$dir/mark"
cp "$work/root"/boot/vmlinuz-* "$dir/vmlinuz"
cp "$work/root"/boot/initrd.img-* "$dir/initrd"
rm -rf "$work/root/boot" "$work/root"/var/cache/apt/* "$work/root"/var/lib/apt/lists/*
truncate --size=6G "$dir/root.ext4"
mkfs.ext4 -q -F -d "$work/root" "$dir/root.ext4"
echo "$mark" >"$dir/mark"
