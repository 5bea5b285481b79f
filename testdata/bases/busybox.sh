#!/bin/bash
# busybox.sh OUT.tar: makes the smallest root file system that can run a shell: one static busybox and its names.
#
# Needs busybox-static. The same busybox gives the same bytes.
set -euo pipefail
umask 022

out=${1:?usage: busybox.sh OUT.tar}
busybox=$(command -v busybox)
if [[ $(ldd "$busybox" 2>&1 || true) != *'not a dynamic executable'* ]]; then
    echo "busybox.sh: $busybox is not static: apt-get install busybox-static" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,dev,etc,home,mnt,proc,root,run,srv,sys,tmp,usr,var}
chmod 1777 "$root/tmp"
chmod 700 "$root/root"
cp "$busybox" "$root/bin/busybox"
chmod 755 "$root/bin/busybox"
for name in $("$busybox" --list); do
    if [ "$name" != busybox ]; then ln -s busybox "$root/bin/$name"; fi
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"

mkdir -p "$(dirname "$out")"
tar --create --file="$out.$$" --directory="$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner .
mv "$out.$$" "$out"
