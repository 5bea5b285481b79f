#!/bin/bash
# engines.sh: loads images into real engines: Debian's docker, podman (its service, and its program alone) and containerd.
# Their packages are unpacked beneath the target directory and not installed; the engines keep everything in a directory of
# their own, run in mount namespaces of their own, without networks, and are ended by their process ids. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

kept=${CARGO_TARGET_DIR:-target}/engines
mkdir -p "$kept"
kept=$(cd "$kept" && pwd)
if [ ! -e "$kept/whole" ]; then
    mkdir -p "$kept/debs"
    (cd "$kept/debs" && apt-get download docker.io containerd podman conmon tini)
    for deb in "$kept"/debs/*.deb; do dpkg -x "$deb" "$kept/root"; done
    touch "$kept/whole"
fi
programs=$kept/root/usr/bin:$kept/root/usr/sbin

work=$(mktemp -d -p /var/tmp)
started=()
stop() {
    [ $? = 0 ] || tail -n 5 "$work"/*.log >&2
    for pid in "${started[@]}"; do { kill "$pid" && wait "$pid" || true; } 2>/dev/null; done
    rm -rf "$work"
}
trap stop EXIT

# A program in a mount namespace of its own, where /run and /opt are empty and what is written into /etc goes with it:
# docker keeps a key there, and containerd makes a folder for plugins.
apart() {
    exec unshare --mount --propagation private sh -c '
        mount -t overlay -o "lowerdir=/etc,upperdir=$0,workdir=$0-work" none /etc &&
        mount -t tmpfs none /run && mount -t tmpfs none /opt && exec "$@"' "$@"
}
# start NAME SOCKET COMMAND…
start() {
    local name=$1 socket=$2
    shift 2
    mkdir "$work/$name-etc" "$work/$name-etc-work"
    (export PATH=$programs:$PATH; apart "$work/$name-etc" "$@") >"$work/$name.log" 2>&1 &
    started+=($!)
    for _ in $(seq 300); do
        [ ! -S "$socket" ] || return 0
        kill -0 "${started[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/$name.log" >&2
    exit 1
}

start docker "$work/docker.sock" dockerd --data-root "$work/docker" --exec-root /run/docker --pidfile "$work/docker.pid" \
    --host "unix://$work/docker.sock" --group root --bridge=none --iptables=false --ip6tables=false --ip-masq=false --ip-forward=false

mkdir "$work/bin"
podman=(--root "$work/podman" --runroot "$work/podman-run" --tmpdir "$work/podman-tmp" --storage-driver overlay --cgroup-manager cgroupfs --events-backend file)
cat >"$work/bin/podman" <<END
#!/bin/sh
PATH=$programs:/usr/sbin:/usr/bin:/sbin:/bin exec unshare --mount --propagation private podman ${podman[*]} "\$@"
END
chmod +x "$work/bin/podman"
ln -s "$kept/root/usr/bin/ctr" "$work/bin/ctr"
start podman "$work/podman.sock" podman "${podman[@]}" system service --time 0 "unix://$work/podman.sock"

cat >"$work/containerd.toml" <<END
version = 2
root = "$work/containerd"
state = "$work/containerd-run"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$work/containerd.sock"
[ttrpc]
address = "$work/containerd.ttrpc.sock"
END
start containerd "$work/containerd.sock" containerd --config "$work/containerd.toml"

tests() { "${CARGO:-cargo}" test --locked --workspace --test e2e load:: -- --skip faults; }
echo "engines.sh: docker, and the programs of podman and containerd"
RBUILD_TEST_DOCKER=unix://$work/docker.sock RBUILD_TEST_ENGINES=$work/bin RBUILD_TEST_CONTAINERD=$work/containerd.sock tests
echo "engines.sh: podman's service"
RBUILD_TEST_DOCKER=unix://$work/podman.sock tests
