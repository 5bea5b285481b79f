//! The rules, tried on all architectures with the interpreter: each against an evaluation of its own that knows nothing of
//! segments and jumps, and what users are promised as a table written by hand.

use std::collections::HashMap;

use super::facts::{Action, RULES, Rule, Test};
use super::interpreter::{Call, INSTRUCTIONS_MAX, run};
use super::numbers::{NEWEST, NUMBERS};
use super::program::{ALLOW, ENOSYS, EPERM, ERRNO, Insn, X32, architectures, program};
use crate::sandbox::policy;

const MACHINES: [&str; 2] = ["x86_64", "aarch64"];
/// Names of the columns of [`NUMBERS`].
const COLUMNS: [&str; 5] = ["x86-64", "x32", "i386", "aarch64", "arm"];
/// Capabilities that a rule speaks of, and two that none does.
const CAPABILITIES: [&str; 16] = [
    "DAC_READ_SEARCH",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "SYS_NICE",
    "SYSLOG",
    "BPF",
    "PERFMON",
    "CHOWN",
    "NET_ADMIN",
];

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn words(answer: u32) -> &'static str {
    match answer {
        ALLOW => "allowed",
        _ if answer == ERRNO | EPERM => "EPERM",
        _ if answer == ERRNO | ENOSYS => "ENOSYS",
        _ => panic!("{answer:#x} is no answer of ours"),
    }
}

fn rules_of(name: &str) -> impl Iterator<Item = &'static Rule> {
    RULES.iter().filter(move |rule| rule.names.contains(&name))
}

/// What the rules say of a call by its name, one rule after the other.
fn by_the_rules(machine: &str, name: &str, capabilities: &[String], argument: u64) -> &'static str {
    let has = |capability: &str| capabilities.iter().any(|held| held == capability);
    let argument = argument as u32;
    let mut answer = "EPERM";
    for Rule { action, machines, with, without, test, .. } in rules_of(name) {
        let holds = (machines.is_empty() || machines.contains(&machine))
            && with.is_none_or(has)
            && !without.is_some_and(has)
            && match test {
                None => true,
                Some(Test::Below(limit)) => argument < *limit,
                Some(Test::Is(value)) => argument == *value,
                Some(Test::Above(limit)) => argument > *limit,
                Some(Test::Clear(bits)) => argument & bits == 0,
            };
        match action {
            Action::Allow if holds => return "allowed",
            Action::Absent if holds => answer = "ENOSYS",
            _ => {}
        }
    }
    answer
}

/// Arguments on both sides of every test.
const ARGUMENTS: [u64; 22] = [
    0,
    1,
    2,
    8,
    9,
    17,
    37,
    38,
    39,
    40,
    41,
    255,
    0x1_0000,
    0x2_0000,
    0x2_0008,
    0x2_0011,
    0x0200_0000,
    0x1000_0011,
    0x4000_0000,
    0x7e02_0000,
    0xffff_ffff,
    0x1_0000_0026,
];

/// Calls `check` for each way to call the kernel on each machine: machine, name of its architecture for the kernel,
/// column, base of its numbers.
fn each_abi(mut check: impl FnMut(&str, u32, usize, u32)) {
    for machine in MACHINES {
        for architecture in architectures(machine).expect("it is known") {
            for abi in architecture.abis {
                check(machine, architecture.audit, abi.column, abi.base);
            }
        }
    }
}

/// Every number of every architecture, with one capability more than the default at a time.
#[test]
fn every_rule_holds_on_every_architecture_and_what_none_names_is_refused() {
    let default = names(policy::CAPABILITIES);
    let mut sets = vec![default.clone(), Vec::new(), names(&CAPABILITIES)];
    sets.extend(CAPABILITIES.iter().map(|one| [default.clone(), names(&[one])].concat()));
    let mut tried = 0;
    each_abi(|machine, architecture, column, base| {
        let mut known: HashMap<u32, Vec<&str>> = HashMap::new();
        for (name, numbers) in NUMBERS {
            if let Ok(number) = u32::try_from(numbers[column]) {
                known.entry(number).or_default().push(name);
            }
        }
        for capabilities in &sets {
            let program = program(machine, capabilities).expect("it is known");
            for number in (0..=NEWEST + 200).chain(0xf_0000..0xf_0010).chain([0x3fff_ffff - base.min(X32 - 1)]) {
                let named = known.get(&number).map(Vec::as_slice).unwrap_or_default();
                let is_tested = named.iter().any(|name| rules_of(name).any(|rule| rule.test.is_some()));
                for &argument in if is_tested { &ARGUMENTS[..] } else { &ARGUMENTS[..1] } {
                    let call = Call { number: base + number, architecture, arguments: [argument, 0, 0, 0, 0, 0] };
                    // Two names may mean the same call; what allows either allows it.
                    let said: Vec<_> =
                        named.iter().map(|name| by_the_rules(machine, name, capabilities, argument)).collect();
                    let expected = match said[..] {
                        [] if number > NEWEST => "ENOSYS",
                        [] => "EPERM",
                        _ if said.contains(&"allowed") => "allowed",
                        _ => said[0],
                    };
                    let found = words(run(&program, &call).0);
                    let with = capabilities.last();
                    assert_eq!(found, expected, "{} {number} {named:?} {argument:#x} {with:?}", COLUMNS[column]);
                    tried += 1;
                }
            }
        }
    });
    assert!(tried > 60_000, "{tried}");
}

/// Answers to a call by name on each architecture that has it, with the default capabilities and `more`.
#[track_caller]
fn check(name: &str, argument: u64, more: &[&str], expected: &str) {
    let row = NUMBERS.iter().find(|(known, _)| *known == name);
    let (_, numbers) = row.unwrap_or_else(|| panic!("there is no call {name}"));
    let capabilities = [names(policy::CAPABILITIES), names(more)].concat();
    let mut seen = 0;
    each_abi(|machine, architecture, column, base| {
        let Ok(number) = u32::try_from(numbers[column]) else { return };
        let program = program(machine, &capabilities).expect("it is known");
        let call = Call { number: base + number, architecture, arguments: [argument, 0, 0, 0, 0, 0] };
        assert_eq!(words(run(&program, &call).0), expected, "{name}({argument:#x}) on {}", COLUMNS[column]);
        seen += 1;
    });
    assert!(seen > 0, "{name}");
}

#[test]
fn what_users_are_promised_holds_on_every_architecture() {
    for name in
        ["read", "execve", "openat2", "ioctl", "futex", "ptrace", "memfd_create", "io_setup", "seccomp", "mseal"]
    {
        check(name, 0, &[], "allowed");
    }
    let of_the_builder = [
        "mount",
        "umount2",
        "move_mount",
        "open_tree",
        "fsopen",
        "fsmount",
        "mount_setattr",
        "unshare",
        "setns",
        "bpf",
        "perf_event_open",
        "fanotify_init",
        "quotactl",
        "sethostname",
        "setdomainname",
        "lookup_dcookie",
    ];
    for name in of_the_builder {
        check(name, 0, &[], "EPERM");
        check(name, 0, &["SYS_ADMIN"], "allowed");
    }
    check("clone3", 0, &[], "ENOSYS");
    check("clone3", 0, &["SYS_ADMIN"], "allowed");
    check("clone", 0x11, &[], "allowed");
    check("clone", 0x003d_0f00, &[], "allowed"); // Threads.
    for namespace in [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        check("clone", namespace | 0x11, &[], "EPERM");
        check("clone", namespace | 0x11 | 0xff << 32, &[], "EPERM");
        check("clone", namespace | 0x11, &["SYS_ADMIN"], "allowed");
    }
    for family in [0, 1, 2, 10, 16, 17, 37, 39, 41, 45] {
        check("socket", family, &[], "allowed");
    }
    for family in [38, 40, 0x1_0000_0026, 0xffff_ffff_0000_0028] {
        check("socket", family, &["SYS_ADMIN"], "EPERM");
    }
    for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        check("personality", persona, &[], "allowed");
    }
    for persona in [1, 0x0004_0000, 0x0040_0000, 0x1_0040_0000] {
        check("personality", persona, &[], "EPERM");
    }
    check("open_by_handle_at", 0, &[], "EPERM");
    check("open_by_handle_at", 0, &["DAC_READ_SEARCH"], "allowed");
    check("chroot", 0, &[], "allowed"); // One of the 14.
    check("syslog", 0, &["SYSLOG"], "allowed");
    check("bpf", 0, &["BPF"], "allowed");
    check("clock_settime", 0, &["SYS_TIME"], "allowed");
}

#[test]
fn calls_that_no_rule_names_are_refused_and_newer_ones_are_absent() {
    let check = |machine, architecture, number, expected: &str| {
        let program = program(machine, &names(policy::CAPABILITIES)).expect("it is known");
        let call = Call { number, architecture, arguments: [0; 6] };
        assert_eq!(words(run(&program, &call).0), expected, "{machine} {architecture:#x} {number}");
    };
    let (x86_64, i386, aarch64, arm) = (0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028);
    // add_key, request_key, keyctl; io_uring_setup, _enter, _register; userfaultfd; kexec_load; pivot_root; swapon.
    for (machine, architecture, numbers) in [
        ("x86_64", x86_64, [248, 249, 250, 425, 426, 427, 323, 246, 155, 167]),
        ("x86_64", i386, [286, 287, 288, 425, 426, 427, 374, 283, 217, 87]),
        ("aarch64", aarch64, [217, 218, 219, 425, 426, 427, 282, 104, 41, 224]),
        ("aarch64", arm, [309, 310, 311, 425, 426, 427, 388, 347, 218, 87]),
    ] {
        for number in numbers {
            check(machine, architecture, number, "EPERM");
        }
        for number in [NEWEST + 1, 5000, u32::MAX] {
            check(machine, architecture, number, "ENOSYS");
        }
    }
    // x32 has its own number for what passes pointers; the other one would be read wrongly.
    check("x86_64", x86_64, X32 | 59, "EPERM");
    check("x86_64", x86_64, X32 | 520, "allowed");
    check("x86_64", x86_64, 520, "ENOSYS");
    check("x86_64", x86_64, X32 | 165, "EPERM");
    check("x86_64", x86_64, X32 | 250, "EPERM");
    // An architecture that is another machine's.
    check("x86_64", aarch64, 63, "EPERM");
    check("aarch64", i386, 3, "EPERM");
}

#[test]
fn programs_are_short_and_calls_are_judged_in_few_instructions() {
    for machine in MACHINES {
        let program = program(machine, &names(policy::CAPABILITIES)).expect("it is known");
        assert!(program.len() < INSTRUCTIONS_MAX / 2, "{}", program.len());
        for architecture in architectures(machine).expect("it is known") {
            for number in 0..NEWEST {
                let call = Call { number, architecture: architecture.audit, arguments: [0; 6] };
                let (_, steps) = run(&program, &call);
                assert!(steps < 40, "{machine} {number}: {steps}");
            }
        }
    }
    assert_eq!(program("riscv64", &[]), None::<Vec<Insn>>);
}

#[test]
fn a_program_is_the_same_after_it_has_travelled() {
    let program = program("x86_64", &[]).expect("it is known");
    let text = serde_json::to_string(&program).expect("numbers are text");
    assert_eq!(serde_json::from_str::<Vec<Insn>>(&text).expect("text is numbers"), program);
}

#[test]
fn every_name_of_a_rule_has_a_number_and_the_table_is_in_order() {
    assert!(NUMBERS.is_sorted_by(|a, b| a.0 < b.0));
    for name in RULES.iter().flat_map(|rule| rule.names) {
        assert!(NUMBERS.iter().any(|(known, _)| known == name), "{name}");
    }
    for (name, numbers) in NUMBERS {
        assert!(RULES.iter().any(|rule| rule.names.contains(name)), "{name}");
        assert!(numbers.iter().any(|&number| number >= 0), "{name}");
    }
    for rule in RULES.iter() {
        for capability in rule.with.iter().chain(&rule.without) {
            assert!(CAPABILITIES.contains(capability), "{capability}");
        }
    }
}

/// Numbers against those of the kernel's own headers, which `gcc` needs anyway.
#[test]
#[cfg(target_arch = "x86_64")]
fn numbers_are_those_of_the_kernels_headers() {
    let directory = std::path::Path::new("/usr/include/x86_64-linux-gnu/asm");
    for (column, file) in [(0, "unistd_64.h"), (1, "unistd_x32.h"), (2, "unistd_32.h")] {
        let text = std::fs::read_to_string(directory.join(file)).expect("the package linux-libc-dev is installed");
        let mut compared = 0;
        for line in text.lines() {
            let Some((name, value)) = line.strip_prefix("#define __NR_").and_then(|rest| rest.split_once(' ')) else {
                continue;
            };
            let value = value.trim().trim_start_matches("(__X32_SYSCALL_BIT + ").trim_end_matches(')');
            let Ok(number) = value.parse::<i32>() else { continue };
            if let Some((_, numbers)) = NUMBERS.iter().find(|(known, _)| *known == name) {
                assert_eq!(numbers[column], number, "{name} in {file}");
                compared += 1;
            }
        }
        assert!(compared > 300, "{file}: {compared}");
    }
}

/// Fail closed: no step runs without its filter.
#[test]
fn without_the_capability_or_a_table_there_is_an_error_and_no_filter() {
    // Capabilities are a thread's own, and every test has one.
    let mut sets = rustix::thread::capabilities(None).expect("they can be asked");
    sets.effective.remove(rustix::thread::CapabilitySet::SYS_ADMIN);
    rustix::thread::set_capabilities(None, sets).expect("a thread may have less");
    let said = |program: &[Insn]| super::install(program).err().map(|trouble| trouble.detail).unwrap_or_default();
    let refused = said(&super::compiled(&names(policy::CAPABILITIES)));
    assert!(refused.starts_with("it takes CAP_SYS_ADMIN, which this process lacks"), "{refused}");
    assert!(said(&[]).starts_with("there is no table of system calls for"));
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("it can be read");
    assert!(status.contains("\nSeccomp:\t0\n"), "{status}");
}
