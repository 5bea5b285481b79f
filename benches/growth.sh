#!/bin/bash
# growth.sh RBUILD [--full]: how the cost of a build grows with what it is given.
#
#   steps    10, 100, 1,000 RUN steps, each on the one before; the same again with nothing to do; COPY; COPY --link
#   files    1,000, 10,000, 100,000 files of 4 KiB (500,000 with --full) in one COPY; one of them touched; nothing changed
#   layers   10, 100, 1,000 MiB (10,000 with --full) in one layer, and its way into an OCI archive
#
# Printed per row: processor time of builder and steps together, that divided by the number of units, and the peak
# resident set. Wall time lies on a machine that others use, so none is printed. A row says `GROWS` where a unit costs
# more than twice what it cost at the size before, the cost of a build of nothing taken off both, and `MEMORY` where the
# peak is above 150 MiB, or above that of the size before by half and 16 MiB. With either, the script fails in the end.
set -euo pipefail

rbuild=$(realpath "${1:?usage: growth.sh RBUILD [--full]}")
full=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
trap 'rm -rf "$work"' EXIT
export RBUILD_ROOT=$work/store
# What is collected beside a row would count for it.
mkdir -p "$work/home/.config/rbuild"
export HOME=$work/home
flags=0

"$here/../testdata/bases/busybox.sh" "$work/busybox.tar"
"$rbuild" import "$work/busybox.tar" busybox:latest >/dev/null 2>&1

# measure COMMAND…: processor time in microseconds and peak memory in KiB, into $cpu and $peak.
measure() {
    sync
    /usr/bin/time --format='%U %S %M' --output="$work/used" "$@" >/dev/null 2>"$work/said" || { cat "$work/said" >&2; exit 1; }
    local user system
    read -r user system peak < <(tail -n 1 "$work/used")
    cpu=$(awk "BEGIN { printf \"%d\", ($user + $system) * 1000000 }")
}

# What a build costs that does next to nothing.
printf 'FROM scratch\nCOPY Dockerfile /\n' >"$work/Dockerfile"
mkdir "$work/nothing" && mv "$work/Dockerfile" "$work/nothing/"
for _ in 1 2 3; do
    measure "$rbuild" --no-cache -t nothing:1 "$work/nothing"
    [ "${base:-999999999}" -le "$cpu" ] || base=$cpu
done

declare -A before memory
# row KIND UNITS UNIT: the last measurement; rows of a kind come by size.
row() {
    local kind=$1 units=$2 unit=$3 net=$(( cpu > base ? cpu - base : 0 )) flag=
    # Below 30 ms the clock's own steps of 10 ms are most of it.
    local each=$(( (net < 30000 ? 30000 : net) * 1000 / units ))
    if [ -n "${before[$kind]:-}" ] && [ "$each" -gt $(( before[$kind] * 2 )) ]; then flag+=' GROWS'; fi
    if [ "$peak" -gt $(( 150 * 1024 )) ] ||
        { [ -n "${memory[$kind]:-}" ] && [ "$peak" -gt $(( memory[$kind] * 3 / 2 + 16 * 1024 )) ]; }; then flag+=' MEMORY'; fi
    before[$kind]=$each memory[$kind]=$peak
    [ -z "$flag" ] || flags=$(( flags + 1 ))
    printf '%-26s %9d %-6s %9d ms %10d.%03d us each %6d MiB%s\n' "$kind" "$units" "$unit" $(( cpu / 1000 )) \
        $(( net * 1000 / units / 1000 )) $(( net * 1000 / units % 1000 )) $(( peak / 1024 )) "$flag"
}
printf '%-26s %16s %12s %22s %10s\n' work units cpu 'without a build of none' 'peak'

for steps in 10 100 1000; do
    mkdir -p "$work/steps"
    for kind in RUN COPY 'COPY --link'; do
        { echo FROM busybox; for n in $(seq "$steps"); do
            case $kind in RUN) echo "RUN echo $n >/made$n" ;; *) echo "$kind file$n /copied$n" ;; esac
        done; } >"$work/steps/Dockerfile"
        for n in $(seq "$steps"); do echo "$n" >"$work/steps/file$n"; done
        measure "$rbuild" --network=none --no-cache -t steps:1 "$work/steps"; row "$kind" "$steps" steps
        measure "$rbuild" --network=none -t steps:1 "$work/steps"; row "$kind, nothing to do" "$steps" steps
    done
    rm -rf "$work/steps"
done

sizes=(1000 10000 100000)
[ "$full" != --full ] || sizes+=(500000)
for files in "${sizes[@]}"; do
    python3 - "$work/files" "$files" <<'PY'
import os, sys
for number in range(int(sys.argv[2])):
    place = f"{sys.argv[1]}/{number // 5000}/{number // 50 % 100}"
    if number % 50 == 0:
        os.makedirs(place)
    with open(f"{place}/{number}", "wb") as file:
        file.write(b"%09d\n" % number * 409)
PY
    printf 'FROM busybox\nCOPY . /src\n' >"$work/copy"
    measure "$rbuild" -f "$work/copy" -t files:1 "$work/files"; row 'COPY of files' "$files" files
    echo touched >"$work/files/0/0/0"
    measure "$rbuild" -f "$work/copy" -t files:1 "$work/files"; row 'COPY, one file touched' "$files" files
    measure "$rbuild" -f "$work/copy" -t files:1 "$work/files"; row 'COPY, nothing to do' "$files" files
    rm -rf "$work/files"
    "$rbuild" prune --all --force >/dev/null 2>&1 || true
    "$rbuild" import "$work/busybox.tar" busybox:latest >/dev/null 2>&1
done

sizes=(10 100 1000)
[ "$full" != --full ] || sizes+=(10000)
for mib in "${sizes[@]}"; do
    mkdir "$work/big"
    python3 - "$mib" "$work/big/big" <<'PY'
import os, random, sys
random.seed(7)
words = [bytes(random.choices(b"abcdefghijklmnopqrstuvwxyz", k=random.randint(2, 9))) for _ in range(5000)]
text = b" ".join(random.choices(words, k=190000))[: 1 << 20]
with open(sys.argv[2], "wb") as out:
    for part in range(int(sys.argv[1])):
        out.write(os.urandom(1 << 20) if part % 2 else text)
PY
    printf 'FROM scratch\nCOPY big /big\n' >"$work/big/Dockerfile"
    measure "$rbuild" -t big:1 "$work/big"; row 'layer' "$mib" MiB
    measure "$rbuild" -o "type=oci,name=big:1,dest=$work/out.tar" "$work/big"; row 'layer, gzip' "$mib" MiB
    measure "$rbuild" -o "type=oci,name=big:1,compression=zstd,dest=$work/out.tar" "$work/big"; row 'layer, zstd' "$mib" MiB
    rm -rf "$work/big" "$work/out.tar"
done
if [ "$flags" -gt 0 ]; then
    echo "growth.sh: $flags rows grow faster than what they are given" >&2
    exit 1
fi
