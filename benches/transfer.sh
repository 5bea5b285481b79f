#!/bin/bash
# transfer.sh RBUILD: an image of 500 MB from and to Debian's docker-registry on loopback, beside skopeo and buildah from
# packages, turn by turn on the same machine; prints times, ratios and peak memory, asserts nothing by the clock.
#
#   pull + unpack   rbuild builds one COPY upon the image in a new store; buildah pulls it into new storage; skopeo copies
#                   its blobs into a directory, which unpacks nothing
#   push            of the pulled image, as it is, into an empty registry; skopeo copies the same blobs there
set -euo pipefail

rbuild=$(realpath "${1:?usage: transfer.sh RBUILD}")
rounds=${ROUNDS:-3}
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
servers=()
cleanup() {
    for server in "${servers[@]}"; do kill "$server" 2>/dev/null || true; done
    wait
    # buildah's storage has a mount of its own directory.
    for mounted in $(awk -v dir="$work/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r); do umount "$mounted"; done
    rm -rf "$work"
}
trap cleanup EXIT

row() { printf '%-34s %12s %8s %10s\n' "$1" "$2" "$3" "$4"; }
# Starts a registry in the directory $1; its address is in $1/address.
serve() {
    mkdir -p "$1"
    printf 'version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:0", secret: x}\n' \
        "$1/storage" >"$1/config.yml"
    docker-registry serve "$1/config.yml" >/dev/null 2>"$1/log" &
    servers+=($!)
    for _ in $(seq 200); do
        if grep -o 'listening on [0-9.:]*' "$1/log" | cut -d' ' -f3 | head -n 1 >"$1/address" && [ -s "$1/address" ]; then return; fi
        sleep 0.05
    done
    echo "transfer.sh: docker-registry does not answer" >&2
    return 1
}
# Milliseconds and peak memory (MiB) of a command, into the file $1, a line per run.
measure() {
    local out=$1
    shift
    local from=$EPOCHREALTIME
    /usr/bin/time --format=%M --output="$work/peak" "$@" >/dev/null 2>"$work/said" || { cat "$work/said" >&2; return 1; }
    local to=$EPOCHREALTIME
    echo "$(( (${to/./} - ${from/./}) / 1000 )) $(( $(tail -n 1 "$work/peak") / 1024 ))" >>"$work/$out"
}
fastest() { sort -n "$work/$1" | sed -n 1p | cut -d' ' -f1; }
peak() { cut -d' ' -f2 "$work/$1" | sort -n | tail -n 1; }
report() {
    local mine=$1 name
    row "$2" "$(fastest "$mine") ms" 1.00 "$(peak "$mine") MiB"
    shift 2
    while [ $# -gt 0 ]; do
        name=$1
        row "  $2" "$(fastest "$name") ms" "$(awk "BEGIN { printf \"%.2f\", $(fastest "$name") / $(fastest "$mine") }")" "$(peak "$name") MiB"
        shift 2
    done
}

# Six layers: trees of many small files that compress well, and large ones that do not.
serve "$work/registry"
registry=$(cat "$work/registry/address")
mkdir "$work/context"
python3 - "$work/context" <<'PYTHON'
import os, random, sys
random.seed(7)
words = [bytes(random.choices(b"abcdefghijklmnopqrstuvwxyz", k=random.randint(2, 9))) for _ in range(4000)]
for layer in range(6):
    for number in range(2500):
        place = f"{sys.argv[1]}/{layer}/d{number % 50}"
        os.makedirs(place, exist_ok=True)
        text = b" ".join(random.choices(words, k=2200))
        with open(f"{place}/f{number}", "wb") as file:
            file.write(text)
    with open(f"{sys.argv[1]}/{layer}/large", "wb") as file:
        file.write(random.randbytes(50 << 20))
PYTHON
{ echo FROM scratch; for layer in 0 1 2 3 4 5; do echo "COPY $layer /layer$layer"; done; } >"$work/context/Dockerfile"
RBUILD_ROOT=$work/maker "$rbuild" -t "$registry/bench/app:1" --push "$work/context" >/dev/null 2>&1
rm -rf "$work/maker"
echo "image: $(du -sm "$work/registry/storage" | cut -f1) MB compressed, $(du -sm "$work/context" | cut -f1) MB unpacked, 6 layers, gzip"

mkdir "$work/one"
printf 'FROM %s/bench/app:1\nCOPY Dockerfile /\n' "$registry" >"$work/one/Dockerfile"
for round in $(seq "$rounds"); do
    rm -rf "$work/store" "$work/dir" "$work/storage"
    RBUILD_ROOT=$work/store measure pull "$rbuild" -t pulled:1 "$work/one"
    measure pull-skopeo skopeo --insecure-policy copy --src-tls-verify=false "docker://$registry/bench/app:1" "dir:$work/dir"
    measure pull-buildah buildah --root "$work/storage/root" --runroot "$work/storage/run" --storage-driver overlay \
        pull --tls-verify=false "docker://$registry/bench/app:1"
    for mounted in $(awk -v dir="$work/storage/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r); do umount "$mounted"; done
done
row measured fastest ratio 'peak RSS'
row -------- ------- ----- --------
report pull 'pull + unpack' pull-buildah 'buildah pull' pull-skopeo 'skopeo copy (unpacks nothing)'

printf 'FROM %s/bench/app:1\nCMD ["true"]\n' "$registry" >"$work/one/Dockerfile"
for round in $(seq "$rounds"); do
    serve "$work/mine$round"; serve "$work/theirs$round"
    RBUILD_ROOT=$work/store measure push "$rbuild" -t "$(cat "$work/mine$round/address")/bench/app:1" --push "$work/one"
    measure push-skopeo skopeo --insecure-policy copy --dest-tls-verify=false "dir:$work/dir" \
        "docker://$(cat "$work/theirs$round/address")/bench/app:1"
    rm -rf "$work/mine$round/storage" "$work/theirs$round/storage"
done
report push 'push' push-skopeo 'skopeo copy'
