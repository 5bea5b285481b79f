#!/bin/bash
# deny.sh: licences, banned packages and sources of the dependencies, as deny.toml says.
# `tests/dependencies.rs` checks the same file with nothing but cargo; cargo-deny, where it is installed, checks more.
set -euo pipefail
cd "$(dirname "$0")/.."

if cargo deny --version >/dev/null 2>&1; then
    exec cargo deny --locked check bans licenses sources
fi
exec cargo test --locked --package rbuild --test dependencies
