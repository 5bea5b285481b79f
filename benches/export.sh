#!/bin/bash
# export.sh RBUILD [MIB]: an image with one layer of MIB (1024) into an OCI archive, by rbuild, skopeo and buildah.
#
# Half of the layer is text, half cannot be compressed. Every program starts from the same image, uncompressed in its own
# store, and writes an archive with gzip, and with zstd, at its own usual level. Printed: wall time, the size, the peak
# resident set, and the time beside rbuild's. Last, how much of the compression a slow later step hides: a build whose
# second step takes as long as its first layer's compression. Asserts nothing by the clock; memory has a limit.
set -euo pipefail

rbuild=$(realpath "${1:?usage: export.sh RBUILD [MIB]}")
mib=${2:-1024}
peak_max_mib=150
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
trap 'rm -rf "$work"' EXIT
export RBUILD_ROOT=$work/store

printf '{"default":[{"type":"insecureAcceptAnything"}]}' >"$work/policy.json"
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/storage"\nrunroot = "%s/run"\n' "$work" "$work" >"$work/storage.conf"
printf '[engine]\n' >"$work/containers.conf"
export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_CONF=$work/containers.conf

mkdir "$work/context"
# Words in an order that no dictionary of 32 KiB holds, and noise.
python3 - "$mib" "$work/context/big" <<'PY'
import os, random, sys
random.seed(7)
words = [bytes(random.choices(b"abcdefghijklmnopqrstuvwxyz", k=random.randint(2, 9))) for _ in range(5000)]
with open(sys.argv[2], "wb") as out:
    for part in range(int(sys.argv[1])):
        if part % 2:
            out.write(os.urandom(1 << 20))
        else:
            out.write(b" ".join(random.choices(words, k=190000))[: 1 << 20])
PY
printf 'FROM scratch\nCOPY big /big\n' >"$work/context/Dockerfile"
"$rbuild" -t big:1 "$work/context" 2>/dev/null
"$rbuild" -o "type=oci,name=big:1,compression=uncompressed,dest=$work/plain.tar" "$work/context" 2>/dev/null
unshare --mount --propagation=private buildah pull --quiet --signature-policy "$work/policy.json" \
    "oci-archive:$work/plain.tar" >"$work/id"
image=$(cat "$work/id")

# measure NAME FILE COMMAND…: a row; the first of its kind is what others are compared with.
first=
measure() {
    local name=$1 file=$2 from to
    shift 2
    rm -f "$file"
    sync
    from=${EPOCHREALTIME/./}
    /usr/bin/time --format=%M --output="$work/peak" "$@" >/dev/null 2>"$work/said" || { cat "$work/said" >&2; exit 1; }
    to=${EPOCHREALTIME/./}
    local micros=$(( to - from )) peak=$(( $(tail -n 1 "$work/peak") / 1024 ))
    first=${first:-$micros}
    printf '%-30s %7d.%02d s %8d MiB %8d MiB %6d.%02d\n' "$name" $(( micros / 1000000 )) $(( micros % 1000000 / 10000 )) \
        $(( $(stat -c %s "$file") >> 20 )) "$peak" $(( micros / first )) $(( micros * 100 / first % 100 ))
    if [ "${name%% *}" = rbuild ] && [ "$peak" -ge "$peak_max_mib" ]; then
        echo "export.sh: $name used $peak MiB; $peak_max_mib are allowed" >&2
        exit 1
    fi
}

printf '%-30s %12s %12s %12s %9s\n' "a layer of $mib MiB" wall archive 'peak memory' 'x rbuild'
for codec in gzip zstd; do
    first=
    export RBUILD_ROOT=$work/store-$codec
    # A store in which nothing is compressed yet, but everything built.
    "$rbuild" -t big:1 "$work/context" 2>/dev/null
    measure "rbuild $codec" "$work/out.tar" \
        "$rbuild" -o "type=oci,name=big:1,compression=$codec,dest=$work/out.tar" "$work/context"
    measure "skopeo $codec" "$work/out.tar" skopeo --policy "$work/policy.json" copy --quiet \
        --dest-compress-format "$codec" "oci-archive:$work/plain.tar" "oci-archive:$work/out.tar"
    if [ "$codec" = gzip ]; then
        measure "buildah $codec" "$work/out.tar" unshare --mount --propagation=private \
            buildah push --quiet --signature-policy "$work/policy.json" --compression-format "$codec" \
            "$image" "oci-archive:$work/out.tar"
    fi
done
first=
export RBUILD_ROOT=$work/store-estargz
"$rbuild" -t big:1 "$work/context" 2>/dev/null
measure 'rbuild estargz' "$work/out.tar" \
    "$rbuild" -o "type=oci,name=big:1,compression=estargz,dest=$work/out.tar" "$work/context"

# What a later step hides.
export RBUILD_ROOT=$work/overlap
"$(dirname "$0")/../testdata/bases/busybox.sh" "$work/busybox.tar"
"$rbuild" import "$work/busybox.tar" busybox:latest >/dev/null
seconds() { echo "$(( ($2 - $1) / 1000000 )).$(( ($2 - $1) % 1000000 / 100000 ))"; }
build() { "$rbuild" "$@" "$work/context" >/dev/null 2>"$work/said" || { cat "$work/said" >&2; exit 1; }; }
printf 'FROM busybox\nCOPY big /big\n' >"$work/context/Dockerfile"
build -t one:1
a=${EPOCHREALTIME/./}
build -o "type=oci,dest=$work/out.tar"
b=${EPOCHREALTIME/./}
slow=$(( (b - a) / 1000000 + 1 ))
printf 'FROM busybox\nCOPY big /big\nRUN sleep %s\n' "$slow" >"$work/context/Dockerfile"
rm -rf "$work/overlap" && "$rbuild" import "$work/busybox.tar" busybox:latest >/dev/null
c=${EPOCHREALTIME/./}
build -t two:1
d=${EPOCHREALTIME/./}
rm -rf "$work/overlap" && "$rbuild" import "$work/busybox.tar" busybox:latest >/dev/null
e=${EPOCHREALTIME/./}
build -o "type=oci,dest=$work/out.tar"
f=${EPOCHREALTIME/./}
printf '\n%s s to compress and write, %s s to build with a step of %s s; both in one build: %s s\n' \
    "$(seconds "$a" "$b")" "$(seconds "$c" "$d")" "$slow" "$(seconds "$e" "$f")"
