#!/bin/sh
# The virtual machine's first process: mounts what a system has, runs what the second disk says, tells how that ended,
# and switches the machine off. The last line on the console is `VM EXIT CODE`.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8

mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs -o size=4G tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
ip link set lo up
hostname vm

mkdir -p /given
mount -t ext4 /dev/vdb /given
code=1
[ -x /given/run ] && { sh /given/run; code=$?; }
sync
echo "VM EXIT $code"
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
