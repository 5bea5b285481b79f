#!/bin/bash
# run.sh RBUILD [OPTIONS]: builds the same works with rbuild and with every other builder found, turn by turn, checks that
# the images are equal, and prints times, memory and ratios. `run.sh RBUILD --help` names the options; compare.py is the
# order of things, works.py what is built, builders.py by whom.
#
# Needs root. The other builders come from a Debian sid root that is made once, from the apt sources of this machine; what
# they need of the machine besides is installed by tests/setup.sh. All runs in mount and process namespaces that end with
# the command, in networks that are the machine's own and left as they are.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [ "$(id -u)" != 0 ]; then
    echo "run.sh: mounting file systems needs root" >&2
    exit 1
fi
if [ "${1:-}" != --help ]; then "$here/../../tests/setup.sh"; fi

# The soft limit of open files as systemd gives it to services.
ulimit -Sn 1024

# Python is the first process of its namespace: whatever it started ends with it. The same holds for what it mounted.
setsid --wait unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
    /usr/bin/python3 -B "$here/compare.py" "$@" &
child=$!
# Told to stop, it puts away what it made; should it not, nothing of it stays but a directory.
trap 'kill -TERM -- "-$child" 2>/dev/null && wait "$child"; exit 130' INT TERM
trap 'kill -KILL -- "-$child" 2>/dev/null || true' EXIT
wait "$child"
