//! Values of limits, and how flags, `--resource` and settings combine.

use clap::Parser as _;

use super::*;

#[test]
fn memory_is_read_as_docker_reads_it() {
    let check = |text: &str, expected: Option<u64>| assert_eq!(memory(text).ok(), expected, "{text}");
    check("0", Some(0));
    check("6291456", Some(6 << 20));
    check("512m", Some(512 << 20));
    check("512M", Some(512 << 20));
    check("512mb", Some(512 << 20));
    check("512 MiB", Some(512 << 20));
    check("1.5g", Some(3 << 29));
    check("2t", Some(2 << 40));
    check("10240k", Some(10 << 20));
    for wrong in ["", "m", "-1", "1x", "5m", "1", "10%", "1.m", "99999999t", "512im", "512 i", "1e9"] {
        check(wrong, None);
    }
    assert_eq!(swap("-1"), Ok(Swap::Unlimited));
    assert_eq!(swap("0"), Ok(Swap::Usual));
    assert_eq!(swap("1g"), Ok(Swap::Total(1 << 30)));
    assert!(swap("-2").is_err());
}

#[test]
fn processors_processes_and_lists_are_read() {
    let check = |text: &str, expected: Option<u64>| assert_eq!(cpus(text).ok(), expected, "{text}");
    check("1", Some(100_000));
    check("1.5", Some(150_000));
    check(".5", Some(50_000));
    check("0.01", Some(1000));
    check("0", Some(0));
    for wrong in ["", ".", "1.", "-1", "0.001", "0.000000001", "a", "1,5", "+1", "99999999999999999"] {
        check(wrong, None);
    }
    assert_eq!(pids("64"), Ok(Pids::Max(64)));
    assert_eq!((pids("-1"), pids("0")), (Ok(Pids::Unlimited), Ok(Pids::Unlimited)));
    assert!(pids("-2").is_err() && pids("many").is_err());
    for list in ["0", "0-3", "0,2", "0-1,3-4"] {
        assert_eq!(set(list).as_deref(), Ok(list));
    }
    for wrong in ["", ",", "1-", "-1", "3-1", "a", "0 1", "+1", "0-1-2"] {
        assert!(set(wrong).is_err(), "{wrong}");
    }
    assert!(period("999").is_err() && period("1000000").is_ok() && shares("1").is_err() && shares("2").is_ok());
    assert!(disk("10%").is_err() && disk("1GB") == Ok(1_000_000_000) && room("10%") == Ok(Room::Percent(10)));
}

#[derive(clap::Parser)]
struct Words {
    #[command(flatten)]
    limits: LimitArgs,
}

fn read(words: &[&str]) -> Result<StepLimits, String> {
    let words = std::iter::once("x").chain(words.iter().copied());
    let args = Words::try_parse_from(words).map_err(|error| error.to_string())?.limits;
    limits(&args, &LimitConfig::default()).map_err(|failure| failure.problems[0].message.clone())
}

#[test]
fn flags_become_limits() {
    let check = |words: &[&str], expected: StepLimits| assert_eq!(read(words), Ok(expected), "{words:?}");
    let none = StepLimits::default;
    let quota = |quota_us, period_us| Some(CpuQuota { quota_us, period_us });
    check(&[], none());
    check(&["-m", "512m"], StepLimits { memory_bytes: Some(512 << 20), ..none() });
    check(&["--memory=0"], none());
    let both = StepLimits { memory_bytes: Some(512 << 20), swap: Swap::Total(1 << 30), ..none() };
    check(&["--memory=512m", "--memory-swap=1g"], both.clone());
    check(&["--memory=512m", "--memory-swap", "-1"], StepLimits { swap: Swap::Unlimited, ..both.clone() });
    check(&["--resource", "memory=512m,memory-swap=1g"], both);
    check(&["--cpus=1.5"], StepLimits { cpu: quota(Some(150_000), 100_000), ..none() });
    check(&["--cpu-quota=50000"], StepLimits { cpu: quota(Some(50_000), 100_000), ..none() });
    check(&["--cpu-quota=50000", "--cpu-period=20000"], StepLimits { cpu: quota(Some(50_000), 20_000), ..none() });
    check(&["--cpu-quota", "-1"], StepLimits { cpu: quota(None, 100_000), ..none() });
    let set = StepLimits { cpuset_cpus: Some("0,2-3".into()), pids: Pids::Max(9), ..none() };
    check(&["--cpuset-cpus=0,2-3", "--pids-limit=9"], set.clone());
    check(&["--resource=cpuset-cpus=0,2-3,pids-limit=9"], set);
    check(&["--timeout=90s"], StepLimits { timeout: Some(std::time::Duration::from_secs(90)), ..none() });
    check(&["--timeout=0s", "--disk-limit=0", "--cpu-shares=0", "--cpus=0", "--cgroup-parent="], none());
    check(&["--disk-limit=1MiB"], StepLimits { disk_bytes: Some(1 << 20), ..none() });
    // The last word of a flag counts over `--resource`.
    check(&["--resource=memory=1g", "-m", "512m"], StepLimits { memory_bytes: Some(512 << 20), ..none() });
}

#[test]
fn what_contradicts_itself_is_refused() {
    let check = |words: &[&str], expected: &str| {
        let said = read(words).expect_err("it has no meaning");
        assert!(said.contains(expected), "{words:?}: {said}");
    };
    check(&["--memory-swap=1g"], "needs `--memory`");
    check(&["--memory=1g", "--memory-swap=512m"], "less than the memory");
    check(&["--cpus=1", "--cpu-quota=5"], "contradict each other");
    check(&["--cpus=1", "--cpu-period=50000"], "contradict each other");
    check(&["--resource=memory"], "`memory` is not `NAME=VALUE`");
    check(&["--resource=disk=1g"], "`disk` is none of memory");
    check(&["--resource=memory=5m"], "the least is 6m");
    check(&["--memory=5m"], "the least is 6m");
    check(&["--cpuset-cpus=a"], "not a list of numbers");
}
