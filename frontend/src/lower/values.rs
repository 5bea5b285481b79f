//! Values once variables are in: owners, modes, ports, signals, sizes. Text in, value or refusal out.

use solver::op::{CopyMode, Owner, UserRef};

use crate::error::Refusal;

/// `user[:group]`, names or numbers. `root` is 0 even where no file says so.
pub fn owner(text: &str) -> Result<Owner, Refusal> {
    let help = "write `user`, `user:group`, or numbers like `1000:1000`";
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let reference = |part: &str| match part.bytes().all(|b| b.is_ascii_digit()) {
        _ if part.is_empty() => Err(Refusal::new(format!("`{text}` is no owner")).help(help)),
        _ if part == "root" => Ok(UserRef::Id(0)),
        _ if part.contains(':') => Err(Refusal::new(format!("`{text}` is no owner")).help(help)),
        true => match part.parse::<u32>() {
            Ok(id) => Ok(UserRef::Id(id)),
            Err(_) => Err(Refusal::new(format!("the number `{part}` is too large for an owner"))),
        },
        false => Ok(UserRef::Name(part.to_owned())),
    };
    // `:group` leaves the user to root, `user:` the group to the user.
    let (user, group) = match (user, group) {
        ("", Some(group)) => (UserRef::Id(0), Some(reference(group)?)),
        (user, Some("") | None) => (reference(user)?, None),
        (user, Some(group)) => (reference(user)?, Some(reference(group)?)),
    };
    Ok(Owner { user, group, names_from: None })
}

/// `--chmod`: octal, or chmod(1)'s language.
pub fn mode(text: &str) -> Result<CopyMode, Refusal> {
    if let Ok(bits) = u32::from_str_radix(text, 8) {
        if bits <= 0o7777 && !text.starts_with('+') {
            return Ok(CopyMode::Bits(bits));
        }
    } else if symbolic(text) {
        return Ok(CopyMode::Symbolic(text.to_owned()));
    }
    Err(Refusal::new(format!("`{text}` is no mode")).help("write an octal number up to 7777, or `u=rwX,go=rX`"))
}

/// `[ugoa]*([-+=](perms|[ugo]))+`, separated by commas.
fn symbolic(text: &str) -> bool {
    text.split(',').all(|clause| {
        let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        if !actions.starts_with(['+', '-', '=']) {
            return false;
        }
        actions.split(['+', '-', '=']).skip(1).all(|perms| {
            matches!(perms, "u" | "g" | "o") || perms.chars().all(|c| matches!(c, 'r' | 'w' | 'x' | 'X' | 's' | 't'))
        })
    })
}

/// One EXPOSE word: `port[-port][/protocol]`, tolerated with addresses in front; as `port/protocol` each.
pub fn ports(text: &str) -> Result<Vec<String>, Refusal> {
    let bad = |reason: &str| {
        let help = match text.starts_with('#') {
            true => crate::instr::COMMENT_HELP,
            false => "write a port like `8080`, `53/udp` or `7000-7010/tcp`",
        };
        Refusal::new(format!("`{text}` is no port: {reason}")).help(help)
    };
    let (host, container) = match text.rsplit_once(':') {
        Some((host, container)) => (Some(host), container),
        None => (None, text),
    };
    let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" => "tcp",
        "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        _ => return Err(bad("the protocol is one of `tcp`, `udp`, `sctp`")),
    };
    let (first, last) = port_range(range).ok_or_else(|| bad("a number from 0 to 65535 or a range is expected"))?;
    if let Some(host) = host {
        // An address and host port mean nothing here; only their form is held.
        let (address, port) = host.rsplit_once(':').unwrap_or(("", host));
        let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
            return Err(bad("what stands in front is no address"));
        }
        if !port.is_empty() {
            let (host_first, host_last) = port_range(port).ok_or_else(|| bad("the host port is no number"))?;
            if last - first != host_last - host_first && last != first {
                return Err(bad("the two ranges differ in length"));
            }
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    match text.split_once('-') {
        None => number(text).map(|port| (port, port)),
        Some((first, last)) => Some((number(first)?, number(last)?)).filter(|(first, last)| first <= last),
    }
}

const SIGNALS: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// STOPSIGNAL: a signal's name, with or without `SIG`, or a number.
pub fn signal(text: &str) -> Result<(), Refusal> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |prefix: &str, sign: char, most: u32| {
        name.strip_prefix(prefix).is_some_and(|rest| {
            rest.is_empty()
                || rest.strip_prefix(sign).and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| (1..=most).contains(&n))
        })
    };
    let number = text.parse::<i32>().is_ok_and(|number| number > 0);
    if number || SIGNALS.contains(&name) || realtime("RTMIN", '+', 15) || realtime("RTMAX", '-', 14) {
        return Ok(());
    }
    let help =
        crate::suggest::nearest(name, SIGNALS.iter().copied()).map(|found| format!("did you mean `SIG{found}`?"));
    Err(Refusal { message: format!("`{text}` is no signal"), help }
        .or_help("write a name like `SIGTERM` or a number like `15`"))
}

impl Refusal {
    fn or_help(self, help: &str) -> Self {
        Self { help: self.help.or_else(|| Some(help.to_owned())), ..self }
    }
}

/// A size in bytes: `65536`, `100m`, `1.5g`, `64MiB`; units are powers of 1024.
pub fn size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim_start().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let number: f64 = number.parse().ok()?;
    let bytes = number * (1u64 << shift) as f64;
    (bytes.is_finite() && bytes < u64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        let check = |text: &str, expected: Option<(&str, Option<&str>)>| {
            let show = |reference: &UserRef| match reference {
                UserRef::Name(name) => name.clone(),
                UserRef::Id(id) => format!("#{id}"),
            };
            let found = owner(text).ok().map(|o| (show(&o.user), o.group.as_ref().map(show)));
            let expected = expected.map(|(user, group)| (user.to_owned(), group.map(str::to_owned)));
            assert_eq!(found, expected, "{text}");
        };
        check("root", Some(("#0", None)));
        check("root:root", Some(("#0", Some("#0"))));
        check("0", Some(("#0", None)));
        check("1000:1001", Some(("#1000", Some("#1001"))));
        check("app:staff", Some(("app", Some("staff"))));
        check("app:0", Some(("app", Some("#0"))));
        check("4294967295", Some(("#4294967295", None)));
        check("4294967296", None);
        check("", None);
        check(":", None);
        check(":staff", Some(("#0", Some("staff"))));
        check("app:", Some(("app", None)));
        check("a:b:c", None);
    }

    #[test]
    fn modes() {
        let check = |text: &str, expected: Option<&str>| {
            let found = mode(text).ok().map(|mode| match mode {
                CopyMode::Bits(bits) => format!("{bits:o}"),
                CopyMode::Symbolic(text) => format!("'{text}"),
            });
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        check("755", Some("755"));
        check("0644", Some("644"));
        check("7777", Some("7777"));
        check("0", Some("0"));
        check("u=rwX,go=rX", Some("'u=rwX,go=rX"));
        check("+x", Some("'+x"));
        check("a+x", Some("'a+x"));
        check("go-w", Some("'go-w"));
        check("u+rw-x", Some("'u+rw-x"));
        check("g=u", Some("'g=u"));
        check("=", Some("'="));
        check("10000", None);
        check("888", None);
        check("rwx", None);
        check("u", None);
        check("u+q", None);
        check("", None);
        check("u=rw,", None);
        check("+7", None);
    }

    #[test]
    fn exposed_ports() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let found = ports(text).ok();
            let expected = expected.map(|list| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
            assert_eq!(found, expected, "{text}");
        };
        check("80", Some(&["80/tcp"]));
        check("80/tcp", Some(&["80/tcp"]));
        check("53/UDP", Some(&["53/udp"]));
        check("132/sctp", Some(&["132/sctp"]));
        check("80/", Some(&["80/tcp"]));
        check("7000-7002", Some(&["7000/tcp", "7001/tcp", "7002/tcp"]));
        check("7-7/udp", Some(&["7/udp"]));
        check("8080:80", Some(&["80/tcp"]));
        check("127.0.0.1:8080:80/udp", Some(&["80/udp"]));
        check("127.0.0.1::80", Some(&["80/tcp"]));
        check("[::1]:8080:80", Some(&["80/tcp"]));
        check("9000-9001:80-81", Some(&["80/tcp", "81/tcp"]));
        check("65535", Some(&["65535/tcp"]));
        check("65536", None);
        check("", None);
        check("/tcp", None);
        check("80/foo", None);
        check("81-80", None);
        check("a", None);
        check("+80", None);
        check("-80", None);
        check("1-2-3", None);
        check("x:80:80", None);
        check("9000-9005:80-81", None);
    }

    #[test]
    fn signals() {
        for good in ["SIGTERM", "term", "SIGkill", "9", "15", "64", "SIGRTMIN", "RTMIN+3", "SIGRTMAX-14", "SIGUSR1"] {
            assert_eq!(signal(good), Ok(()), "{good}");
        }
        for bad in ["", "0", "-1", "SIG", "SIGFOO", "RTMIN+16", "RTMIN-1", "RTMAX-15", "RTMIN+"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
        assert_eq!(signal("SIGTREM").unwrap_err().help.as_deref(), Some("did you mean `SIGTERM`?"));
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(size(text), expected, "{text}");
        check("0", Some(0));
        check("100", Some(100));
        check("1k", Some(1024));
        check("1kb", Some(1024));
        check("1KiB", Some(1024));
        check("100m", Some(100 << 20));
        check("1.5g", Some(3 << 29));
        check("2 G", Some(2 << 30));
        check("10b", Some(10));
        check("", None);
        check("x", None);
        check("1x", None);
        check("-1", None);
        check("99999999999999999999p", None);
    }
}
