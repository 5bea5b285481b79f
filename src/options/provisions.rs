//! From flags to what the processes of steps find around them: their limits, `/dev/shm`, `/etc/hosts`, their host name.
//!
//! In come the words of the flags, out go checked values. The same for the RUN steps of a build and for `rbuild run`.
//! Deliberately absent: what is outside of the process, like memory and networks ([`super::steps`]).

use std::net::IpAddr;

use crate::cli::StepArgs;
use crate::engine::Failure;

/// What stands for the address of this machine, as a step reaches it.
const HOST_GATEWAY: &str = "host-gateway";
/// sethostname(2) takes no more.
const HOSTNAME_MAX_BYTES: usize = 64;
/// The limits of setrlimit(2) that container users may set.
const LIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// What processes find around them. What is empty or 0 is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provisions {
    /// `--ulimit`: (name, soft, hard), each name once; -1 is unlimited.
    pub ulimits: Vec<(String, i64, i64)>,
    /// `--shm-size`.
    pub shm_size_bytes: u64,
    /// `--add-host`: (name, address), in order. The address may be `host-gateway`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--hostname`.
    pub hostname: String,
}

/// What the flags say.
///
/// # Errors
/// With advice, for what has no meaning.
pub fn provisions(args: &StepArgs) -> Result<Provisions, Failure> {
    let mut ulimits: Vec<(String, i64, i64)> = Vec::new();
    for text in &args.ulimits {
        let limit = ulimit(text)?;
        ulimits.retain(|(name, ..)| *name != limit.0);
        ulimits.push(limit);
    }
    Ok(Provisions {
        ulimits,
        shm_size_bytes: args.shm_size.as_deref().map_or(Ok(0), |text| binary_bytes("--shm-size", text))?,
        extra_hosts: args.add_hosts.iter().map(|text| extra_host(text)).collect::<Result<_, _>>()?,
        hostname: args.hostname.as_deref().map_or(Ok(String::new()), hostname)?,
    })
}

fn ulimit(text: &str) -> Result<(String, i64, i64), Failure> {
    let wrong = |reason: String| {
        Failure::new(format!("`--ulimit {text}`: {reason}"))
            .help("write `--ulimit NAME=SOFT[:HARD]`, like nofile=1024:4096")
    };
    let (name, values) = text.split_once('=').ok_or_else(|| wrong("there is no `=`".into()))?;
    if !LIMITS.contains(&name) {
        return Err(wrong(format!("`{name}` is no limit; there are {}", LIMITS.join(", "))));
    }
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(-1),
        text => match text.parse::<i64>() {
            Ok(number) if number >= 0 && !text.starts_with('+') => Ok(number),
            _ => Err(wrong(format!("`{text}` is neither a number nor -1 for unlimited"))),
        },
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard >= 0 && (soft > hard || soft < 0) {
        return Err(wrong(format!("the soft limit {soft} is above the hard limit {hard}")));
    }
    Ok((name.to_owned(), soft, hard))
}

/// A size as users of containers write it: `64m` and `64MB` are 64 MiB.
fn binary_bytes(flag: &str, text: &str) -> Result<u64, Failure> {
    let wrong = || {
        Failure::new(format!("`{flag} {text}` is not a size"))
            .help("write a number of bytes, or one with k, m or g: `64m`")
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = text[digits..].trim().to_ascii_lowercase();
    let shift = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|bytes| (1..=i64::MAX as u64).contains(bytes)).ok_or_else(wrong)
}

fn extra_host(text: &str) -> Result<(String, String), Failure> {
    let wrong = |reason: &str| {
        Failure::new(format!("`--add-host {text}`: {reason}")).help(
            "write `--add-host NAME=ADDRESS` or `NAME:ADDRESS`; with `--network=host`, `host-gateway` is this machine",
        )
    };
    let equals = text.split_once('=');
    let (name, address) = equals.or_else(|| text.split_once(':')).ok_or_else(|| wrong("there is no address"))?;
    if !is_name(name) {
        return Err(wrong("the name is no host name"));
    }
    if address == HOST_GATEWAY {
        return Ok((name.to_owned(), address.to_owned()));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address = bare.parse::<IpAddr>().map_err(|_| wrong(&format!("`{address}` is no IP address")))?;
    Ok((name.to_owned(), address.to_string()))
}

fn hostname(text: &str) -> Result<String, Failure> {
    if is_name(text) && text.len() <= HOSTNAME_MAX_BYTES {
        return Ok(text.to_owned());
    }
    Err(Failure::new(format!("`--hostname {}` is no host name", text.escape_debug()))
        .help(format!("letters, digits, `-`, `_` and `.`; at most {HOSTNAME_MAX_BYTES}")))
}

/// One word of `/etc/hosts`.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && !text.starts_with(['-', '.'])
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: std::fmt::Debug + PartialEq>(found: Result<T, Failure>, expected: Result<T, &str>, text: &str) {
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
            (Err(failure), Err(words)) => assert!(failure.problems[0].message.contains(words), "{text}: {failure:?}"),
            (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn limits_have_a_known_name_and_a_soft_value_that_is_not_above_the_hard_one() {
        let check = |text: &str, expected: Result<(&str, i64, i64), &str>| {
            check(ulimit(text), expected.map(|(name, soft, hard)| (name.to_owned(), soft, hard)), text);
        };
        check("nofile=1024:4096", Ok(("nofile", 1024, 4096)));
        check("nofile=5", Ok(("nofile", 5, 5)));
        check("core=-1", Ok(("core", -1, -1)));
        check("core=0:unlimited", Ok(("core", 0, -1)));
        check("core=-1:5", Err("the soft limit -1 is above the hard limit 5"));
        check("nofile=5:4", Err("the soft limit 5 is above the hard limit 4"));
        check("nofile=-2", Err("`-2` is neither a number"));
        check("nofile=", Err("`` is neither a number"));
        check("nofile=+1", Err("`+1` is neither a number"));
        check("nofile=1:2:3", Err("`2:3` is neither a number"));
        check("nofile=9223372036854775808", Err("is neither a number"));
        check("nofile", Err("there is no `=`"));
        check("files=1", Err("`files` is no limit"));
        check("NOFILE=1", Err("`NOFILE` is no limit"));
    }

    #[test]
    fn the_later_of_two_limits_of_one_name_counts() {
        let args =
            StepArgs { ulimits: ["nofile=1", "core=0", "nofile=2"].map(String::from).to_vec(), ..StepArgs::default() };
        let found = provisions(&args).expect("both are valid").ulimits;
        assert_eq!(found, [("core".into(), 0, 0), ("nofile".into(), 2, 2)]);
    }

    #[test]
    fn sizes_are_binary_as_container_users_have_it() {
        let check = |text: &str, expected| check(binary_bytes("--shm-size", text), expected, text);
        check("1", Ok(1));
        check("64m", Ok(64 << 20));
        check("64MB", Ok(64 << 20));
        check("64MiB", Ok(64 << 20));
        check("2g", Ok(2 << 30));
        check("1 k", Ok(1 << 10));
        for text in ["", "0", "m", "-1", "1.5g", "1x", "1e3", "99999999999999999999", "9999999999g"] {
            check(text, Err("is not a size"));
        }
    }

    #[test]
    fn hosts_are_names_and_addresses_in_all_their_spellings() {
        let check = |text: &str, expected: Result<(&str, &str), &str>| {
            check(extra_host(text), expected.map(|(name, address)| (name.to_owned(), address.to_owned())), text);
        };
        check("db:10.0.0.7", Ok(("db", "10.0.0.7")));
        check("db=10.0.0.7", Ok(("db", "10.0.0.7")));
        check("db:::1", Ok(("db", "::1")));
        check("db=[::1]", Ok(("db", "::1")));
        check("db:[2001:db8::1]", Ok(("db", "2001:db8::1")));
        check("up=host-gateway", Ok(("up", "host-gateway")));
        check("db", Err("there is no address"));
        check("=10.0.0.7", Err("the name is no host name"));
        check("a b=10.0.0.7", Err("the name is no host name"));
        check("db=10.0.0.256", Err("`10.0.0.256` is no IP address"));
        check("db=1\n2", Err("is no IP address"));
    }

    #[test]
    fn host_names_are_checked_before_the_kernel_sees_them() {
        check(hostname("builder-7.example"), Ok("builder-7.example".into()), "");
        for text in ["", "a b", "a\n127.0.0.1 b", "-a", "é", &"a".repeat(65)] {
            check(hostname(text), Err("is no host name"), text);
        }
    }
}
