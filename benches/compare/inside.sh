#!/bin/bash
# inside.sh SID PLACE IMAGE WORKS SHARE PROGRAM…: the first process of a builder's namespaces. It makes their tree in the
# directory PLACE and then stays, so that others can enter, until it is killed; then all that is in here ends.
#
#   /        the root SID, read only beneath a tmpfs: builders write keys and settings into /etc
#   /store   the file system in the file IMAGE: the builder's store, its temporary files
#   /works   contexts and base images, read only, the same for all builders
#   /share   archives that the builder writes
#
# Each PROGRAM of the machine is in PATH there.
set -euo pipefail
sid=$1 place=$2 image=$3 works=$4 share=$5
shift 5

mount -t tmpfs -o size=256m tmpfs "$place"
mkdir "$place"/{upper,work,root}
mount -t overlay -o "lowerdir=$sid,upperdir=$place/upper,workdir=$place/work" overlay "$place/root"
cd "$place/root"
# Without this, the kernel fills in inode tables for minutes after the file system is made.
mount -o loop,noinit_itable,noatime "$image" store
mkdir -p store/tmp
chmod 1777 store/tmp
mount --rbind /sys sys
mount --rbind /dev dev
mount -t proc proc proc
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --bind store/tmp var/tmp
mount --bind "$works" works
mount -o remount,bind,ro works
mount --bind "$share" share
for program in "$@"; do
    touch "usr/local/bin/${program##*/}"
    mount --bind "$program" "usr/local/bin/${program##*/}"
done
cp -L /etc/resolv.conf etc/resolv.conf
cp /etc/hosts etc/hosts
pivot_root . old
umount -l old
echo ready
# As the first process this takes in what has lost its parent; `wait` alone would end at once without a child.
exec chroot . /bin/bash -c 'while :; do sleep infinity & wait "$!"; done' </dev/null >/dev/null
