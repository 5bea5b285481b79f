//! Networks of steps, each test in a small world of its own: network namespaces for the builder's machine and for what
//! lies outside, so that the machine that runs the tests is never touched.
//!
//! ```text
//!   outside (192.0.2.1, 203.0.113.9)  lan ═══ wan  the builder's machine (192.0.2.2)
//! ```
//! Outside stands a server that tells whoever connects to port 8080 under which address it sees them. `world` has the
//! script that makes all this; a test's own script follows, with `$RBUILD`, `$CONTEXT` and `$TEMP`.

use std::process::Command;

use crate::support::{Context, Outcome, Store, bases};

const WORLD: &str = r#"
set -eu
mount -t tmpfs tmpfs /run
ip link set lo up
ip netns add outside
ip link add wan type veth peer name lan netns outside
ip addr add 192.0.2.2/24 dev wan && ip link set wan up && ip route add default via 192.0.2.1
ip -n outside link set lo up
ip -n outside addr add 192.0.2.1/24 dev lan && ip -n outside link set lan up
ip -n outside addr add 203.0.113.9/32 dev lo
cat >$TEMP/server.py <<'SERVER'
import socket, sys
server = socket.socket()
server.bind((sys.argv[1], 8080))
server.listen()
print("ready", flush=True)
while True:
    client, address = server.accept()
    client.recv(4096)
    client.sendall(f"HTTP/1.0 200 OK\r\n\r\nyou are {address[0]}\n".encode())
    client.close()
SERVER
serve() { # serve NAMESPACE-COMMAND... -- ADDRESS: a server, once it is ready
    mkfifo $TEMP/ready
    "$@" >$TEMP/ready &
    read -r line <$TEMP/ready
    rm $TEMP/ready
}
serve ip netns exec outside /usr/bin/python3 $TEMP/server.py 0.0.0.0
await() { # await WORDS: until a line of descriptor 7 ends with them
    while read -r line <&7; do
        echo "$line" >&2
        case $line in *"$1") return ;; esac
    done
    exit 9
}
kept() { # what a build must leave as it was
    ip -br link | grep -v '^wan' || true
    nft list ruleset
    cat /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/ip_forward
    ls -R /run/rbuild/network-* 2>/dev/null || true
}
kept >$TEMP/before
$RBUILD import $BASE busybox >/dev/null
"#;

/// Runs `script` in a world of its own, with a build context that holds `dockerfile`.
fn world(dockerfile: &str, script: &str) -> Outcome {
    let (store, context) = (Store::new(), Context::new(dockerfile));
    let temp = crate::support::temp_dir();
    let mut command = Command::new("unshare");
    let script = format!("{WORLD}{script}");
    command.args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--propagation=private"]);
    command.args(["sh", "-c", &script]);
    command.env("RBUILD", env!("CARGO_BIN_EXE_rbuild")).env("RBUILD_ROOT", store.root()).env("HOME", store.home());
    command.env("BASE", bases::busybox()).env("CONTEXT", context.path()).env("TEMP", temp.path());
    Outcome::of(&mut command)
}

/// A config file for `$RBUILD`.
fn config(text: &str) -> String {
    format!("mkdir -p $HOME/.config/rbuild\ncat >$HOME/.config/rbuild/config.toml <<'END'\n{text}\nEND\n")
}

/// Asks the server outside, and shows what a step sees of its network.
const ASK: &str =
    "FROM busybox\nRUN wget -qO- 203.0.113.9:8080 && ip -4 addr show dev eth0 && ip route && cat /etc/resolv.conf\n";

#[test]
fn a_step_reaches_the_outside_under_the_hosts_address_and_nothing_is_left() {
    let script = "$RBUILD build --progress=plain --no-cache $CONTEXT; kept >$TEMP/after; diff $TEMP/before $TEMP/after";
    for driver in ["bridge", "pasta", "slirp4netns"] {
        let script = config(&format!("[network]\ndriver = '{driver}'")) + script;
        let outcome = world(ASK, &script).ok();
        outcome.says(&["you are 192.0.2.2", "inet 10.89.0.130/25", "default via 10.89.0.129"]);
    }
}

#[test]
fn a_user_without_rights_gets_out_over_a_program() {
    // On usual machines the device is everybody's.
    let script = r#"
        mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200
        chown -R 12345:12345 $HOME $CONTEXT && chmod 711 $HOME/.. $TEMP
        as_user() { setpriv --reuid 12345 --regid 12345 --clear-groups env RBUILD_ROOT=$HOME/store $RBUILD "$@"; }
        cp $BASE $TEMP/base.tar && chmod 644 $TEMP/base.tar
        as_user import $TEMP/base.tar busybox
        as_user --debug build --progress=plain $CONTEXT
        kept >$TEMP/after; diff $TEMP/before $TEMP/after"#;
    for driver in ["pasta", "slirp4netns"] {
        let outcome = world(ASK, &(config(&format!("[network]\ndriver = '{driver}'")) + script)).ok();
        outcome.says(&["you are 192.0.2.2", "default via 10.89.0.129", &format!("steps get out over {driver}")]);
    }
    let why = "not over bridge: this process may not make interfaces (it lacks CAP_NET_ADMIN)";
    world(ASK, script).ok().says(&["steps get out over pasta", why]);
}

#[test]
fn the_doctor_tries_every_way_out_as_a_build_would_and_leaves_nothing() {
    let script = r#"
        mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200
        $RBUILD doctor
        chown -R 12345:12345 $HOME && chmod 711 $HOME/.. $TEMP
        setpriv --reuid 12345 --regid 12345 --clear-groups env RBUILD_ROOT=$HOME/store $RBUILD doctor
        kept >$TEMP/after; diff $TEMP/before $TEMP/after"#;
    let check = |config: &str, expected: [&str; 2]| {
        let outcome = world("FROM scratch\n", &(config.to_owned() + script)).ok();
        let said: Vec<_> = outcome.stdout.lines().filter(|line| line.contains("network of steps")).collect();
        assert_eq!(said.len(), 2, "{outcome}");
        assert!(said.iter().zip(expected).all(|(line, words)| line.ends_with(words)), "{outcome}");
    };
    let (over_bridge, over_pasta) = (
        "steps get out over `bridge`; `pasta` and `slirp4netns` would do too",
        "steps get out over `pasta`; `slirp4netns` would do too",
    );
    check("", [over_bridge, over_pasta]);
    let slirp = "steps get out over `slirp4netns`";
    check(&config("[network]\ndriver = 'slirp4netns'"), [slirp, slirp]);
    let refused = "bridge: this process may not make interfaces (it lacks CAP_NET_ADMIN)";
    check(&config("[network]\ndriver = 'bridge'"), ["steps get out over `bridge`", refused]);
}

#[test]
fn nothing_of_the_host_is_reached_but_what_it_offers_to_others() {
    // A server on the host's loopback, by TCP and as an abstract socket.
    let script = r#"
        serve /usr/bin/python3 $TEMP/server.py 127.0.0.1
        cat >$TEMP/abstract.py <<'END'
import socket
server = socket.socket(socket.AF_UNIX)
server.bind("\0canary")
server.listen()
print("ready", flush=True)
server.accept()
END
        serve /usr/bin/python3 $TEMP/abstract.py
        grep -q @canary /proc/net/unix
        $RBUILD build --progress=plain $CONTEXT"#;
    let dockerfile = "FROM busybox\n\
        RUN ! grep canary /proc/net/unix && ! nc -w 2 127.0.0.1 8080 && ! nc -w 2 10.0.2.2 8080 && \
            ! nc -w 2 $(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p') 8080\n\
        RUN --network=none ! grep canary /proc/net/unix && ! nc -w 2 203.0.113.9 8080 && \
            test ! -s /etc/resolv.conf && test $(ls /sys/class/net) = lo\n";
    for driver in ["bridge", "pasta", "slirp4netns"] {
        let driver = config(&format!("[network]\ndriver = '{driver}'"));
        world(dockerfile, &format!("{driver}{script}")).ok();
    }
}

#[test]
fn builds_at_once_have_addresses_of_their_own_and_the_last_one_puts_forwarding_back() {
    // Each waits until the other one's step runs too: over the context's directory, which is read in place.
    let dockerfile = "FROM busybox\nARG N M\n\
        RUN --mount=type=cache,target=/m,id=meet \
            touch /m/$N; until test -e /m/$M; do sleep 0.05; done; wget -qO- 203.0.113.9:8080; ip route\n";
    let script = r#"
        $RBUILD build --progress=plain --build-arg N=1 --build-arg M=2 $CONTEXT >$TEMP/1 2>&1 & one=$!
        $RBUILD build --progress=plain --build-arg N=2 --build-arg M=1 $CONTEXT >$TEMP/2 2>&1
        wait $one
        cat $TEMP/1 $TEMP/2 | grep -o 'you are 192.0.2.2' | grep -c . | grep 2
        cat $TEMP/1 $TEMP/2 | grep -o 'default via [0-9.]*' | sort >&2
        kept >$TEMP/after; diff $TEMP/before $TEMP/after"#;
    world(dockerfile, script).ok().says(&["default via 10.89.0.129\ndefault via 10.89.1.129"]);
}

#[test]
fn addresses_avoid_the_routes_of_the_host_and_come_from_the_pool_of_the_config() {
    let script = "ip route add 10.89.0.0/23 via 192.0.2.1; $RBUILD build --progress=plain $CONTEXT";
    world(ASK, script).ok().says(&["default via 10.89.2.129", "you are 192.0.2.2"]);
    let pool = config("[network]\npool = '172.20.8.0/27'");
    let build = "$RBUILD build --progress=plain $CONTEXT";
    world(ASK, &format!("{pool}{build}")).ok().says(&["default via 172.20.8.17", "you are 192.0.2.2"]);
    let taken = format!("{pool}ip route add 172.20.0.0/16 via 192.0.2.1; {build}");
    world(ASK, &taken).fails_saying(&["no addresses are free", "into all of `172.20.8.0/27`", "pool ="]);
}

#[test]
fn what_a_killed_builder_left_is_swept_by_the_next() {
    let dockerfile =
        "FROM busybox AS wait\nRUN echo at it && sleep 1000\nFROM busybox AS ask\nRUN wget -qO- 203.0.113.9:8080\n";
    let script = r#"
        mkfifo $TEMP/log
        $RBUILD build --progress=plain --target=wait $CONTEXT >$TEMP/log 2>&1 & builder=$!
        exec 7<$TEMP/log
        await ' at it'
        cat /proc/sys/net/ipv4/conf/wan/forwarding | grep 1
        ip -br link | grep '^rbuild'
        # The helper too: nobody is left to clean up.
        helpers=$(for exe in /proc/[0-9]*; do
            if tr '\0' ' ' <$exe/cmdline 2>/dev/null | grep -q '^rbuild-network '; then echo ${exe#/proc/}; fi
        done)
        kill -9 $helpers $builder
        wait $builder || true
        cat <&7 >/dev/null
        grep 1 /proc/sys/net/ipv4/conf/wan/forwarding
        ls /run/rbuild/network-*/forwarding
        $RBUILD build --progress=plain --target=ask $CONTEXT
        kept >$TEMP/after; diff $TEMP/before $TEMP/after"#;
    world(dockerfile, script).ok().says(&["you are 192.0.2.2"]);
}

#[test]
fn a_builder_that_is_killed_alone_leaves_nothing() {
    let dockerfile = "FROM busybox\nRUN echo at it && sleep 1000\n";
    let script = r#"
        mkfifo $TEMP/log
        $RBUILD build --progress=plain $CONTEXT >$TEMP/log 2>&1 & builder=$!
        exec 7<$TEMP/log
        await ' at it'
        kill -9 $builder
        wait $builder || true
        # The lock is the helper's until it has cleaned up; then its file is gone.
        until test -z "$(ls -A /run/rbuild/network-* 2>/dev/null)"; do sleep 0.05; done
        kept >$TEMP/after; diff $TEMP/before $TEMP/after"#;
    for driver in ["bridge", "pasta"] {
        world(dockerfile, &(config(&format!("[network]\ndriver = '{driver}'")) + script)).ok();
    }
}

#[test]
fn a_firewall_that_drops_forwarded_packets_is_named_or_gone_around() {
    let firewall = "
        nft add table ip filter
        nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'
        kept >$TEMP/before\n";
    let build = "$RBUILD build --progress=plain $CONTEXT";
    let bridge = config("[network]\ndriver = 'bridge'");
    world(
        ASK,
        &format!(
            "{firewall}{bridge}{build} || status=$?; kept >$TEMP/after; diff $TEMP/before $TEMP/after; exit $status"
        ),
    )
    .fails_saying(&[
        "steps cannot have a network of their own here",
        "firewall drops what steps send: `filter/FORWARD` lets through only what a rule allows",
        "iptables -I FORWARD -i rbuild+ -j ACCEPT",
        "`driver = \"auto\"`",
        "--network=host",
    ])
    .never_says(&["you are"]);
    // With what the advice says.
    let allowed = "nft add rule ip filter FORWARD iifname 'rbuild*' accept
        nft add rule ip filter FORWARD oifname 'rbuild*' ct state established,related accept\n";
    world(ASK, &format!("{firewall}{allowed}{bridge}{build}")).ok().says(&["you are 192.0.2.2"]);
    // A program needs nothing of the firewall.
    world(ASK, &format!("{firewall}{build} --debug")).ok().says(&["you are 192.0.2.2", "steps get out over pasta"]);
}

#[test]
fn without_any_way_out_no_step_runs_and_every_way_on_is_said() {
    // Nothing but loopback: no bridge can lead anywhere, and programs have nothing to speak in the name of.
    let dockerfile = "FROM busybox\nRUN --network=none echo first\nRUN echo second\n";
    let script = "ip link del wan; PATH=/nowhere; $RBUILD build --progress=plain $CONTEXT";
    world(dockerfile, script)
        .fails_saying(&[
            "steps cannot have a network of their own here",
            "bridge: this machine has no IPv4 address beside loopback's",
            "pasta: the program `pasta` is not installed",
            "slirp4netns: the program `slirp4netns` is not installed",
            "install the package `passt`",
            "--network=none",
        ])
        .never_prints(&["first", "second"]);
    // None of it matters to what needs no network, or takes the host's.
    let script =
        "ip link del wan; PATH=/nowhere; $RBUILD build --network=none $CONTEXT; $RBUILD build --network=host $CONTEXT";
    world(dockerfile, script).ok();
}

#[test]
fn names_are_resolved_by_whom_the_host_asks_even_on_its_loopback() {
    // A name server that answers everything with the outside's address, over UDP.
    let server = r#"
        cat >$TEMP/dns.py <<'END'
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    question, address = server.recvfrom(4096)
    end = question.index(0, 12) + 5
    is_a = question[end - 4:end - 2] == b"\0\1"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes([203, 0, 113, 9]) if is_a else b""
    head = question[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0"
    server.sendto(head + question[12:end] + answer, address)
END
        echo "nameserver $NAMESERVER" >$TEMP/resolv.conf
        mount --bind $TEMP/resolv.conf $(readlink -f /etc/resolv.conf)
        $SERVE /usr/bin/python3 $TEMP/dns.py $NAMESERVER
        $RBUILD build --progress=plain $CONTEXT"#;
    let dockerfile = "FROM busybox\nRUN cat /etc/resolv.conf && wget -qO- any.example:8080\n";
    let check = |driver: &str, nameserver: &str, serve: &str, told: &str| {
        let driver = config(&format!("[network]\ndriver = '{driver}'"));
        let script = server.replace("$SERVE", serve).replace("$NAMESERVER", nameserver);
        world(dockerfile, &format!("{driver}{script}")).ok().says(&["you are 192.0.2.2", told]);
    };
    check("bridge", "127.0.0.1", "serve", "nameserver 10.89.0.129");
    check("bridge", "192.0.2.2", "serve", "nameserver 10.89.0.129");
    check("bridge", "192.0.2.1", "serve ip netns exec outside", "nameserver 192.0.2.1");
    check("pasta", "127.0.0.1", "serve", "nameserver 10.89.0.129");
    check("pasta", "192.0.2.1", "serve ip netns exec outside", "nameserver 192.0.2.1");
}

#[test]
fn steps_do_not_reach_each_other_and_nobody_outside_reaches_them() {
    let dockerfile = "FROM busybox AS one\n\
        RUN --mount=type=cache,target=/m ip -4 addr show dev eth0 | sed -n 's/.*inet \\([0-9.]*\\).*/\\1/p' >/m/a && mv /m/a /m/address; \
            (echo secret | nc -l -p 9000) & until test -e /m/done; do sleep 0.05; done; touch /r1\n\
        FROM busybox AS two\n\
        RUN --mount=type=cache,target=/m until test -e /m/address; do sleep 0.05; done; \
            if nc -w 2 $(cat /m/address) 9000 >/r2; then echo reached; fi; touch /m/done; test ! -s /r2\n\
        FROM scratch\nCOPY --from=one /r1 /\nCOPY --from=two /r2 /\n";
    let script = "$RBUILD build --progress=plain $CONTEXT";
    world(dockerfile, script).ok().never_prints(&["reached"]);
}
