#!/bin/bash
# run.sh RBUILD: measures rbuild on this machine and prints a table; asserts nothing by the clock.
#
#   cached rebuild   20 steps, all cached: wall time of the fastest and the median of 20 runs, how much of it is the
#                    record in the history (the fastest of 100 with and without it), and what it did to get
#                    there, counted by strace: mounts, new processes (a thread is none), namespaces
#   peak memory      resident set of the whole build, and of a push to an archive, of a layer with 1 GiB
#   RUN true         a whole build with one step; what the step itself costs beside the bare kernel work (clone,
#                    overlay, pivot, exec) is printed by benches/step.rs, which `make bench` runs next
set -euo pipefail

rbuild=$(realpath "${1:?usage: run.sh RBUILD}")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
trap 'rm -rf "$work"' EXIT
export RBUILD_ROOT=$work/store

row() { printf '%-34s %14s   %s\n' "$1" "$2" "$3"; }
# Wall time of a command in microseconds.
micros() {
    local from=$EPOCHREALTIME
    "$@" >/dev/null 2>"$work/said" || { cat "$work/said" >&2; return 1; }
    local to=$EPOCHREALTIME
    echo $(( ${to/./} - ${from/./} ))
}
ms() { printf '%d.%01d ms' $(( $1 / 1000 )) $(( $1 % 1000 / 100 )); }

"$here/../testdata/bases/busybox.sh" "$work/busybox.tar"
"$rbuild" import "$work/busybox.tar" busybox:latest >/dev/null

row measured value target
row -------- ----- ------

# 1. Twenty steps, all cached.
mkdir "$work/twenty"
{
    echo FROM busybox
    for n in $(seq 10); do
        echo "COPY file$n /file$n"
        echo "RUN cp /file$n /made$n"
    done
} >"$work/twenty/Dockerfile"
for n in $(seq 10); do echo "$n" >"$work/twenty/file$n"; done
row '20 steps, cold' "$(ms "$(micros "$rbuild" -t twenty:1 "$work/twenty")")" ''
times=$(for _ in $(seq 20); do micros "$rbuild" -t twenty:1 "$work/twenty"; done | sort -n)
row '20 steps cached, fastest of 20' "$(ms "$(sed -n 1p <<<"$times")")" '< 30 ms'
row '20 steps cached, median of 20' "$(ms "$(sed -n 10p <<<"$times")")" '< 30 ms'
# With and without a record, turn by turn, so that whatever else the machine does meets both.
mkdir -p "$work/recorded" "$work/unrecorded/.config/rbuild"
printf '[history]\nkeep = 0\n' >"$work/unrecorded/.config/rbuild/config.toml"
for _ in $(seq 100); do
    for home in recorded unrecorded; do
        HOME=$work/$home micros "$rbuild" -t twenty:1 "$work/twenty" >>"$work/$home.times"
    done
done
fastest() { sort -n "$work/$1.times" | sed -n 1p; }
row '  of which recording it, of 100' "$(ms $(( $(fastest recorded) - $(fastest unrecorded) )))" '< 2 ms'

strace -f -qq -o "$work/trace" \
    -e trace=mount,move_mount,fsopen,fsmount,open_tree,umount2,unshare,setns,clone,clone3,fork,vfork,execve \
    "$rbuild" -t twenty:1 "$work/twenty" >/dev/null 2>&1
mounts=$(grep -Ec ' (mount|move_mount|fsopen|fsmount|open_tree|umount2|unshare|setns)\(' "$work/trace" || true)
# The first execve is rbuild itself; a clone with CLONE_THREAD is a thread.
children=$(grep -E ' (clone|clone3|fork|vfork)\(' "$work/trace" | grep -vc CLONE_THREAD || true)
execs=$(grep -Ec ' execve\(.*= 0' "$work/trace" || true)
row '  mounts and namespaces' "$mounts" 0
row '  processes started' "$(( children + execs - 1 ))" 0

# 2. One layer of 1 GiB that gzip cannot make small, and its way out.
mkdir "$work/big"
head -c 1G /dev/urandom >"$work/big/big"
printf 'FROM scratch\nCOPY big /big\n' >"$work/big/Dockerfile"
peak() {
    /usr/bin/time --format=%M --output="$work/peak" "$@" >/dev/null 2>"$work/said" || { cat "$work/said" >&2; return 1; }
    echo "$(( $(tail -n 1 "$work/peak") / 1024 )) MiB"
}
row '1 GiB layer: peak memory, COPY' "$(peak "$rbuild" -t big:1 "$work/big")" '< 100 MiB'
row '1 GiB layer: peak memory, RUN' "$(
    printf 'FROM busybox\nRUN --mount=type=bind,source=big,target=/mnt/big cp /mnt/big /big\n' >"$work/big/Dockerfile"
    peak "$rbuild" -t big:2 "$work/big")" '< 100 MiB'
row '1 GiB layer: peak memory, archive' "$(peak "$rbuild" save -o "$work/big.tar" big:1)" '< 100 MiB'
row '1 GiB layer: peak memory, load' "$(RBUILD_ROOT=$work/other peak "$rbuild" load -i "$work/big.tar")" '< 100 MiB'

# 3. What a step costs.
printf 'FROM busybox\nARG N\nRUN true\n' >"$work/Dockerfile"
mkdir "$work/one" && mv "$work/Dockerfile" "$work/one/"
n=0
times=$(for n in $(seq 20); do micros "$rbuild" --no-cache --build-arg "N=$n" -t one:1 "$work/one"; done | sort -n)
row 'build of one RUN true, median' "$(ms "$(sed -n 10p <<<"$times")")" ''
