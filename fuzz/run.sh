#!/bin/bash
# run.sh SECONDS [TARGET...]: fuzzes each target for that long, starting from testdata/fuzz and the golden Dockerfiles.
#
# Needs the Rust toolchain and a C++ compiler, neither cargo-fuzz nor a nightly: there is no unsafe code to sanitize in
# the frontend, and coverage is a stable option. What is found stands under $TARGET/artifacts; give it a telling name
# in testdata/fuzz/<target>/, where it stays as a test. `cargo fuzz run TARGET` works as well.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:?usage: run.sh SECONDS [TARGET...]}
shift
targets=("$@")
if ((${#targets[@]} == 0)); then
    for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
work=${CARGO_TARGET_DIR:-target}
host=$(rustc -vV | sed -n 's/^host: //p')

coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
 -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
# The same dependencies as the product; only the fuzzer is added.
cp ../Cargo.lock Cargo.lock
# With --target the flags are for the targets alone, not for build scripts.
RUSTFLAGS="$coverage" cargo build --release --target "$host" --target-dir "$work"

status=0
for target in "${targets[@]}"; do
    mkdir -p "$work/corpus/$target" "$work/artifacts/$target"
    seeds=(../testdata/fuzz/"$target") length=4096
    case $target in
    lexer | plan | check) seeds=(../testdata/fuzz/{lexer,plan,check} ../testdata/dockerfiles) ;;
    # Patterns times paths times their depth: longer inputs only make it slow.
    ignore) length=1024 ;;
    esac
    echo "fuzzing $target for $seconds s"
    "$work/$host/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len="$length" \
        -print_final_stats=1 -artifact_prefix="$work/artifacts/$target/" \
        "$work/corpus/$target" "${seeds[@]}" >"$work/$target.log" 2>&1 || status=1
    grep -E 'panicked|SUMMARY|ERROR|stat::number_of_executed_units' -A1 "$work/$target.log" || true
done
exit "$status"
