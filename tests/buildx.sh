#!/bin/bash
# buildx.sh: `rbuild serve` behind Debian's own docker buildx: builds, outputs, secrets, failures, as people give them.
# The clients are newer than this machine's release: their packages come from Debian's unstable, over this machine's own apt
# sources with a configuration of their own, and are unpacked beneath the target directory, not installed. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
kept=$target/buildx
if [ ! -e "$kept/whole" ]; then
    rm -rf "$kept"
    mkdir -p "$kept"/{lists/partial,cache/archives/partial,sources,debs}
    for file in /etc/apt/sources.list.d/*.sources; do
        # The first paragraph is the release itself; the same place has the other suites.
        awk 'BEGIN { RS = ""; ORS = "\n" } NR == 1' "$file" | sed 's/^Suites:.*/Suites: sid/' \
            >"$kept/sources/$(basename "$file")"
        break
    done
    apt=(apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$kept/sources"
        -o Dir::State::lists="$kept/lists" -o Dir::Cache="$kept/cache" -o APT::Sandbox::User=root
        -o Acquire::Languages=none)
    "${apt[@]}" update
    (cd "$kept/debs" && "${apt[@]}" download docker-buildx docker-cli)
    for deb in "$kept"/debs/*.deb; do dpkg -x "$deb" "$kept/root"; done
    touch "$kept/whole"
fi

rbuild=${RBUILD:-$target/release/rbuild}
[ -x "$rbuild" ] || cargo build --release --locked --bin rbuild

work=$(mktemp -d -p /var/tmp)
daemon=
stop() {
    code=$?
    [ $code = 0 ] || tail -n 20 "$work/log" >&2
    if [ -n "$daemon" ]; then { kill "$daemon" && wait "$daemon" || true; } 2>/dev/null; fi
    rm -rf "$work"
}
trap stop EXIT

export DOCKER_CONFIG=$work/config
mkdir -p "$DOCKER_CONFIG/cli-plugins"
ln -s "$kept/root/usr/libexec/docker/cli-plugins/docker-buildx" "$DOCKER_CONFIG/cli-plugins/docker-buildx"
docker=$kept/root/usr/bin/docker
"$rbuild" --root "$work/store" serve --addr "unix://$work/sock" >"$work/log" 2>&1 &
daemon=$!
for _ in $(seq 100); do
    [ ! -S "$work/sock" ] || break
    kill -0 "$daemon"
    sleep 0.1
done
"$docker" buildx create --name r --driver remote "unix://$work/sock" >/dev/null
buildx() { "$docker" buildx --builder r "$@"; }
build() { buildx build --progress plain "$@" >"$work/out" 2>&1 || { cat "$work/out" >&2; return 1; }; }
say() { echo "buildx: $*"; }
# fails WORDS COMMAND…: it fails and says them.
fails() {
    local words=$1
    shift
    if "$@" 2>/dev/null; then echo "it did not fail: $*" >&2; exit 1; fi
    grep -qF -- "$words" "$work/out" || { echo "without \`$words\`:" >&2; cat "$work/out" >&2; exit 1; }
}

base=$work/base
testdata/bases/busybox.sh "$work/busybox.tar"
"$rbuild" --root "$work/store" import "$work/busybox.tar" base:1 >/dev/null 2>&1

app=$work/app
mkdir -p "$app/sub"
cat >"$app/Dockerfile" <<'DOCKERFILE'
FROM base:1 AS build
ARG WHO=nobody
COPY . /src
RUN --mount=type=secret,id=token echo "built for $WHO with $(wc -c </run/secrets/token) bytes" >/out && cat /out
FROM base:1
COPY --from=build /out /out
COPY sub /sub
LABEL who=$WHO
DOCKERFILE
echo 'ignored' >"$app/.dockerignore"
echo one >"$app/file"
echo two >"$app/sub/file"
head -c 300000 /dev/urandom >"$app/ignored"
echo -n secret-value >"$work/token"

buildx inspect --bootstrap >"$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
grep -q 'linux/amd64\|linux/arm64' "$work/out"
say "the builder is there"

build --build-arg WHO=me --secret "id=token,src=$work/token" -t app:1 -o "type=docker,dest=$work/app.tar" "$app"
grep -q 'built for me with 12 bytes' "$work/out"
tar -xOf "$work/app.tar" manifest.json >"$work/out"
grep -q 'app:1' "$work/out"
say "a build with secret and argument, as an archive"

build --build-arg WHO=me --secret "id=token,src=$work/token" -o "type=local,dest=$work/tree" --metadata-file "$work/meta" "$app"
grep -q 'CACHED' "$work/out"
[ "$(cat "$work/tree/sub/file")" = two ] && [ "$(cat "$work/tree/out")" = 'built for me with 12 bytes' ]
[ ! -e "$work/tree/src" ]
[ "$(readlink "$work/tree/bin/sh")" = busybox ]
say "the same again from the cache, as a tree"

build --target build --secret "id=token,src=$work/token" -o "type=tar,dest=$work/tree.tar" "$app"
tar -tf "$work/tree.tar" >"$work/out"
grep -q 'src/file' "$work/out"
if grep -q 'src/ignored' "$work/out"; then echo 'an ignored file was sent' >&2; exit 1; fi
say "a stage as a tar, without what is ignored"

build --secret "id=token,src=$work/token" -t kept:1 -o type=image "$app"
"$rbuild" --root "$work/store" images >"$work/out" 2>/dev/null
grep -q 'kept' "$work/out"
say "an image in the store"

build --secret "id=token,src=$work/token" -o "type=oci,dest=$work/a.tar" -o "type=local,dest=$work/b" "$app"
tar -tf "$work/a.tar" >"$work/out"
grep -q oci-layout "$work/out"
[ -e "$work/b/out" ]
say "several outputs at once"

printf 'FROM base:1\nRUN echo words; exit 3\n' >"$work/Failing"
fails 'exit code: 3' build -f "$work/Failing" "$app"
grep -qF '>>> RUN echo words; exit 3' "$work/out"
grep -q 'words' "$work/out"
printf 'FROM base:1\nCOYP a b\n' >"$work/Failing"
fails 'unknown instruction' build -f "$work/Failing" "$app"
grep -qF '>>> COYP a b' "$work/out"
printf 'FROM base:1\nCOPY nothing /\n' >"$work/Failing"
fails 'nothing' build -f "$work/Failing" "$app"
printf 'FROM base:1\nRUN --mount=type=secret,id=none,required=true true\n' >"$work/Failing"
fails 'none' build -f "$work/Failing" "$app"
say "failures say what, and show where"

printf 'FROM base:1\nCOPY --from=other file /f\n' >"$work/Named"
build -f "$work/Named" --build-context "other=$app/sub" -o "type=local,dest=$work/named" "$app"
[ "$(cat "$work/named/f")" = two ]
printf 'FROM base:1\nRUN echo from-stdin >/x\n' | buildx build --progress plain -f - -o "type=local,dest=$work/stdin" "$app" >"$work/out" 2>&1
[ "$(cat "$work/stdin/x")" = from-stdin ]
say "named contexts, a Dockerfile on standard input"

# Targets upon targets: the lowest one's directory is nobody else's, and the middle one is built for others alone.
mkdir -p "$work/bake/low" "$work/bake/high"
echo low >"$work/bake/low/file"
echo high >"$work/bake/high/file"
printf 'FROM base:1\nENV WORD=low\nCOPY file /low\nRUN echo ran-low && cat /low >/made\n' >"$work/bake/low/Dockerfile"
printf 'FROM low\nRUN test "$WORD" = low && cat /made /made >/twice\n' >"$work/bake/Middle"
printf 'FROM base:1 AS files\nCOPY file /high\nFROM middle\nCOPY --from=files /high /\nCOPY --from=low /made /again\n' \
    >"$work/bake/high/Dockerfile"
cat >"$work/bake/docker-bake.hcl" <<HCL
group "default" { targets = ["low", "high"] }
target "low" {
  context = "$work/bake/low"
  output = ["type=local,dest=$work/bake/out-low"]
}
target "middle" {
  context = "$work/bake"
  dockerfile = "Middle"
  contexts = { low = "target:low" }
}
target "high" {
  context = "$work/bake/high"
  contexts = { middle = "target:middle", low = "target:low" }
  output = ["type=local,dest=$work/bake/out-high"]
}
HCL
buildx bake --allow=fs="$work" --progress plain -f "$work/bake/docker-bake.hcl" >"$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
[ "$(cat "$work/bake/out-low/made")" = low ]
[ "$(cat "$work/bake/out-high/twice" "$work/bake/out-high/high" "$work/bake/out-high/again")" = "$(printf 'low\nlow\nhigh\nlow')" ]
[ "$(grep -c '^#[0-9]* [0-9.]* ran-low$' "$work/out")" = 1 ]
say "targets that stand on one another"

cat >"$work/policy.json" <<'JSON'
{ "version": 1, "rules": [
    { "action": "CONVERT", "selector": { "identifier": "docker-image://docker.io/library/other:*" },
      "updates": { "identifier": "docker-image://docker.io/library/base:1" } },
    { "action": "DENY", "selector": { "identifier": "https://*" } } ] }
JSON
export EXPERIMENTAL_BUILDKIT_SOURCE_POLICY=$work/policy.json
printf 'FROM other:1\nRUN echo converted >/x\n' >"$work/Policy"
build -f "$work/Policy" -o "type=local,dest=$work/policy" "$app"
[ "$(cat "$work/policy/x")" = converted ]
printf 'FROM base:1\nADD https://absent.example/x /x\n' >"$work/Policy"
fails 'rule 2 denies' build -f "$work/Policy" "$app"
unset EXPERIMENTAL_BUILDKIT_SOURCE_POLICY
say "a source policy"

tar -C "$app" -cf "$work/context.tar" Dockerfile file sub
buildx build --progress plain --secret "id=token,src=$work/token" -o "type=local,dest=$work/piped" - \
    <"$work/context.tar" >"$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
[ "$(cat "$work/piped/sub/file")" = two ]
printf 'FROM base:1\nRUN echo alone >/x\n' | buildx build --progress plain -o "type=local,dest=$work/alone" - >"$work/out" 2>&1
[ "$(cat "$work/alone/x")" = alone ]
say "contexts on standard input: an archive, a Dockerfile"

mkdir "$work/layout"
build --secret "id=token,src=$work/token" -o "type=oci,dest=$work/layout.tar" "$app"
tar -C "$work/layout" -xf "$work/layout.tar"
printf 'FROM app\nRUN cat /sub/file >/y\n' >"$work/Named"
build -f "$work/Named" --build-context "app=oci-layout://$work/layout" -o "type=local,dest=$work/of-layout" "$app"
[ "$(cat "$work/of-layout/y")" = two ]
say "an OCI layout as a named context"

fails 'UndefinedVar' build --check "$app"
buildx build --call=targets,format=json "$app" >"$work/out" 2>/dev/null
grep -q '"name": "build"' "$work/out"
buildx history ls >"$work/out" 2>&1
grep -q 'Completed' "$work/out" && grep -q 'Error' "$work/out"
say "questions, and the builds of the past"

printf 'FROM base:1\nRUN cat /proc/sys/kernel/random/uuid >/once\n' >"$work/Once"
build -f "$work/Once" --cache-to "type=local,dest=$work/cache,mode=max" -o "type=local,dest=$work/first" "$app"
grep -q '"digest"' "$work/cache/index.json"
forget() { "$rbuild" --root "$work/store" prune --all >/dev/null 2>&1; }
forget
build -f "$work/Once" -o "type=local,dest=$work/other" "$app"
if cmp -s "$work/first/once" "$work/other/once"; then echo 'nothing was forgotten' >&2; exit 1; fi
forget
build -f "$work/Once" --cache-from "type=local,src=$work/cache" -o "type=local,dest=$work/second" "$app"
cmp "$work/first/once" "$work/second/once"
say "a cache in a directory"

build --provenance=mode=max,builder-id=https://ci.example/7 --secret "id=token,src=$work/token" \
    -o "type=oci,dest=$work/told.tar" "$app"
mkdir "$work/told"
tar -C "$work/told" -xf "$work/told.tar"
grep -rqF 'https://ci.example/7' "$work/told/blobs"
say "a provenance"

buildx du >"$work/out" 2>&1
grep -q 'Total' "$work/out"
buildx prune --force >"$work/out" 2>&1
say "du and prune"

# Over a network, with certificates of its own.
pem() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -addext "subjectAltName=$2" \
        -keyout "$work/$1.key" -out "$work/$1.csr" 2>/dev/null
    openssl x509 -req -in "$work/$1.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
        -copy_extensions copyall -out "$work/$1.pem" 2>/dev/null
}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca \
    -keyout "$work/ca.key" -out "$work/ca.pem" 2>/dev/null
pem server IP:127.0.0.1
pem client DNS:client
kill "$daemon"
wait "$daemon"
"$rbuild" --root "$work/store" serve --addr "unix://$work/sock" --addr tcp://127.0.0.1:0 \
    --tlscacert "$work/ca.pem" --tlscert "$work/server.pem" --tlskey "$work/server.key" >"$work/log" 2>&1 &
daemon=$!
until grep -q '^serving on ' "$work/log"; do
    kill -0 "$daemon"
    sleep 0.1
done
address=$(sed -n 's/^serving on .*\(tcp:.*\)$/\1/p' "$work/log")
"$docker" buildx create --name far --driver remote \
    --driver-opt "cacert=$work/ca.pem,cert=$work/client.pem,key=$work/client.key" "$address" >/dev/null
build --builder far -f "$work/Once" -o "type=local,dest=$work/far" "$app"
[ -s "$work/far/once" ]
"$docker" buildx create --name stranger --driver remote "$address" >/dev/null
if "$docker" buildx --builder stranger build -f "$work/Once" "$app" >"$work/out" 2>&1; then
    echo 'a stranger built' >&2
    exit 1
fi
say "tcp:// with certificates, and not without"

kill "$daemon"
wait "$daemon"
daemon=
[ ! -e "$work/sock" ]
if grep -q " $work/store" /proc/self/mountinfo; then echo 'something stays mounted' >&2; exit 1; fi
say "the daemon ends, and nothing of it stays"
