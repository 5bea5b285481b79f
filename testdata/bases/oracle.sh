#!/bin/bash
# oracle.sh OUT.tar: the busybox tree with users, groups, links, set-id files, hard links and odd names to build upon.
#
# Needs busybox-static. The same busybox gives the same bytes.
set -euo pipefail
umask 022

out=${1:?usage: oracle.sh OUT.tar}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir "$root"
"$here/busybox.sh" "$work/busybox.tar"
tar --extract --file="$work/busybox.tar" --directory="$root" --same-permissions

cat >>"$root/etc/passwd" <<'TEXT'
app:x:1000:1001:an application:/home/app:/bin/sh
www:x:33:33:www:/srv/www:/bin/false
TEXT
cat >>"$root/etc/group" <<'TEXT'
app:x:1001:
www:x:33:app
extra:x:2000:app,www
TEXT
# A builder mounts its own over these in RUN; they are there, so that none has to be made and taken away.
touch "$root"/etc/{hosts,hostname,resolv.conf}

mkdir -p "$root"/old/{dir/deep,empty,private} "$root"/home/app "$root"/srv/www
echo one >"$root/old/one"
echo two >"$root/old/two"
echo deep >"$root/old/dir/deep/file"
echo run >"$root/old/setuid"
ln "$root/old/one" "$root/old/hard"
ln -s one "$root/old/link"
ln -s /old/dir "$root/old/to-dir"
ln -s dir/deep "$root/old/to-deep"
ln -s /nowhere "$root/old/broken"
chmod 4755 "$root/old/setuid"
chmod 700 "$root/old/private"
chown 1000:1001 "$root/home/app" "$root/old/private"

mkdir -p "$(dirname "$out")"
tar --create --file="$out.$$" --directory="$root" --sort=name --mtime=@0 --numeric-owner .
mv "$out.$$" "$out"
