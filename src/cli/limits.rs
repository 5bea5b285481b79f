//! Flags that limit what each step may use of the machine.

use std::time::Duration;

use clap::{ArgAction, Args};
use executor::limits::{Pids, Swap};

use super::values;
use crate::options::limits;

/// Limits of each step.
#[derive(Debug, Default, Args)]
pub struct LimitArgs {
    /// Memory of each step: 512m, 2g
    #[arg(short, long, help_heading = "Limits of each step", value_name = "SIZE", value_parser = limits::memory)]
    pub memory: Option<u64>,
    /// Memory and swap together; -1 is as much swap as there is [default: twice the memory]
    #[arg(long, help_heading = "Limits of each step", value_name = "SIZE", value_parser = limits::swap,
        allow_hyphen_values = true)]
    pub memory_swap: Option<Swap>,
    /// Processors, also in part: 1.5
    #[arg(long, help_heading = "Limits of each step", value_name = "NUMBER", value_parser = limits::cpus)]
    pub cpus: Option<u64>,
    /// Weight when processors are short, 2 to 262144; 1024 is usual
    #[arg(short = 'c', long, help_heading = "Limits of each step", value_name = "WEIGHT", value_parser = limits::shares)]
    pub cpu_shares: Option<u64>,
    /// Which processors: 0-3,7
    #[arg(long, help_heading = "Limits of each step", value_name = "LIST", value_parser = limits::set)]
    pub cpuset_cpus: Option<String>,
    /// Which memory nodes: 0-1
    #[arg(long, help_heading = "Limits of each step", value_name = "LIST", value_parser = limits::set)]
    pub cpuset_mems: Option<String>,
    /// Processor time in every period, in microseconds
    #[arg(long, help_heading = "Limits of each step", value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Length of a period, in microseconds [default: 100000]
    #[arg(long, help_heading = "Limits of each step", value_name = "MICROSECONDS", value_parser = limits::period)]
    pub cpu_period: Option<u64>,
    /// Processes and threads; -1 is as many as the machine has [default: 16384]
    #[arg(long, help_heading = "Limits of each step", value_name = "NUMBER", value_parser = limits::pids,
        allow_hyphen_values = true)]
    pub pids_limit: Option<Pids>,
    /// Stop a step that takes longer: 90s, 15m, 1h30m
    #[arg(long, help_heading = "Limits of each step", value_name = "TIME", value_parser = values::duration)]
    pub timeout: Option<Duration>,
    /// Stop a step that writes more into its layer: 512MiB, 10GB
    #[arg(long, help_heading = "Limits of each step", value_name = "SIZE", value_parser = limits::disk)]
    pub disk_limit: Option<u64>,
    /// Make the control groups of steps in this one: /PATH, PATH beneath our own, or NAME.slice
    #[arg(long, help_heading = "Limits of each step", value_name = "GROUP")]
    pub cgroup_parent: Option<String>,
    /// Several of these at once: memory=512m,cpus=2
    #[arg(long, help_heading = "Limits of each step", value_name = "NAME=VALUE,…", action = ArgAction::Append)]
    pub resource: Vec<String>,
}
