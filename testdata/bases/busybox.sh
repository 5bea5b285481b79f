#!/bin/bash
# busybox.sh OUT.tar [ARCH QEMU]: makes the smallest root file system that can run a shell: one static busybox and its
# names.
#
# Needs busybox-static. With ARCH, a Debian architecture: that of another one, fetched from this machine's own apt
# sources with a configuration of its own, so that nothing of the machine's changes; needs qemu-user-static, where QEMU
# is the architecture's name. The same busybox gives the same bytes.
set -euo pipefail
umask 022

out=${1:?usage: busybox.sh OUT.tar [ARCH QEMU]}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ $# -ge 3 ]; then
    mkdir -p "$work"/{state/lists/partial,cache/archives/partial,deb}
    touch "$work/status"
    # Whoever fetches has no rights of root, and must get here.
    chmod 755 "$work" "$work/deb"
    apt=(apt-get -qq -o APT::Architecture="$2" -o APT::Architectures="$2" -o Dir::State="$work/state"
        -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" -o Acquire::Languages=none
        -o APT::Sandbox::User=root -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false)
    "${apt[@]}" update
    (cd "$work/deb" && "${apt[@]}" download busybox-static)
    dpkg-deb --extract "$work"/deb/*.deb "$work/package"
    busybox=$(find "$work/package" -path '*/bin/busybox' -type f)
    names=$("qemu-$3-static" "$busybox" --list)
else
    busybox=$(command -v busybox)
    if [[ $(ldd "$busybox" 2>&1 || true) != *'not a dynamic executable'* ]]; then
        echo "busybox.sh: $busybox is not static: apt-get install busybox-static" >&2
        exit 1
    fi
    names=$("$busybox" --list)
fi

root=$work/root
mkdir -p "$root"/{bin,dev,etc,home,mnt,proc,root,run,srv,sys,tmp,usr,var}
chmod 1777 "$root/tmp"
chmod 700 "$root/root"
cp "$busybox" "$root/bin/busybox"
chmod 755 "$root/bin/busybox"
for name in $names; do
    if [ "$name" != busybox ]; then ln -s busybox "$root/bin/$name"; fi
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"

mkdir -p "$(dirname "$out")"
tar --create --file="$out.$$" --directory="$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner .
mv "$out.$$" "$out"
