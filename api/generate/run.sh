#!/bin/bash
# run.sh: makes api/src/generated anew of api/proto, and notes of what it was made.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf src/generated && mkdir src/generated
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-../target/generate} cargo run --quiet --manifest-path generate/Cargo.toml -- proto src/generated
sed -i 's/concat!(env!("OUT_DIR"), "\/\(.*\)")/"\1"/' src/generated/tree.rs
(cd proto && sha256sum -- *.proto) >src/generated/proto.sha256
