//! Settings, merged: flag > environment > user's file > system's file > default, each with where it comes from.
//!
//! In come flags, an [`Environment`] and the texts of `config.toml` under `$XDG_CONFIG_HOME/rbuild` and `/etc/rbuild`;
//! out comes a [`Config`]. Deliberately absent: what only one build is about, which is [`crate::options`]'s.

mod file;
mod limits;
mod registries;
mod userns;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use executor::isolation::Wanted;
use executor::network::{Driver, Pool};
use oci::layer::Bounds;
use solver::op::NetworkMode;

pub use file::ConfigFile;
pub use limits::{LimitConfig, Written};
pub use registries::RegistryConfig;
pub use userns::UsernsConfig;

use crate::amount::amount;
use crate::cli::values::{self, ColorArg, ProgressArg};
use crate::engine::Failure;
use crate::environment::Environment;
use crate::options::size::Size;

/// Where the system's file is.
const SYSTEM_FILE: &str = "/etc/rbuild/config.toml";
/// The store of root.
const ROOT_STORE: &str = "/var/lib/rbuild";
/// Lines of a running step's output on a terminal, unless told otherwise; BuildKit's number.
const TTY_LOG_LINES: usize = 6;
/// Builds in the history, unless told otherwise; BuildKit's number.
const HISTORY_KEEP: usize = 50;
/// More than anybody reads of one step, and less than fills a disk.
const HISTORY_LOG_MAX_BYTES: u64 = 128 << 20;

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub source: Source,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A flag of that name.
    Flag(&'static str),
    /// A variable of that name.
    Variable(&'static str),
    /// A line of a file.
    File {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// All settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The store's folder; absolute.
    pub root: Setting<PathBuf>,
    /// How progress is shown.
    pub progress: Setting<ProgressArg>,
    /// Whether colours are used.
    pub color: Setting<ColorArg>,
    /// How many lines of a running step's output are shown on a terminal.
    pub log_lines: Setting<usize>,
    /// How many RUN steps run at once.
    pub jobs: Setting<usize>,
    /// Network of the RUN steps; `None` when nobody said.
    pub network: Setting<Option<NetworkMode>>,
    /// How strongly steps are kept apart; `None`: as suits the user.
    pub isolation: Setting<Option<Wanted>>,
    /// How steps with a network of their own get out; `None` is the first way that works.
    pub network_driver: Setting<Option<Driver>>,
    /// Where their addresses come from; `None` is the first of the usual ranges that is free.
    pub network_pool: Setting<Option<Pool>>,
    /// How large the store may become; `None` is a share of its disk.
    pub max_size: Setting<Option<Size>>,
    /// How long what is not used stays; `None`: as long as there is room.
    pub keep_for: Setting<Option<Duration>>,
    /// How large all cache mounts together may become; `None` is half of `max_size`.
    pub mounts_max_size: Setting<Option<Size>>,
    /// Whether no connection may be made.
    pub offline: Setting<bool>,
    /// Whether images may have layers that must not be distributed.
    pub foreign_layers: Setting<bool>,
    /// Bytes that anything compressed may unpack to, however small it is.
    pub unpack_max_bytes: Setting<u64>,
    /// Entries of one layer or archive.
    pub unpack_max_entries: Setting<u64>,
    /// `--allow` of every build; its own are added to them.
    pub allow: Setting<Vec<String>>,
    /// `--secret` of every build, as written; its own stand above them.
    pub secrets: Setting<Vec<String>>,
    /// `--ssh` of every build, likewise.
    pub ssh: Setting<Vec<String>>,
    /// The platform, as written; `None` is that of this machine.
    pub platform: Setting<Option<String>>,
    /// How many builds the history keeps; 0 records none.
    pub history_keep: Setting<usize>,
    /// How much of what one step prints the history keeps.
    pub history_log_max_bytes: Setting<u64>,
    /// What each step may use, as far as files say.
    pub limits: LimitConfig,
    /// Whether steps of root have user namespaces of their own, as far as files say.
    pub userns: UsernsConfig,
    /// Registries by `host` or `host:port`, perhaps with the beginning of a repository, as image names have it.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Whether settings of registries of other tools count too.
    pub registry_files: Setting<bool>,
    /// Whether credentials are taken from what CI systems put into the environment.
    pub ci_credentials: Setting<bool>,
    /// What this one command says of the registries that it names.
    pub registry_flags: RegistryFlags,
}

/// What one command says of the registries that it names.
#[derive(Clone, Debug, Default)]
pub struct RegistryFlags {
    /// `--authfile`; absolute.
    pub authfile: Option<PathBuf>,
    /// `--cert-dir`; absolute.
    pub cert_dir: Option<PathBuf>,
    /// `--tls-verify`.
    pub tls_verify: Option<bool>,
    /// `--creds`: for one registry.
    pub credential: Option<(String, oci::registry::Credential)>,
}

/// What the command line says about settings.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--root`.
    pub root: Option<PathBuf>,
    /// `--progress`.
    pub progress: Option<ProgressArg>,
    /// `--quiet`.
    pub quiet: bool,
    /// `--jobs`.
    pub jobs: Option<usize>,
    /// `--network`.
    pub network: Option<NetworkMode>,
    /// `--isolation`.
    pub isolation: Option<Wanted>,
    /// `--offline`.
    pub offline: Option<bool>,
    /// `--platform`.
    pub platform: Option<String>,
    /// Flags about registries.
    pub registry: RegistryFlags,
    /// Whether the verb does without a store where none can be found.
    pub only_looks: bool,
}

/// Reads both files and merges.
///
/// # Errors
/// When a file cannot be read or understood, or a variable has no meaning.
pub fn load(flags: Flags, environment: &Environment) -> Result<Config, Failure> {
    let user = match user_file(environment) {
        Some(path) => ConfigFile::read(&path)?,
        None => ConfigFile::default(),
    };
    let system = ConfigFile::read(Path::new(SYSTEM_FILE))?;
    merge(flags, environment, user, system)
}

/// Where the user's file would be. XDG base directory specification.
fn user_file(environment: &Environment) -> Option<PathBuf> {
    let base = environment
        .directory("XDG_CONFIG_HOME")
        .or_else(|| environment.directory("HOME").map(|home| home.join(".config")))?;
    Some(base.join("rbuild/config.toml"))
}

/// Flag > environment > user's file > system's file > default.
fn merge(flags: Flags, environment: &Environment, user: ConfigFile, system: ConfigFile) -> Result<Config, Failure> {
    let progress_flag = match (flags.quiet, flags.progress) {
        (true, None | Some(ProgressArg::Quiet)) => Some((ProgressArg::Quiet, "--quiet")),
        (true, Some(other)) => {
            let message = format!("`--quiet` and `--progress={}` contradict each other", other.name());
            return Err(Failure::new(message).help("give only one of them"));
        }
        (false, progress) => progress.map(|progress| (progress, "--progress")),
    };
    let absolute = |path: PathBuf| environment.working_directory.join(path);
    let root = first([
        flag("--root", flags.root.map(absolute)),
        variable("RBUILD_ROOT", environment.get("RBUILD_ROOT").map(|path| absolute(path.into()))),
        user.root,
        system.root,
    ]);
    let root = match root {
        Some(root) => root,
        None if flags.only_looks => default(default_root(environment).unwrap_or_else(|_| ROOT_STORE.into())),
        None => default(default_root(environment)?),
    };
    let mut progress = first([
        progress_flag.map(|(value, name)| Setting { value, source: Source::Flag(name) }),
        parsed(environment, "BUILDKIT_PROGRESS", str::parse)?,
        user.progress,
        system.progress,
    ])
    .unwrap_or(default(ProgressArg::Auto));
    if progress.value == ProgressArg::Auto && environment.says_yes("CI") {
        progress = Setting { value: ProgressArg::Plain, source: Source::Variable("CI") };
    }
    let no_color = environment.get("NO_COLOR").map(|_| ColorArg::Never);
    let color = first([variable("NO_COLOR", no_color), user.color, system.color]).unwrap_or(default(ColorArg::Auto));
    let lines = parsed(environment, "BUILDKIT_TTY_LOG_LINES", values::number)?;
    let log_lines = first([lines, user.log_lines, system.log_lines]).unwrap_or(default(TTY_LOG_LINES));
    let jobs = first([flag("--jobs", flags.jobs), user.jobs, system.jobs]);
    let jobs = jobs.unwrap_or_else(|| default(usual_jobs()));
    let network = first([flag("--network", flags.network), user.network, system.network]);
    let isolation = first([
        flag("--isolation", flags.isolation),
        parsed(environment, "RBUILD_ISOLATION", values::isolation)?,
        user.isolation,
        system.isolation,
    ]);
    let network_driver = first([user.network_driver, system.network_driver]).unwrap_or(default(None));
    let network_pool = optional(first([user.network_pool, system.network_pool]));
    let max_size = parsed(environment, "RBUILD_MAX_SIZE", str::parse)?;
    let max_size = first([max_size, user.max_size, system.max_size]);
    let keep_for = parsed(environment, "RBUILD_KEEP_FOR", values::duration)?;
    let keep_for = first([keep_for, user.keep_for, system.keep_for]);
    let mounts_max_size = parsed(environment, "RBUILD_CACHE_MOUNTS_MAX_SIZE", str::parse)?;
    let mounts_max_size = first([mounts_max_size, user.mounts_max_size, system.mounts_max_size]);
    let offline = first([
        flag("--offline", flags.offline),
        parsed(environment, "RBUILD_OFFLINE", values::yes_or_no)?,
        user.offline,
        system.offline,
    ]);
    let foreign_layers = first([user.foreign_layers, system.foreign_layers]);
    let unpack_max_bytes = first([user.unpack_max_bytes, system.unpack_max_bytes]);
    let unpack_max_entries = first([user.unpack_max_entries, system.unpack_max_entries])
        .map(|Setting { value, source }| Setting { value: value as u64, source });
    let platform = environment.text("DOCKER_DEFAULT_PLATFORM");
    let platform = first([flag("--platform", flags.platform), variable("DOCKER_DEFAULT_PLATFORM", platform)]);
    let history_keep = first([user.history_keep, system.history_keep]).unwrap_or(default(HISTORY_KEEP));
    let history_log_max_bytes =
        first([user.history_log_max_bytes, system.history_log_max_bytes]).unwrap_or(default(HISTORY_LOG_MAX_BYTES));
    let mut registries = system.registries;
    for (name, registry) in user.registries {
        let merged = registries.entry(name).or_default();
        *merged = registry.or(std::mem::take(merged));
    }
    let registry_files = first([
        parsed(environment, "RBUILD_REGISTRY_FILES", values::yes_or_no)?,
        user.registry_files,
        system.registry_files,
    ]);
    let ci_credentials = first([
        parsed(environment, "RBUILD_CI_CREDENTIALS", values::yes_or_no)?,
        user.ci_credentials,
        system.ci_credentials,
    ]);
    let mut registry_flags = flags.registry;
    for path in [&mut registry_flags.authfile, &mut registry_flags.cert_dir].into_iter().flatten() {
        *path = absolute(std::mem::take(path));
    }
    Ok(Config {
        root,
        progress,
        color,
        log_lines,
        jobs,
        network: optional(network),
        isolation: optional(isolation),
        network_driver,
        network_pool,
        max_size: optional(max_size),
        keep_for: optional(keep_for),
        mounts_max_size: optional(mounts_max_size),
        offline: offline.unwrap_or(default(false)),
        foreign_layers: foreign_layers.unwrap_or(default(false)),
        unpack_max_bytes: unpack_max_bytes.unwrap_or(default(Bounds::DEFAULT.free_bytes)),
        unpack_max_entries: unpack_max_entries.unwrap_or(default(Bounds::DEFAULT.entries)),
        allow: first([user.allow, system.allow]).unwrap_or(default(Vec::new())),
        secrets: first([user.secrets, system.secrets]).unwrap_or(default(Vec::new())),
        ssh: first([user.ssh, system.ssh]).unwrap_or(default(Vec::new())),
        platform: optional(platform),
        history_keep,
        history_log_max_bytes,
        limits: user.limits.or(system.limits),
        userns: user.userns.or(system.userns),
        registries,
        registry_files: registry_files.unwrap_or(default(true)),
        ci_credentials: ci_credentials.unwrap_or(default(true)),
        registry_flags,
    })
}

fn default_root(environment: &Environment) -> Result<PathBuf, Failure> {
    if environment.root_user {
        return Ok(ROOT_STORE.into());
    }
    let data = environment.directory("XDG_DATA_HOME");
    let data = data.or_else(|| environment.directory("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("rbuild")).ok_or_else(|| {
        Failure::new("there is no folder for the store: neither `XDG_DATA_HOME` nor `HOME` is set")
            .help("name one with `--root DIR` or `RBUILD_ROOT`")
    })
}

fn default<T>(value: T) -> Setting<T> {
    Setting { value, source: Source::Default }
}

fn flag<T>(name: &'static str, value: Option<T>) -> Option<Setting<T>> {
    value.map(|value| Setting { value, source: Source::Flag(name) })
}

fn variable<T>(name: &'static str, value: Option<T>) -> Option<Setting<T>> {
    value.map(|value| Setting { value, source: Source::Variable(name) })
}

fn parsed<T>(
    environment: &Environment,
    name: &'static str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<Setting<T>>, Failure> {
    let value = environment.text(name).map(|text| parse(&text)).transpose();
    let value = value.map_err(|reason| {
        Failure::new(format!("the variable `{name}`: {reason}"))
            .help(format!("unset it, or correct it: `unset {name}`"))
    })?;
    Ok(variable(name, value))
}

fn first<T, const N: usize>(candidates: [Option<Setting<T>>; N]) -> Option<Setting<T>> {
    candidates.into_iter().flatten().next()
}

fn optional<T>(setting: Option<Setting<T>>) -> Setting<Option<T>> {
    match setting {
        Some(Setting { value, source }) => Setting { value: Some(value), source },
        None => default(None),
    }
}

/// One setting as text.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    /// Its name; as in `config.toml`, where it can be set there.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Where it comes from.
    pub source: String,
}

impl Config {
    /// Whether colours are used on a stream that is a terminal or not.
    pub fn color_on(&self, terminal: bool) -> bool {
        match self.color.value {
            ColorArg::Auto => terminal,
            ColorArg::Always => true,
            ColorArg::Never => false,
        }
    }

    /// Every setting as text.
    pub fn rows(&self) -> Vec<Row> {
        let row =
            |key: &str, value: String, source: &Source| Row { key: key.into(), value, source: source.to_string() };
        let network = self.network.value.map_or("default", values::network_name);
        let isolation = self.isolation.value.map_or("full for root, else rootless".into(), values::isolation_name);
        let driver = self.network_driver.value.map_or("auto", Driver::name);
        let pool = self.network_pool.value.map_or("the first usual range that is free".into(), |pool| pool.to_string());
        let max_size = self.max_size.value.map_or("a share of the disk".into(), |size| size.to_string());
        let mounts_max_size = self.mounts_max_size.value.map_or("half of max_size".into(), |size| size.to_string());
        let keep_for = self.keep_for.value.map_or("as long as there is room".into(), values::duration_name);
        let platform = self.platform.value.clone().unwrap_or_else(|| oci::model::Platform::native().to_string());
        let mut rows = vec![
            row("root", self.root.value.display().to_string(), &self.root.source),
            row("progress", self.progress.value.name().into(), &self.progress.source),
            row("color", self.color.value.name().into(), &self.color.source),
            row("log_lines", self.log_lines.value.to_string(), &self.log_lines.source),
            row("jobs", self.jobs.value.to_string(), &self.jobs.source),
            row("network", network.into(), &self.network.source),
            row("isolation", isolation, &self.isolation.source),
            row("network.driver", driver.into(), &self.network_driver.source),
            row("network.pool", pool, &self.network_pool.source),
            row("max_size", max_size, &self.max_size.source),
            row("keep_for", keep_for, &self.keep_for.source),
            row("cache_mounts.max_size", mounts_max_size, &self.mounts_max_size.source),
            row("offline", self.offline.value.to_string(), &self.offline.source),
            row("foreign_layers", self.foreign_layers.value.to_string(), &self.foreign_layers.source),
            row("unpack_max_size", Size::Bytes(self.unpack_max_bytes.value).to_string(), &self.unpack_max_bytes.source),
            row("unpack_max_entries", self.unpack_max_entries.value.to_string(), &self.unpack_max_entries.source),
            row("allow", self.allow.value.join(" "), &self.allow.source),
            row("registry_files", self.registry_files.value.to_string(), &self.registry_files.source),
            row("ci_credentials", self.ci_credentials.value.to_string(), &self.ci_credentials.source),
            row("secret", self.secrets.value.join(" "), &self.secrets.source),
            row("ssh", self.ssh.value.join(" "), &self.ssh.source),
            row("platform", platform, &self.platform.source),
            row("history.keep", self.history_keep.value.to_string(), &self.history_keep.source),
            row("history.log_max_size", amount(self.history_log_max_bytes.value), &self.history_log_max_bytes.source),
        ];
        rows.extend(self.userns.rows().map(|(key, text, source)| row(key, text, source)));
        rows.extend(self.limits.rows().map(|(key, text, source)| row(key, text, source)));
        for (name, registry) in &self.registries {
            for (key, text, source) in registry.rows() {
                rows.push(row(&format!("registry.\"{name}\".{key}"), text, source));
            }
        }
        rows
    }
}

/// Steps mostly wait (for a network, for each other), so there are more of them at once than processors.
fn usual_jobs() -> usize {
    const AT_LEAST: usize = 16;
    const PER_PROCESSOR: usize = 4;
    std::thread::available_parallelism().map_or(AT_LEAST, |processors| AT_LEAST.max(PER_PROCESSOR * processors.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Merges and lists: variables as `NAME=value`, files as text; the working directory is `/here`.
    fn rows(flags: Flags, variables: &[&str], user: &str, system: &str) -> Result<Vec<Row>, Failure> {
        let variables = variables.iter().map(|pair| pair.split_once('=').expect("NAME=value"));
        let environment = Environment {
            variables: variables.map(|(name, value)| (name.into(), value.into())).collect(),
            working_directory: "/here".into(),
            ..Environment::default()
        };
        let user = ConfigFile::parse(Path::new("/home/u/config.toml"), user)?;
        let system = ConfigFile::parse(Path::new("/etc/config.toml"), system)?;
        Ok(merge(flags, &environment, user, system)?.rows())
    }

    fn check(flags: Flags, variables: &[&str], user: &str, system: &str, key: &str, expected: &str) {
        let variables: Vec<_> = variables.iter().copied().chain(["HOME=/home/u"]).collect();
        let rows = rows(flags, &variables, user, system).expect("the case is valid");
        let found = rows.iter().find(|row| row.key == key).map(|row| format!("{} ({})", row.value, row.source));
        assert_eq!(found.as_deref(), Some(expected), "{key} with {variables:?}, {user:?}, {system:?}");
    }

    #[test]
    fn flag_beats_environment_beats_user_beats_system_beats_default() {
        let root = |root: &str| Flags { root: Some(root.into()), ..Flags::default() };
        let none = Flags::default;
        let (user, system) = ("root = '/u'", "\nroot = '/s'");
        check(root("/f"), &["RBUILD_ROOT=/e"], user, system, "root", "/f (--root)");
        check(root("f"), &["RBUILD_ROOT=/e"], user, system, "root", "/here/f (--root)");
        check(none(), &["RBUILD_ROOT=e"], user, system, "root", "/here/e (RBUILD_ROOT)");
        let flag = Flags { isolation: Some(Wanted::Auto), ..Flags::default() };
        check(flag, &["RBUILD_ISOLATION=full"], "", "", "isolation", "auto (--isolation)");
        check(none(), &["RBUILD_ISOLATION=full"], "isolation = 'auto'", "", "isolation", "full (RBUILD_ISOLATION)");
        check(none(), &[], "", "isolation = 'rootless'", "isolation", "rootless (/etc/config.toml:1)");
        check(none(), &["RBUILD_ROOT="], user, system, "root", "/u (/home/u/config.toml:1)");
        check(none(), &[], "", system, "root", "/s (/etc/config.toml:2)");
        check(none(), &[], "", "", "root", "/home/u/.local/share/rbuild (default)");
        check(none(), &["XDG_DATA_HOME=/d"], "", "", "root", "/d/rbuild (default)");
        check(none(), &["XDG_DATA_HOME=d"], "", "", "root", "/home/u/.local/share/rbuild (default)");
    }

    #[test]
    fn progress_follows_the_variables_that_ci_systems_set() {
        let progress = |progress| Flags { progress: Some(progress), ..Flags::default() };
        let none = Flags::default;
        let file = "progress = 'rawjson'";
        check(none(), &[], "", "", "progress", "auto (default)");
        check(none(), &["CI=true"], "", "", "progress", "plain (CI)");
        check(none(), &["CI=false"], "", "", "progress", "auto (default)");
        check(none(), &["CI=true"], file, "", "progress", "rawjson (/home/u/config.toml:1)");
        check(none(), &["CI=true", "BUILDKIT_PROGRESS=tty"], file, "", "progress", "tty (BUILDKIT_PROGRESS)");
        check(progress(ProgressArg::None), &["BUILDKIT_PROGRESS=tty"], file, "", "progress", "none (--progress)");
        check(Flags { quiet: true, ..none() }, &["BUILDKIT_PROGRESS=tty"], "", "", "progress", "quiet (--quiet)");
        check(none(), &["NO_COLOR=1"], "color = 'always'", "", "color", "never (NO_COLOR)");
        check(none(), &["NO_COLOR="], "color = 'always'", "", "color", "always (/home/u/config.toml:1)");
        check(none(), &["BUILDKIT_TTY_LOG_LINES=2"], "log_lines = 3", "", "log_lines", "2 (BUILDKIT_TTY_LOG_LINES)");
    }

    #[test]
    fn offline_is_a_flag_a_variable_or_a_line() {
        let offline = |offline| Flags { offline: Some(offline), ..Flags::default() };
        let file = "offline = true";
        check(Flags::default(), &[], "", "", "offline", "false (default)");
        check(Flags::default(), &[], "", file, "offline", "true (/etc/config.toml:1)");
        check(Flags::default(), &["RBUILD_OFFLINE=0"], file, "", "offline", "false (RBUILD_OFFLINE)");
        check(Flags::default(), &["RBUILD_OFFLINE=true"], "", "", "offline", "true (RBUILD_OFFLINE)");
        check(offline(false), &["RBUILD_OFFLINE=1"], file, "", "offline", "false (--offline)");
    }

    #[test]
    fn sizes_and_ages_of_the_store_are_variables_or_lines() {
        let file = "max_size = '20GB'\nkeep_for = '60d'";
        check(Flags::default(), &[], "", "", "max_size", "a share of the disk (default)");
        check(Flags::default(), &[], "", "", "keep_for", "as long as there is room (default)");
        check(Flags::default(), &[], file, "", "max_size", "20.00GB (/home/u/config.toml:1)");
        check(Flags::default(), &["RBUILD_MAX_SIZE=5%"], file, "", "max_size", "5% (RBUILD_MAX_SIZE)");
        check(Flags::default(), &["RBUILD_KEEP_FOR=90m"], file, "", "keep_for", "90m (RBUILD_KEEP_FOR)");
        check(Flags::default(), &[], file, "", "keep_for", "60d (/home/u/config.toml:2)");
    }

    #[test]
    fn only_config_files_allow_for_every_build_and_the_users_own_beats_the_systems() {
        let (user, system) = ("allow = ['network.host', 'device=a/b']", "\nallow = ['security.insecure']");
        check(Flags::default(), &[], "", "", "allow", " (default)");
        check(Flags::default(), &[], user, system, "allow", "network.host device=a/b (/home/u/config.toml:1)");
        check(Flags::default(), &[], "", system, "allow", "security.insecure (/etc/config.toml:2)");
        check(Flags::default(), &[], "allow = []", system, "allow", " (/home/u/config.toml:1)");
        for wrong in ["allow = ['all']", "allow = ['network.host,device']", "allow = 'network.host'", "[allow]\n"] {
            let failure = rows(Flags::default(), &["HOME=/h"], wrong, "").expect_err("the case is not valid");
            assert!(failure.problems[0].snippet.is_some(), "{wrong}: {failure:?}");
        }
    }

    #[test]
    fn user_namespaces_are_merged_key_by_key() {
        let check = |user: &str, system: &str, key: &str, expected: &str| {
            check(Flags::default(), &[], user, system, key, expected);
        };
        check("", "", "userns.mode", "host (default)");
        check("", "userns = 'auto'", "userns.mode", "auto (/etc/config.toml:1)");
        check("[userns]\nmode = 'host'", "userns = 'auto'", "userns.mode", "host (/home/u/config.toml:2)");
        check("", "", "userns.ids", "some that nobody has (default)");
        check("userns = 'auto'", "[userns]\nids = '500000:65536'", "userns.ids", "500000:65536 (/etc/config.toml:2)");
    }

    #[test]
    fn registries_are_merged_key_by_key() {
        let user = "[registry.'r:5000']\ninsecure = false\n";
        let system = "[registry.'r:5000']\ninsecure = true\n";
        let key = "registry.\"r:5000\".insecure";
        check(Flags::default(), &[], user, system, key, "false (/home/u/config.toml:2)");
        check(Flags::default(), &[], "", system, key, "true (/etc/config.toml:2)");
    }

    #[test]
    fn what_has_no_meaning_is_refused_by_name() {
        let check = |flags: Flags, variables: &[&str], expected: &str| {
            let failure = rows(flags, variables, "", "").expect_err("the case is not valid");
            assert!(failure.problems[0].message.contains(expected), "{failure:?}");
        };
        check(Flags::default(), &[], "neither `XDG_DATA_HOME` nor `HOME` is set");
        check(Flags::default(), &["HOME=/h", "BUILDKIT_PROGRESS=loud"], "`BUILDKIT_PROGRESS`: `loud` is none of auto");
        check(Flags::default(), &["HOME=/h", "RBUILD_OFFLINE=maybe"], "`RBUILD_OFFLINE`: `maybe` is neither");
        check(Flags::default(), &["HOME=/h", "BUILDKIT_TTY_LOG_LINES=x"], "`BUILDKIT_TTY_LOG_LINES`: `x`");
        let both = Flags { quiet: true, progress: Some(ProgressArg::Plain), ..Flags::default() };
        check(both, &["HOME=/h"], "contradict each other");
    }
}
