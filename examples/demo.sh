#!/bin/bash
# demo.sh RBUILD DIR: makes a base image from Debian packages, builds every example with it, runs the Python service
# and shows its answer. Everything that it makes is under DIR; the base and the store are kept for the next time.
set -euo pipefail

rbuild=$(realpath "${1:?usage: demo.sh RBUILD DIR}")
mkdir -p "${2:?usage: demo.sh RBUILD DIR}"
dir=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
export RBUILD_ROOT=$dir/store

say() { printf '\n\033[1m== %s\033[0m\n' "$*" >&2; }

# Proxies of this machine reach the steps as the arguments that every builder knows; they stay out of the image.
proxies=()
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    if [ -n "${!name:-}" ]; then proxies+=(--build-arg "$name"); fi
done

say "a base image from Debian packages: debian:12-slim"
if [ ! -e "$dir/debian.tar" ]; then "$here/../testdata/bases/debian.sh" "$dir/debian.tar"; fi
"$rbuild" import "$dir/debian.tar" debian:12-slim

for example in c-static python-web node-web; do
    say "rbuild -t $example:1 --network=host examples/$example"
    "$here/host.sh" "$here/$example/host"
    "$rbuild" -t "$example:1" --network=host "${proxies[@]}" "$here/$example"
done

say "the same again: nothing runs"
"$rbuild" -t python-web:1 --network=host "${proxies[@]}" "$here/python-web"

say "rbuild images"
"$rbuild" images

say "rbuild run --rm --network=host python-web:1"
coproc SERVICE { exec "$rbuild" run --rm --network=host -e HOST=127.0.0.1 -e PORT=0 python-web:1; }
service=$SERVICE_PID
trap 'kill "$service" 2>/dev/null || true' EXIT
# The service names the port that it was given once it can be asked.
if ! read -r -t 60 line <&"${SERVICE[0]}"; then
    echo "demo.sh: the service did not start" >&2
    exit 1
fi
echo "$line"
answer=$(curl --silent --show-error --fail --noproxy '*' "http://127.0.0.1:${line##*:}/")

say "its answer"
echo "$answer"
kill -TERM "$service" # rbuild passes it on
status=0
wait "$service" || status=$?
trap - EXIT
echo "stopped with exit code $status"
