//! `config.toml`: text comes in, settings with their lines or all that is wrong go out.
//!
//! ```toml
//! root = "/srv/rbuild"        # the store
//! progress = "plain"          # auto, plain, tty, quiet, none, rawjson
//! color = "auto"              # auto, always, never
//! log_lines = 6               # of a running step, on a terminal
//! jobs = 4                    # RUN steps at once
//! isolation = "auto"          # full, rootless, chroot, auto; see docs/sandbox.md
//! userns = "auto"             # of root's steps: host, auto; or as the table below
//! network = "none"            # of RUN steps: default, host, none; or as the table below
//! max_size = "20GB"           # of the store: bytes, 20GB, 512MiB, or 10% of its disk
//! keep_for = "60d"            # what was not used for longer is thrown away
//! allow = ["network.host"]    # what steps may ask for, as --allow
//! secret = ["id=NAME,env=VAR"] # given to builds, as --secret
//! ssh = ["default"]           # likewise, as --ssh
//! foreign_layers = true       # images may have layers that must not be distributed
//! unpack_max_size = "4GiB"    # what is compressed may unpack to so much, and to more if not to 200 times its size
//! unpack_max_entries = 4000000 # of one layer or archive
//! offline = true              # no connection to registries, web and git servers, remote caches
//!
//! [cache_mounts]              # of RUN --mount=type=cache
//! max_size = "5GB"            # of all together, as above
//!
//! [userns]
//! mode = "auto"               # what `userns = "auto"` says
//! ids = "2013265920:65536"    # first, and how many: what they are on this machine
//!
//! [network]
//! mode = "none"               # what `network = "none"` says
//! driver = "pasta"            # how steps get out: auto, bridge, pasta, slirp4netns
//! pool = "10.89.0.0/16"       # where their addresses come from
//!
//! [history]                   # see `rbuild history`
//! keep = 50                   # builds; 0 records none
//! log_max_size = "128MiB"     # of what one step prints
//!
//! [limits]                    # of each step; flags of the same names
//! memory = "4g"               # 512m, 2g
//! memory_swap = "4g"          # memory and swap together; "-1" is as much swap as there is
//! cpus = "2"                  # processors, also in part
//! cpu_shares = "512"          # weight, 2 to 262144
//! pids = "4096"               # processes and threads; "-1" is as many as the machine has
//! timeout = "1h"
//! disk = "20GB"               # written into a layer
//! min_free = "5%"             # of the store's disk, or an amount; "0" is none
//!
//! registry_files = true       # settings of registries of podman, docker, containerd and BuildKit count too
//! ci_credentials = true       # what CI systems put into the environment of their jobs is used
//!
//! [registry."docker.io"]      # as image names have it, perhaps with a part of the repository; see docs/registries.md
//! mirrors = ["m.example:5000"] # asked before it, with a path that stands before the repository
//! location = "r.example/hub"  # where it really is
//! blocked = false             # nothing may be had from it
//! insecure = true             # any certificate will do, and plain HTTP may be used
//! http = true                 # only plain HTTP is used
//! ca = ["/etc/ca.pem"]        # authorities that may vouch for it, beside the system's
//! keypair = { key = "/k.pem", cert = "/c.pem" } # how rbuild shows who it is
//! ```
//! An unknown key is an error: a setting that is silently ignored is a trap.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use executor::isolation::Wanted;
use executor::network::{Driver, Pool};
use solver::op::NetworkMode;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{LimitConfig, RegistryConfig, Setting, Source, UsernsConfig, registries};
use crate::cli::values::{self, ColorArg, ProgressArg};
use crate::engine::{Failure, FailureKind, Problem, Snippet};
use crate::options::allow;
use crate::options::size::Size;

const KEYS: &[&str] = &[
    "root",
    "progress",
    "color",
    "log_lines",
    "jobs",
    "network",
    "isolation",
    "userns",
    "offline",
    "foreign_layers",
    "unpack_max_size",
    "unpack_max_entries",
    "allow",
    "secret",
    "ssh",
    "max_size",
    "keep_for",
    "registry",
    "registry_files",
    "ci_credentials",
    "history",
    "limits",
    "cache_mounts",
];
const HISTORY_KEYS: &[&str] = &["keep", "log_max_size"];
const CACHE_MOUNTS_KEYS: &[&str] = &["max_size"];
const NETWORK_KEYS: &[&str] = &["mode", "driver", "pool"];

/// What one file says.
#[derive(Clone, Debug, Default)]
pub struct ConfigFile {
    /// `root`.
    pub root: Option<Setting<PathBuf>>,
    /// `progress`.
    pub progress: Option<Setting<ProgressArg>>,
    /// `color`.
    pub color: Option<Setting<ColorArg>>,
    /// `log_lines`.
    pub log_lines: Option<Setting<usize>>,
    /// `jobs`.
    pub jobs: Option<Setting<usize>>,
    /// `network`.
    pub network: Option<Setting<NetworkMode>>,
    /// `isolation`.
    pub isolation: Option<Setting<Wanted>>,
    /// `network.driver`; `None` within is `auto`.
    pub network_driver: Option<Setting<Option<Driver>>>,
    /// `network.pool`.
    pub network_pool: Option<Setting<Pool>>,
    /// `max_size`.
    pub max_size: Option<Setting<Size>>,
    /// `keep_for`.
    pub keep_for: Option<Setting<Duration>>,
    /// `offline`.
    pub offline: Option<Setting<bool>>,
    /// `foreign_layers`.
    pub foreign_layers: Option<Setting<bool>>,
    /// `unpack_max_size`, in bytes.
    pub unpack_max_bytes: Option<Setting<u64>>,
    /// `unpack_max_entries`.
    pub unpack_max_entries: Option<Setting<usize>>,
    /// `allow`.
    pub allow: Option<Setting<Vec<String>>>,
    /// `secret`.
    pub secrets: Option<Setting<Vec<String>>>,
    /// `ssh`.
    pub ssh: Option<Setting<Vec<String>>>,
    /// `cache_mounts.max_size`.
    pub mounts_max_size: Option<Setting<Size>>,
    /// `history.keep`.
    pub history_keep: Option<Setting<usize>>,
    /// `history.log_max_size`, in bytes.
    pub history_log_max_bytes: Option<Setting<u64>>,
    /// `[limits]`.
    pub limits: LimitConfig,
    /// `userns`, `[userns]`.
    pub userns: UsernsConfig,
    /// `registry_files`.
    pub registry_files: Option<Setting<bool>>,
    /// `ci_credentials`.
    pub ci_credentials: Option<Setting<bool>>,
    /// `[registry."…"]`.
    pub registries: BTreeMap<String, RegistryConfig>,
}

impl ConfigFile {
    /// Reads a file. One that is not there says nothing.
    ///
    /// # Errors
    /// When it is there and cannot be read or understood.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Self::default()),
            Err(error) => {
                Err(Failure::new(format!("the config file `{}` cannot be read", path.display()))
                    .note(error.to_string()))
            }
        }
    }

    /// Understands a file's text.
    ///
    /// # Errors
    /// With everything that is wrong with it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Failure> {
        let mut reader = Reader { path, text: text.into(), problems: Vec::new() };
        let mut file = Self::default();
        match DeTable::parse(text) {
            Ok(table) => file.fill(table.get_ref(), &mut reader),
            Err(error) => reader.problem(error.message(), error.span().unwrap_or(0..0)),
        }
        reader.problems.sort_by_key(|problem| problem.snippet.as_ref().map(|snippet| snippet.span.start));
        match reader.problems {
            problems if problems.is_empty() => Ok(file),
            problems => Err(Failure { kind: FailureKind::Build, problems }),
        }
    }

    fn fill(&mut self, table: &DeTable<'_>, reader: &mut Reader<'_>) {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "root" => self.root = reader.text(value, absolute),
                "progress" => self.progress = reader.text(value, str::parse),
                "color" => self.color = reader.text(value, str::parse),
                "isolation" => self.isolation = reader.text(value, values::isolation),
                "userns" => self.userns.fill(value, reader),
                "network" => self.fill_network(value, reader),
                "offline" => self.offline = reader.value(value, "true or false", |value| value.as_bool(), Ok),
                "allow" => self.allow = reader.texts(value, allow::checked),
                "registry_files" => {
                    self.registry_files = reader.value(value, "true or false", |value| value.as_bool(), Ok);
                }
                "ci_credentials" => {
                    self.ci_credentials = reader.value(value, "true or false", |value| value.as_bool(), Ok);
                }
                "secret" => self.secrets = reader.texts(value, Ok),
                "ssh" => self.ssh = reader.texts(value, Ok),
                "foreign_layers" => {
                    self.foreign_layers = reader.value(value, "true or false", |value| value.as_bool(), Ok);
                }
                "unpack_max_size" => self.unpack_max_bytes = reader.text(value, bytes),
                "unpack_max_entries" => self.unpack_max_entries = reader.number(value, values::number),
                "log_lines" => self.log_lines = reader.number(value, values::number),
                "jobs" => self.jobs = reader.number(value, values::jobs),
                "history" => self.fill_history(value, reader),
                "cache_mounts" => self.fill_cache_mounts(value, reader),
                "max_size" => self.max_size = reader.text(value, str::parse),
                "keep_for" => self.keep_for = reader.text(value, values::duration),
                "limits" => self.limits.fill(value, reader),
                "registry" => self.fill_registries(value, reader),
                _ => reader.unknown(key, KEYS),
            }
        }
    }

    fn fill_network(&mut self, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) {
        let Some(settings) = value.get_ref().as_table() else {
            self.network = reader.text(value, values::network);
            return;
        };
        let driver = |text: &str| if text == "auto" { Ok(None) } else { text.parse().map(Some) };
        for (key, value) in settings {
            match key.get_ref().as_ref() {
                "mode" => self.network = reader.text(value, values::network),
                "driver" => self.network_driver = reader.text(value, driver),
                "pool" => self.network_pool = reader.text(value, str::parse),
                _ => reader.unknown(key, NETWORK_KEYS),
            }
        }
    }

    fn fill_history(&mut self, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) {
        let Some(settings) = value.get_ref().as_table() else {
            return reader.problem("a table is expected: `[history]`", value.span());
        };
        for (key, value) in settings {
            match key.get_ref().as_ref() {
                "keep" => self.history_keep = reader.number(value, values::number),
                "log_max_size" => self.history_log_max_bytes = reader.text(value, bytes),
                _ => reader.unknown(key, HISTORY_KEYS),
            }
        }
    }

    fn fill_cache_mounts(&mut self, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) {
        let Some(settings) = value.get_ref().as_table() else {
            return reader.problem("a table is expected: `[cache_mounts]`", value.span());
        };
        for (key, value) in settings {
            match key.get_ref().as_ref() {
                "max_size" => self.mounts_max_size = reader.text(value, str::parse),
                _ => reader.unknown(key, CACHE_MOUNTS_KEYS),
            }
        }
    }

    fn fill_registries(&mut self, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) {
        let Some(registries) = value.get_ref().as_table() else {
            return reader.problem("a table per registry is expected: `[registry.\"host:port\"]`", value.span());
        };
        for (name, settings) in registries {
            let Some(settings) = settings.get_ref().as_table() else {
                reader.problem("a table per registry is expected: `[registry.\"host:port\"]`", name.span());
                continue;
            };
            if let Err(reason) = registries::name(name.get_ref()) {
                reader.problem(&reason, name.span());
            }
            let registry = self.registries.entry(name.get_ref().to_string()).or_default();
            for (key, value) in settings {
                registry.fill(key, value, reader);
            }
        }
    }
}

/// A size that is no share of anything.
fn bytes(text: &str) -> Result<u64, String> {
    match text.parse()? {
        Size::Bytes(bytes) => Ok(bytes),
        Size::Percent(_) => Err(format!("`{text}` is a share; a size is expected: `128MiB`")),
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(format!("`{text}` is not an absolute path")) }
}

/// Collects what is wrong.
pub(super) struct Reader<'a> {
    path: &'a Path,
    text: Arc<str>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    pub(super) fn text<T>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Setting<T>> {
        self.value(value, "a text in quotes", |value| value.as_str().map(str::to_owned), |text| parse(&text))
    }

    fn texts(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        check: impl FnOnce(Vec<String>) -> Result<Vec<String>, String>,
    ) -> Option<Setting<Vec<String>>> {
        let list = |value: &DeValue<'_>| {
            let texts = value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>()
        };
        self.value(value, "a list of texts in quotes", list, check)
    }

    fn number(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        parse: impl FnOnce(&str) -> Result<usize, String>,
    ) -> Option<Setting<usize>> {
        let digits = |value: &DeValue<'_>| value.as_integer().map(ToString::to_string);
        self.value(value, "a number", digits, |text: String| parse(&text))
    }

    pub(super) fn value<A, T>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        expected: &str,
        take: impl FnOnce(&DeValue<'_>) -> Option<A>,
        parse: impl FnOnce(A) -> Result<T, String>,
    ) -> Option<Setting<T>> {
        let taken = take(value.get_ref()).ok_or_else(|| format!("{expected} is expected"));
        match taken.and_then(parse) {
            Ok(parsed) => {
                let line = 1 + self.text[..value.span().start].matches('\n').count();
                Some(Setting { value: parsed, source: Source::File { path: self.path.to_owned(), line } })
            }
            Err(reason) => {
                self.problem(&reason, value.span());
                None
            }
        }
    }

    pub(super) fn unknown(&mut self, key: &Spanned<std::borrow::Cow<'_, str>>, known: &[&str]) {
        let name = key.get_ref();
        self.problem(&format!("there is no setting `{name}`"), key.span());
        let help = match frontend::nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        if let Some(problem) = self.problems.last_mut() {
            problem.help = Some(help);
        }
    }

    pub(super) fn problem(&mut self, message: &str, span: Range<usize>) {
        let file = self.path.display().to_string();
        let path = Some(self.path.to_owned());
        let snippet = Snippet { file, path, text: Arc::clone(&self.text), span, label: String::new() };
        let message = message.trim_end_matches('.').to_owned();
        self.problems.push(Problem { snippet: Some(snippet), ..Problem::new(message) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Style, failure};

    #[test]
    fn every_documented_key_is_known() {
        let text = "root = '/r'\nprogress = 'tty'\ncolor = 'never'\nlog_lines = 0\njobs = 3\nnetwork = 'none'\nisolation = 'auto'\nuserns = 'auto'\noffline = true\nforeign_layers = true\nunpack_max_size = '1GiB'\nunpack_max_entries = 9\nallow = ['device']\nsecret = ['id=x,env=X']\nssh = []\n\
            max_size = '10%'\nkeep_for = '60d'\nregistry_files = false\nci_credentials = false\n\
            [registry.'localhost:5000']\ninsecure = true\nhttp = false\nca = '/c'\nkeypair = {key = '/k', cert = '/c'}\nlocation = 'x'\nmirrors = ['m']\nblocked = false\n[history]\nkeep = 7\nlog_max_size = '1MiB'\n\
            [cache_mounts]\nmax_size = '5GB'\n\
            [limits]\nmemory = '1g'\nmemory_swap = '-1'\ncpus = '1.5'\ncpu_shares = '2'\npids = '64'\ntimeout = '1h'\n\
            disk = '1GB'\nmin_free = '5%'\n";
        let file = ConfigFile::parse(Path::new("c.toml"), text).expect("all keys are known");
        assert_eq!(file.jobs.map(|jobs| jobs.value), Some(3));
        assert_eq!(file.network.map(|network| network.value), Some(NetworkMode::None));
        assert_eq!(file.history_keep.map(|keep| keep.value), Some(7));
        assert_eq!(file.mounts_max_size.map(|size| size.value), Some(Size::Bytes(5_000_000_000)));
        assert!(
            [KEYS, registries::KEYS, HISTORY_KEYS, CACHE_MOUNTS_KEYS, crate::config::limits::KEYS]
                .concat()
                .iter()
                .all(|key| text.contains(key))
        );
        let text = "[network]\nmode = 'host'\ndriver = 'auto'\npool = '10.200.0.0/20'\n";
        let file = ConfigFile::parse(Path::new("c.toml"), text).expect("all keys are known");
        assert_eq!(file.network.map(|network| network.value), Some(NetworkMode::Host));
        assert_eq!(file.network_driver.map(|driver| driver.value), Some(None));
        assert_eq!(file.network_pool.map(|pool| pool.value.to_string()).as_deref(), Some("10.200.0.0/20"));
        assert!(NETWORK_KEYS.iter().all(|key| text.contains(key)));
        let text = "[userns]\nmode = 'host'\nids = '500000:65536'\n";
        let file = ConfigFile::parse(Path::new("c.toml"), text).expect("all keys are known");
        assert_eq!(file.userns.ids.map(|ids| (ids.value.first, ids.value.count)), Some((500_000, 65_536)));
        assert!(crate::config::userns::KEYS.iter().all(|key| text.contains(key)));
    }

    #[test]
    fn what_is_wrong_with_the_network_or_user_namespaces_is_said() {
        let check = |text: &str, expected: &str| {
            let wrong = ConfigFile::parse(Path::new("c.toml"), text).expect_err("it is wrong");
            assert!(wrong.problems[0].message.contains(expected), "{text}: {wrong:?}");
        };
        check("network = 'bridge'", "`bridge` is none of default, host, none");
        check("[network]\ndriver = 'cni'", "`cni` is none of auto, bridge, pasta, slirp4netns");
        check("[network]\npool = '10.0.0.1/16'", "does not begin at its first address");
        check("[network]\npols = 'x'", "there is no setting `pols`");
        check("userns = 'private'", "`private` is none of auto, host");
        check("[userns]\nids = '5'", "`5` is not a range of ids like");
        check("[userns]\nid = '5'", "there is no setting `id`");
    }

    #[test]
    fn everything_that_is_wrong_is_shown_with_its_line() {
        let text = "rooot = '/r'\njobs = 0\nprogress = 'loud'\nroot = 'rel'\n\
            [registry.'localhost:5000']\ninsecure = 'yes'\nmirror = 'x'\n";
        let wrong = ConfigFile::parse(Path::new("/etc/rbuild/config.toml"), text).expect_err("nearly all is wrong");
        insta::assert_snapshot!(failure(&wrong, Style::default()), @"
        error: there is no setting `rooot`
         --> /etc/rbuild/config.toml:1:1
          |
        1 | rooot = '/r'
          | ^^^^^
        help: did you mean `root`?

        error: `0` is not a number from 1 on
         --> /etc/rbuild/config.toml:2:8
          |
        2 | jobs = 0
          |        ^

        error: `loud` is none of auto, plain, tty, quiet, none, rawjson
         --> /etc/rbuild/config.toml:3:12
          |
        3 | progress = 'loud'
          |            ^^^^^^

        error: `rel` is not an absolute path
         --> /etc/rbuild/config.toml:4:8
          |
        4 | root = 'rel'
          |        ^^^^^

        error: true or false is expected
         --> /etc/rbuild/config.toml:6:12
          |
        6 | insecure = 'yes'
          |            ^^^^^

        error: there is no setting `mirror`
         --> /etc/rbuild/config.toml:7:1
          |
        7 | mirror = 'x'
          | ^^^^^^
        help: did you mean `mirrors`?
        ");
        let wrong = ConfigFile::parse(Path::new("c.toml"), "jobs = = 3\n").expect_err("this is no TOML");
        insta::assert_snapshot!(failure(&wrong, Style::default()), @"
        error: extra `=`, expected nothing
         --> c.toml:1:8
          |
        1 | jobs = = 3
          |        ^
        ");
    }

    #[test]
    fn a_file_that_is_not_there_says_nothing_and_one_that_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(ConfigFile::read(&folder.path().join("none.toml")).is_ok_and(|file| file.root.is_none()));
        let failure = ConfigFile::read(folder.path()).expect_err("a folder is no file");
        assert!(failure.problems[0].message.contains("cannot be read"), "{failure:?}");
    }
}
