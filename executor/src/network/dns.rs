//! Whom steps ask for names: from the host's resolver configuration to theirs.
//!
//! A name server on the host's loopback means nothing to a step, nor one that is only there over IPv6. systemd's stub
//! has a file with those that it asks itself; for all others the builder forwards ([`super::forward`]) from the steps'
//! gateway. Everything here is text.

use std::net::{IpAddr, Ipv4Addr};

use crate::steps::Dns;

/// systemd-resolved's stub.
const STUB: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
/// The C library's resolver asks no more.
const SERVERS_MAX: usize = 3;

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// Text of a step's `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Whom the builder has to ask for the steps; they ask their gateway. Empty when they ask for themselves.
    pub forward_to: Vec<IpAddr>,
}

/// What the host and its user say of names.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// Text of the host's `/etc/resolv.conf`.
    pub host: &'a str,
    /// Text of systemd's file of the servers behind its stub; empty where there is none.
    pub behind_stub: &'a str,
    /// What the user wants instead.
    pub user: &'a Dns,
}

impl Said<'_> {
    /// What steps with a network of their own ask; `own` are addresses that mean something else to them.
    pub fn for_own_network(&self, own: &[Ipv4Addr], gateway: Ipv4Addr) -> Resolver {
        let is_usable = |server: &IpAddr| match server {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_unspecified() && !own.contains(v4),
            IpAddr::V6(_) => false,
        };
        let mut servers = self.servers();
        if servers == [IpAddr::V4(STUB)] {
            let real = listed(self.behind_stub);
            if !real.is_empty() && real.iter().all(is_usable) {
                servers = real;
            }
        }
        if servers.iter().all(is_usable) {
            return Resolver { resolv_conf: self.text(&servers), forward_to: Vec::new() };
        }
        Resolver { resolv_conf: self.text(&[gateway.into()]), forward_to: servers }
    }

    /// Text of `/etc/resolv.conf` for steps in the host's network.
    pub fn for_host_network(&self) -> String {
        if *self.user == Dns::default() { self.host.to_owned() } else { self.text(&self.servers()) }
    }

    fn servers(&self) -> Vec<IpAddr> {
        if self.user.servers.is_empty() { listed(self.host) } else { self.user.servers.clone() }
    }

    fn text(&self, servers: &[IpAddr]) -> String {
        let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        for (word, instead) in [("search", &self.user.search), ("options", &self.user.options)] {
            if !instead.is_empty() {
                text.push_str(&format!("{word} {}\n", instead.join(" ")));
                continue;
            }
            let is_meant = |found: &str| found == word || (found == "domain" && word == "search");
            for line in self.host.lines().filter(|line| keyword(line).is_some_and(|(found, _)| is_meant(found))) {
                text.push_str(line.trim());
                text.push('\n');
            }
        }
        text
    }
}

/// The name servers in a text.
fn listed(text: &str) -> Vec<IpAddr> {
    let server = |line| match keyword(line)? {
        // An interface may follow, behind a percent sign.
        ("nameserver", rest) => rest.split(['%', ' ', '\t', '#', ';']).next()?.parse().ok(),
        _ => None,
    };
    text.lines().filter_map(server).take(SERVERS_MAX).collect()
}

/// The first word of a line and the rest.
fn keyword(line: &str) -> Option<(&str, &str)> {
    line.trim().split_once([' ', '\t']).map(|(word, rest)| (word, rest.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_ask_whom_the_host_asks_or_their_gateway() {
        let check = |host: &str, upstream: Option<&str>, expected: &str, forwarded: &[&str]| {
            let own = [Ipv4Addr::new(192, 168, 1, 5)];
            let said = Said { host, behind_stub: upstream.unwrap_or_default(), user: &Dns::default() };
            let found = said.for_own_network(&own, Ipv4Addr::new(10, 89, 0, 129));
            assert_eq!(said.for_host_network(), host);
            assert_eq!(found.resolv_conf, expected, "{host:?} {upstream:?}");
            let forward_to: Vec<_> = found.forward_to.iter().map(IpAddr::to_string).collect();
            assert_eq!(forward_to, forwarded, "{host:?} {upstream:?}");
        };
        let forwarded = "nameserver 10.89.0.129\n";
        check("nameserver 192.0.2.53\n", None, "nameserver 192.0.2.53\n", &[]);
        let full =
            "# words\n nameserver\t192.0.2.53 # first\nsearch a.example b.example\noptions ndots:2\nsortlist x\n";
        check(full, None, "nameserver 192.0.2.53\nsearch a.example b.example\noptions ndots:2\n", &[]);
        // On loopback: a local cache, systemd's stub with and without its own file.
        check("nameserver 127.0.0.1\n", None, forwarded, &["127.0.0.1"]);
        check("nameserver 127.0.0.53\n", Some("nameserver 192.0.2.1\n"), "nameserver 192.0.2.1\n", &[]);
        check("nameserver 127.0.0.53\n", Some("nameserver ::1\n"), forwarded, &["127.0.0.53"]);
        check("nameserver 127.0.0.53\n", None, forwarded, &["127.0.0.53"]);
        check("nameserver 127.0.0.1\n", Some("nameserver 192.0.2.1\n"), forwarded, &["127.0.0.1"]);
        // The order is the user's: what comes first must not be left out.
        check("nameserver 127.0.0.1\nnameserver 192.0.2.1\n", None, forwarded, &["127.0.0.1", "192.0.2.1"]);
        // The host's own address, IPv6.
        check("nameserver 192.168.1.5\n", None, forwarded, &["192.168.1.5"]);
        check("nameserver fe80::1%eth0\n", None, forwarded, &["fe80::1"]);
        // None, and nonsense.
        check("", None, "", &[]);
        check("nameserver\nnameserver example\nnameserver 192.0.2.9\n", None, "nameserver 192.0.2.9\n", &[]);
    }

    #[test]
    fn what_the_user_says_stands_instead_of_what_the_host_says() {
        let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        let check = |servers: &str, search: &str, options: &str, own: &str, host: &str| {
            let servers = words(servers).iter().map(|server| server.parse().expect("an address")).collect();
            let user = Dns { servers, search: words(search), options: words(options) };
            let text = "nameserver 127.0.0.1\nsearch host.example\noptions edns0\n";
            let said = Said { host: text, behind_stub: "", user: &user };
            assert_eq!(said.for_own_network(&[], Ipv4Addr::new(10, 89, 0, 129)).resolv_conf, own);
            assert_eq!(said.for_host_network(), host);
        };
        let both = "nameserver 192.0.2.1\nsearch host.example\noptions edns0\n";
        check("192.0.2.1", "", "", both, both);
        let rest = "search a b\noptions edns0\n";
        check("", "a b", "", &format!("nameserver 10.89.0.129\n{rest}"), &format!("nameserver 127.0.0.1\n{rest}"));
        let all = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch .\noptions ndots:2 rotate\n";
        check("192.0.2.1 192.0.2.2", ".", "ndots:2 rotate", all, all);
        let forwarded = "nameserver 10.89.0.129\nsearch host.example\noptions edns0\n";
        check("::1", "", "", forwarded, "nameserver ::1\nsearch host.example\noptions edns0\n");
    }
}
