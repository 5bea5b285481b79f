#!/bin/bash
# setup.sh: installs the Debian packages that the tests, the demo and the benches use, if any is missing.
# Quick when all are there. Needs root only to install.
set -euo pipefail

packages=(
    busybox-static ca-certificates curl # what images are made of, and asked with
    mmdebstrap                          # makes the Debian base image
    docker-registry                     # the registry that is pushed to and pulled from
    skopeo umoci runc                   # readers of images that are not ours
    golang-github-opencontainers-image-spec-dev python3-jsonschema # the schemas that images are checked by
    buildah                             # builds the same Dockerfiles, to be compared with
    git                                 # repositories, as sources and served ones
    openssl                             # certificates and signatures of registries in tests
    openssh-client openssh-server       # agents, keys for them, and repositories over ssh
    attr bzip2 xz-utils zstd python3    # tools that tests compare with
    uidmap                              # ids of user namespaces, for builds without root
    iproute2 nftables                   # networks of tests, and firewalls in them
    passt slirp4netns                   # ways out of a network namespace
    strace time                         # counting system calls and memory
    valgrind                            # counting instructions of the hot paths
    qemu-system-x86 e2fsprogs           # the virtual machine of tests/vm
    qemu-user-static                    # steps of other architectures
)

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    if [ "$state" != installed ]; then missing+=("$package"); fi
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

if [ "$(id -u)" != 0 ]; then
    echo "setup.sh: these packages are missing; run as root: apt-get install ${missing[*]}" >&2
    exit 1
fi
echo "setup.sh: installing ${missing[*]}" >&2

# A package that starts a service must not do so here: the tests start their own, on ports of their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends "${missing[@]}"
