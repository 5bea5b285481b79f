#!/bin/bash
# debian.sh OUT.tar: makes a small Debian root file system of this host's release, from the host's own apt sources.
#
# Needs root and mmdebstrap. Nothing of the host's mirror, proxy, name or resolver stays in the tar: its apt sources
# are empty, and a build brings its own. Takes about 20 s; kept by whoever asks for it (tests under target/testdata).
set -euo pipefail

out=${1:?usage: debian.sh OUT.tar}
here=$(cd "$(dirname "$0")" && pwd)
release=$(. /etc/os-release && echo "${VERSION_CODENAME:?/etc/os-release names no VERSION_CODENAME}")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/../../examples/host.sh" "$work/host"

# The machine's Acquire settings hold while the tree is made; the line about authorities names the copy made above.
sed -n 's|"/mnt/ca-certificates.crt"|"'"$work"'/host/ca-certificates.crt"|; /^Acquire::/p' "$work/host/apt.conf" >"$work/acquire.conf"

cat >"$work/neutral.sh" <<'HOOK'
#!/bin/sh
# What mmdebstrap runs last inside its own namespace: $1 is the new root.
set -eu
rm -f "$1"/etc/apt/sources.list.d/* "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/hostname" "$1/etc/resolv.conf"
rm -f "$1"/var/log/*.log "$1"/var/log/apt/* "$1/var/cache/ldconfig/aux-cache" "$1"/var/cache/apt/*.bin
echo "# Where packages come from is said per build: see sources.list(5), and examples/host.sh of rbuild." \
    >"$1/etc/apt/sources.list"
cat >"$1/etc/apt/apt.conf.d/90no-caches" <<CONF
// What apt keeps to be faster the next time would only make layers larger.
APT::Keep-Downloaded-Packages "false";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
CONF
HOOK
chmod +x "$work/neutral.sh"

# The hook merges /usr at once, so that the package that would do it later, and needs all of perl, is not wanted.
# No manual pages and translations, as in slim images; dpkg keeps to that in the image, too. Licences stay.
mmdebstrap \
    --mode=root --variant=minbase --format=tar --quiet \
    --aptopt="$work/acquire.conf" \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --skip=output/dev \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include=usr-is-merged \
    --customize-hook="$work/neutral.sh" \
    "$release" "$work/base.tar" "$work"/host/sources.list.d/*

# No device nodes: whoever runs the image makes its own; only their directory.
mkdir -m 755 "$work/empty" "$work/empty/dev"
tar --append --file="$work/base.tar" --directory="$work/empty" --owner=0 --group=0 --numeric-owner ./dev

mkdir -p "$(dirname "$out")"
mv "$work/base.tar" "$out.$$"
mv "$out.$$" "$out"
