#!/bin/bash
# garage.sh: runs the tests of caches in buckets against a real garage server, which it starts on loopback with one
# node, a key and a bucket, and stops afterwards. The server is the program in $GARAGE, else `garage` in PATH; without
# either, one line says so and nothing is tested.
set -euo pipefail
cd "$(dirname "$0")/.."

garage=${GARAGE:-$(command -v garage || true)}
if [ -z "$garage" ]; then
    echo "garage.sh: not tested, there is no garage here: \`cargo install garage --version 2.5.0\`, or say GARAGE=/path/to/garage" >&2
    exit 0
fi

work=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
server=
stop() {
    [ -z "$server" ] || { kill "$server" && wait "$server" || true; } 2>/dev/null
    rm -rf "$work"
}
trap stop EXIT

# A port of loopback on which nobody listens.
free_port() {
    local port
    while port=$(( 20000 + RANDOM )); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}
rpc=$(free_port)
api=$(free_port)
secret=$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')
cat >"$work/garage.toml" <<END
metadata_dir = "$work/meta"
data_dir = "$work/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:$rpc"
rpc_public_addr = "127.0.0.1:$rpc"
rpc_secret = "$secret"

[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:$api"
root_domain = ".s3.localhost"
END
admin() { "$garage" -c "$work/garage.toml" "$@"; }

"$garage" -c "$work/garage.toml" server >"$work/log" 2>&1 &
server=$!
for _ in $(seq 300); do
    admin status >/dev/null 2>&1 && break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
admin status >/dev/null || { cat "$work/log" >&2; exit 1; }

node=$(admin node id -q)
admin layout assign --zone here --capacity 1G "${node%%@*}" >/dev/null
admin layout apply --version 1 >/dev/null
admin bucket create cache >/dev/null
key=$(admin key create rbuild)
admin bucket allow --read --write cache --key rbuild >/dev/null
id=$(awk '/^Key ID:/ { print $3 }' <<<"$key")
password=$(awk '/^Secret key:/ { print $3 }' <<<"$key")

echo "garage.sh: $("$garage" --version) at 127.0.0.1:$api"
RBUILD_TEST_S3="http://127.0.0.1:$api garage cache $id $password" \
    "${CARGO:-cargo}" test --locked --package rbuild --test e2e cache_s3::bucket_
