#!/bin/bash
# host.sh DIR: writes what this machine knows about reaching its package registries into DIR, for one build.
#
# A Dockerfile bind-mounts DIR over /mnt while a RUN lasts and names the files in that line only:
#     RUN --mount=type=bind,source=host,target=/mnt APT_CONFIG=/mnt/apt.conf apt-get update
# so mirrors, proxies and certificate authorities reach the step and stay out of every layer and of the image's ENV.
#
#   DIR/ca-certificates.crt  the machine's certificate authorities
#   DIR/apt.conf             where apt finds the two below, and the machine's own Acquire settings (APT_CONFIG)
#   DIR/sources.list.d/      the machine's apt sources for this Debian release
#   DIR/pip.conf             index and authorities for pip (PIP_CONFIG_FILE)
#   DIR/npmrc                registry and authorities for npm (NPM_CONFIG_USERCONFIG)
#
# Absent on purpose: passwords of mirrors (/etc/apt/auth.conf.d, tokens of pip and npm); they belong in secret mounts.
# The same machine gives the same bytes, so the cache of the steps that mount DIR holds.
set -euo pipefail
umask 022

dir=${1:?usage: host.sh DIR}
release=$(. /etc/os-release && echo "${VERSION_CODENAME:?/etc/os-release names no VERSION_CODENAME}")

rm -rf "$dir"
mkdir -p "$dir/sources.list.d"

ca=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
if [ ! -e "$ca" ]; then
    echo "host.sh: no certificate authorities at $ca: apt-get install ca-certificates" >&2
    exit 1
fi
cp "$ca" "$dir/ca-certificates.crt"

# Only sources of this release of Debian: other suites, and vendors' own, need keys that the image does not have.
found=
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ -e "$list" ] || continue
    if grep -v '^[[:space:]]*#' "$list" | grep -Eq "(^|[[:space:]])$release(-updates|-security)?([[:space:]]|$)"; then
        cp "$list" "$dir/sources.list.d/"
        found=yes
    fi
done
if [ -z "$found" ]; then
    echo "host.sh: no apt source for $release under /etc/apt: this script needs a Debian host" >&2
    exit 1
fi
if [ -e "$dir/sources.list.d/sources.list" ]; then
    mv "$dir/sources.list.d/sources.list" "$dir/sources.list.d/main.list"
fi

{
    echo 'Dir::Etc::SourceList "/dev/null";'
    echo 'Dir::Etc::SourceParts "/mnt/sources.list.d";'
    # Proxies, time-outs and validity checks; options that name files of the host would find nothing inside.
    apt-config dump --no-empty Acquire |
        { grep -E '^Acquire::(https?::(Proxy|Timeout|Pipeline-Depth|Verify-)|Check-|Retries|Force)' || true; }
    echo 'Acquire::https::CAInfo "/mnt/ca-certificates.crt";'
} >"$dir/apt.conf"

# The registries that this machine's own pip and npm use, where it has these tools or their variables.
pip_index=${PIP_INDEX_URL:-}
if [ -z "$pip_index" ] && command -v pip >/dev/null; then
    pip_index=$(pip config get global.index-url 2>/dev/null || true)
fi
{
    echo '[global]'
    echo 'cert = /mnt/ca-certificates.crt'
    if [ -n "$pip_index" ]; then echo "index-url = $pip_index"; fi
} >"$dir/pip.conf"

npm_registry=${NPM_CONFIG_REGISTRY:-${npm_config_registry:-}}
if [ -z "$npm_registry" ] && command -v npm >/dev/null; then
    npm_registry=$(npm --loglevel=error config get registry)
fi
{
    echo 'cafile=/mnt/ca-certificates.crt'
    if [ -n "$npm_registry" ]; then echo "registry=$npm_registry"; fi
} >"$dir/npmrc"
