//! From flags and settings to [`StepLimits`]: what each step may use of the machine.
//!
//! Sizes of memory are docker's: `512m` is 512 MiB. Deliberately absent: whether this machine can give them, which the
//! executor finds out before anything runs.

use executor::StepLimits;
use executor::limits::{CpuQuota, Pids, Room, Swap};

use super::size::Size;
use crate::cli::LimitArgs;
use crate::config::{LimitConfig, Setting, Written};
use crate::engine::Failure;

/// The kernel's own, and docker's.
const PERIOD_US: u64 = 100_000;
/// Docker's: with less a shell does not start.
const MEMORY_MIN_BYTES: u64 = 6 << 20;

/// What each step may use.
///
/// # Errors
/// With advice, for what contradicts itself.
pub fn limits(args: &LimitArgs, config: &LimitConfig) -> Result<StepLimits, Failure> {
    let mut given = Resource::default();
    for text in &args.resource {
        given.read(text).map_err(|reason| Failure::new(format!("`--resource {text}`: {reason}")))?;
    }
    let memory_bytes = args.memory.or(given.memory).or(value(&config.memory)).filter(|bytes| *bytes > 0);
    let memory_swap = args.memory_swap.or(given.memory_swap);
    let swap = match (memory_swap, memory_bytes) {
        (Some(Swap::Total(total)), Some(memory)) if total < memory => {
            return Err(Failure::new("`--memory-swap` is less than the memory")
                .help("it is memory and swap together; `-1` is as much swap as there is"));
        }
        (Some(Swap::Total(_) | Swap::Unlimited), None) => {
            return Err(Failure::new("`--memory-swap` needs `--memory`").help("give both, or neither"));
        }
        (swap, memory) => swap.or(value(&config.memory_swap).filter(|_| memory.is_some())).unwrap_or_default(),
    };
    let cpus = args.cpus.or(given.cpus);
    let quota = args.cpu_quota.or(given.cpu_quota);
    let period = args.cpu_period.or(given.cpu_period);
    let cpu = match (cpus, quota, period) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            return Err(Failure::new("`--cpus` and `--cpu-quota` or `--cpu-period` contradict each other")
                .help("`--cpus 1.5` is `--cpu-period 100000 --cpu-quota 150000`"));
        }
        (None, None, None) => value(&config.cpus).map(|quota| CpuQuota { quota_us: Some(quota), period_us: PERIOD_US }),
        (Some(quota), None, None) => Some(CpuQuota { quota_us: Some(quota), period_us: PERIOD_US }),
        (None, quota, period) => Some(CpuQuota {
            quota_us: quota.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0),
            period_us: period.unwrap_or(PERIOD_US),
        }),
    };
    Ok(StepLimits {
        memory_bytes,
        swap,
        cpu: cpu.filter(|cpu| cpu.quota_us != Some(0)),
        cpu_shares: args.cpu_shares.or(given.cpu_shares).or(value(&config.cpu_shares)).filter(|shares| *shares > 0),
        cpuset_cpus: args.cpuset_cpus.clone().or(given.cpuset_cpus),
        cpuset_mems: args.cpuset_mems.clone().or(given.cpuset_mems),
        pids: args.pids_limit.or(given.pids).or(value(&config.pids)).unwrap_or_default(),
        timeout: args.timeout.or(value(&config.timeout)).filter(|timeout| !timeout.is_zero()),
        disk_bytes: args.disk_limit.or(value(&config.disk)).filter(|bytes| *bytes > 0),
        min_free: value(&config.min_free).unwrap_or_default(),
        cgroup_parent: args.cgroup_parent.clone().filter(|parent| !parent.is_empty()),
    })
}

fn value<T: Copy>(setting: &Option<Setting<Written<T>>>) -> Option<T> {
    setting.as_ref().map(|setting| setting.value.value)
}

/// `--resource`, as buildx has it: `memory=512m,cpu-quota=50000`.
#[derive(Default)]
struct Resource {
    memory: Option<u64>,
    memory_swap: Option<Swap>,
    cpus: Option<u64>,
    cpu_quota: Option<i64>,
    cpu_period: Option<u64>,
    cpu_shares: Option<u64>,
    cpuset_cpus: Option<String>,
    cpuset_mems: Option<String>,
    pids: Option<Pids>,
}

impl Resource {
    /// A value may hold commas, as sets of processors do: what has no `=` belongs to what stands before.
    fn read(&mut self, text: &str) -> Result<(), String> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in text.split(',') {
            match (part.split_once('='), pairs.last_mut()) {
                (Some((name, value)), _) => pairs.push((name.trim().to_ascii_lowercase(), value.to_owned())),
                (None, Some((_, value))) => *value += &format!(",{part}"),
                (None, None) => return Err(format!("`{part}` is not `NAME=VALUE`")),
            }
        }
        for (name, value) in pairs {
            match name.as_str() {
                "memory" => self.memory = Some(memory(&value)?),
                "memory-swap" => self.memory_swap = Some(swap(&value)?),
                "cpus" => self.cpus = Some(cpus(&value)?),
                "cpu-quota" => self.cpu_quota = Some(value.parse().map_err(|_| format!("`{value}` is not a number"))?),
                "cpu-period" => self.cpu_period = Some(period(&value)?),
                "cpu-shares" => self.cpu_shares = Some(shares(&value)?),
                "cpuset-cpus" => self.cpuset_cpus = Some(set(&value)?),
                "cpuset-mems" => self.cpuset_mems = Some(set(&value)?),
                "pids-limit" => self.pids = Some(pids(&value)?),
                _ => {
                    let known =
                        "memory, memory-swap, cpus, cpu-quota, cpu-period, cpu-shares, cpuset-cpus, cpuset-mems";
                    return Err(format!("`{name}` is none of {known}, pids-limit"));
                }
            }
        }
        Ok(())
    }
}

/// A size of memory as docker has it: `6291456`, `512m`, `1.5g`, `512MiB`; always binary.
///
/// # Errors
/// For what is none, and for less than a shell needs. 0 is no limit.
pub fn memory(text: &str) -> Result<u64, String> {
    match binary(text)? {
        bytes @ 1..MEMORY_MIN_BYTES => Err(format!("`{text}` is {bytes} bytes; the least is 6m")),
        bytes => Ok(bytes),
    }
}

fn binary(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size of memory: `512m`, `1.5g`, `536870912`");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = text[end..].trim().to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if !unit.starts_with('i') => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(wrong()),
    };
    // The digits are those of decimal sizes; only the unit differs.
    let Ok(Size::Bytes(billions)) = format!("{}gb", &text[..end]).parse() else { return Err(wrong()) };
    let bytes = u128::from(billions) * (1u128 << (10 * power)) / 1_000_000_000;
    u64::try_from(bytes).map_err(|_| wrong())
}

/// Memory and swap together; `-1` is as much as there is, 0 what is usual.
///
/// # Errors
/// For what is no size.
pub fn swap(text: &str) -> Result<Swap, String> {
    match text {
        "-1" => Ok(Swap::Unlimited),
        text => Ok(match binary(text)? {
            0 => Swap::Usual,
            total => Swap::Total(total),
        }),
    }
}

/// Processors, also in part: `1.5`. In microseconds of every 100 ms.
///
/// # Errors
/// For what is no number, and for less than the kernel takes (a hundredth).
pub fn cpus(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a number of processors: `2`, `1.5`");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if text.is_empty() || part.is_empty() || part.len() > 9 || !digits(part) || !digits(whole) {
        return Err(wrong());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
    let billionths: u64 = format!("{part:0<9}").parse().map_err(|_| wrong())?;
    let quota = whole.checked_mul(PERIOD_US).and_then(|us| us.checked_add(billionths / (1_000_000_000 / PERIOD_US)));
    match quota.ok_or_else(wrong)? {
        quota @ 1..1000 => Err(format!("`{text}` is too little ({quota} µs of every 100 ms); the least is 0.01")),
        0 if billionths > 0 => Err(format!("`{text}` is too little; the least is 0.01")),
        quota => Ok(quota),
    }
}

/// Microseconds from 1,000 to 1,000,000.
///
/// # Errors
/// For everything else.
pub fn period(text: &str) -> Result<u64, String> {
    let period = text.parse().ok().filter(|period| (1_000..=1_000_000).contains(period));
    period.ok_or_else(|| format!("`{text}` is not a period from 1000 to 1000000 microseconds"))
}

/// From 2 to 262144; 0 is what is usual.
///
/// # Errors
/// For everything else.
pub fn shares(text: &str) -> Result<u64, String> {
    let shares = text.parse().ok().filter(|shares| *shares == 0 || (2..=262_144).contains(shares));
    shares.ok_or_else(|| format!("`{text}` is not a weight from 2 to 262144"))
}

/// `0-3,7`.
///
/// # Errors
/// For everything else.
pub fn set(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is not a list of numbers: `0-3,7`");
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
        let range = number(first).zip(number(last));
        range.filter(|(first, last)| first <= last).ok_or_else(wrong)?;
    }
    Ok(text.to_owned())
}

/// How many; `-1` and 0 are as many as the machine has.
///
/// # Errors
/// For everything else.
pub fn pids(text: &str) -> Result<Pids, String> {
    match text.parse() {
        Ok(-1 | 0) => Ok(Pids::Unlimited),
        Ok(max @ 1..) => Ok(Pids::Max(i64::unsigned_abs(max))),
        _ => Err(format!("`{text}` is not a number of processes")),
    }
}

/// An amount on disk: `10GB`, `512MiB`; 0 is no limit.
///
/// # Errors
/// For everything else.
pub fn disk(text: &str) -> Result<u64, String> {
    match text.parse()? {
        Size::Bytes(bytes) => Ok(bytes),
        Size::Percent(_) => Err(format!("`{text}` is not an amount: `10GB`, `512MiB`")),
    }
}

/// Room on the store's disk: `1GB`, `5%`; 0 is none.
///
/// # Errors
/// For everything else.
pub fn room(text: &str) -> Result<Room, String> {
    Ok(match text.parse()? {
        Size::Bytes(bytes) => Room::Bytes(bytes),
        Size::Percent(percent) => Room::Percent(percent),
    })
}

#[cfg(test)]
mod tests;
