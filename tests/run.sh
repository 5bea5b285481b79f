#!/bin/bash
# run.sh: runs every test; the last line counts them. Uses cargo-nextest where it is installed, else cargo's own runner.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo test --workspace --locked --doc

if cargo nextest --version >/dev/null 2>&1; then
    # Its last line is `Summary [ 12.3s] N tests run: N passed, N skipped`.
    exec cargo nextest run --workspace --locked --no-fail-fast
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --workspace --locked --all-targets --no-fail-fast 2>&1 | tee "$log" || status=$?
awk '/^test result:/ { passed += $4; failed += $6 } END { printf "%d passed, %d failed\n", passed, failed }' "$log"
exit "$status"
