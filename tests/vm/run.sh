#!/bin/bash
# run.sh [--short | TEST…]: runs the sandbox's tests in a virtual machine with Debian's own kernel and pure cgroup v2.
#
#   tests/vm/run.sh             every test of the sandbox
#   tests/vm/run.sh --short     one or two of each kind
#   tests/vm/run.sh limits::    those whose names match one of these extended regular expressions
#
# It shows what this machine's kernel may not: the older mount API (before Linux 6.7), control groups of version 2 with
# all controllers, Debian's own policy. Needs root to make the disk, and a KVM to be quick. The disk of the system is
# kept under the target directory.
set -euo pipefail
cd "$(dirname "$0")/../.."

short=(
    emulate::
    exec::a_layer_holds
    hostile::what_an_image_has
    lifetime::cancel_kills
    limits::
    policy::capabilities policy::devices policy::every_namespace policy::masked_paths policy::mounts_are
    policy::without_network
    streams::exit_codes
)
case "${1:-}" in
--short) wanted=("${short[@]}") ;;
*) wanted=("$@") ;;
esac
pattern=$(IFS='|'; echo "${wanted[*]}")

target=${CARGO_TARGET_DIR:-$PWD/target}
vm=$target/vm
tests/setup.sh
tests/vm/image.sh "$vm"

# The test binaries and the binaries that they name lie at the same paths inside.
binaries=$(cargo test --locked --no-run --message-format=json --workspace --test sandbox |
    python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable"):
        print(message["target"]["kind"][0], message["executable"])')
given=$(mktemp -d)
trap 'rm -rf "$given"' EXIT
mkdir -p "$given/tree$PWD"
git ls-files -z -- executor/tests testdata tests/probe | xargs -0 cp --parents --target-directory="$given/tree$PWD"
{
    echo "mkdir -p '$PWD' '$target' /var/tmp/upper /var/tmp/work && mount --bind '/given/tree$PWD' '$PWD'"
    # Tests write beside their binaries, and one attacks such a binary.
    echo "mount -t overlay -o 'lowerdir=/given/tree$target,upperdir=/var/tmp/upper,workdir=/var/tmp/work' tests '$target'"
    # A disk: this kernel's memory file systems map no owners.
    echo "mkdir -p '$target/tmp' && export TMPDIR=/var/tmp && cd '$PWD' && failed=0"
} >"$given/run"
while read -r kind binary; do
    mkdir -p "$given/tree$(dirname "$binary")"
    cp "$binary" "$given/tree$binary"
    [ "$kind" = test ] || continue
    # Each test is a process of its own, as elsewhere: some count their children.
    cat >>"$given/run" <<RUN
export CARGO_MANIFEST_DIR='$PWD/executor'
cat >/tmp/one <<'ONE'
one() { '$binary' --exact "\$1" >"/tmp/\$1.out" 2>&1 && echo "ok     \$1" || { cat "/tmp/\$1.out"; echo "FAILED \$1"; exit 1; }; }
ONE
'$binary' --list --format terse | sed -n 's/: test\$//p' | grep -E '$pattern' >/tmp/wanted
echo "\$(wc -l </tmp/wanted) tests on Linux \$(uname -r)"
[ -s /tmp/wanted ] || failed=1
xargs -P 4 -n 1 sh -c '. /tmp/one; one "\$0"' </tmp/wanted || failed=1
RUN
done <<<"$binaries"
echo 'exit $failed' >>"$given/run"

chmod 755 "$given/run"
disk=$vm/given.ext4
rm -f "$disk"
truncate --size=$(($(du --summarize --block-size=1M "$given" | cut -f1) + 64))M "$disk"
mkfs.ext4 -q -F -d "$given" "$disk"

# A paravirtual KVM (kvm_pvm) runs only kernels that were made for it.
fast=(-accel "tcg,thread=multi" -cpu max)
seconds=3600
if [ -w /dev/kvm ] && [ ! -e /sys/module/kvm_pvm ]; then
    fast=(-accel kvm -cpu host)
    seconds=900
else
    echo "run.sh: no KVM that runs Debian's kernel: the machine is emulated, which takes long" >&2
fi
console=$vm/console
# The disk of the system is only read: what is written to it goes when the machine does.
timeout --kill-after=10 "${VM_SECONDS:-$seconds}" qemu-system-x86_64 "${fast[@]}" -m 4G -smp 2 -nographic -no-reboot -nodefaults \
    -serial stdio -kernel "$vm/vmlinuz" -initrd "$vm/initrd" \
    -drive "file=$vm/root.ext4,if=virtio,format=raw,snapshot=on" -drive "file=$disk,if=virtio,format=raw,readonly=on" \
    -append "console=ttyS0 root=/dev/vda rw quiet loglevel=3 cgroup_no_v1=all init=/vm/init" </dev/null |
    tee "$console"
code=$(tr -d '\r' <"$console" | sed -n 's/^VM EXIT //p')
exit "${code:-1}"
