//! `--config buildkitd.toml`: what of it means something here, and warnings for the rest.
//!
//! Text comes in; settings go out, or what is wrong with the text. Nothing in here decides what counts: rbuild's own
//! flags and files stand before it ([`super::serve`]). Registries are read where those of other tools are
//! ([`crate::hosts`]). Deliberately absent: looking at anything that is named. Next: [`super::gc`].

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use executor::steps::Dns;
use solver::op::NetworkMode;
use toml::{Table, Value};

use super::gc::{self, Space};
use crate::daemon::{Address, tls};
use crate::engine::Failure;

/// What counts.
#[derive(Debug, Default, PartialEq)]
pub struct File {
    /// Where the store is.
    pub root: Option<PathBuf>,
    /// Where to serve.
    pub addresses: Vec<Address>,
    /// Who the daemon is over a network.
    pub tls: tls::Files,
    /// What clients may grant their builds.
    pub entitlements: Vec<String>,
    /// How many RUN steps of a build at once.
    pub jobs: Option<usize>,
    /// What the worker says of itself.
    pub labels: Vec<(String, String)>,
    /// The network of RUN steps.
    pub network: Option<NetworkMode>,
    /// Whom steps ask for addresses.
    pub dns: Dns,
    /// What the store may take.
    pub space: Space,
    /// Where control groups of steps are made.
    pub cgroup_parent: Option<String>,
    /// How many builds the history keeps.
    pub history_keep: Option<usize>,
    /// Whether it speaks of registries.
    pub has_registries: bool,
    /// What means nothing here.
    pub warnings: Vec<String>,
}

/// Reads one.
///
/// # Errors
/// When it cannot be read, or says what it cannot mean.
pub fn read(path: &Path) -> Result<File, Failure> {
    let failed = |reason: String| Failure::new(format!("`--config {}` cannot be used", path.display())).note(reason);
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    understand(&text).map_err(failed)
}

fn understand(text: &str) -> Result<File, String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let mut file = File::default();
    let mut unknown = Vec::new();
    for (key, value) in &table {
        match (key.as_str(), value) {
            ("root", Value::String(root)) => file.root = Some(root.into()),
            ("debug" | "trace", Value::Boolean(_)) => {}
            ("insecure-entitlements", value) => file.entitlements = texts(key, value)?,
            ("grpc", Value::Table(grpc)) => file.grpc(grpc, &mut unknown)?,
            ("dns", Value::Table(dns)) => file.dns = self::dns(dns, &mut unknown)?,
            ("registry", Value::Table(_)) => file.has_registries = true,
            ("history", Value::Table(history)) => {
                for (name, value) in history {
                    match value.as_integer().and_then(|keep| usize::try_from(keep).ok()) {
                        Some(keep) if name.eq_ignore_ascii_case("maxEntries") => file.history_keep = Some(keep),
                        _ => unknown.push(format!("history.{name}")),
                    }
                }
            }
            ("worker", Value::Table(workers)) => {
                for (worker, value) in workers {
                    match value.as_table() {
                        Some(settings) if worker == "oci" => file.worker(settings, &mut unknown)?,
                        // One that is said not to be there is not.
                        Some(settings) if settings.get("enabled") == Some(&Value::Boolean(false)) => {}
                        _ => unknown.push(format!("worker.{worker}")),
                    }
                }
            }
            _ => unknown.push(key.clone()),
        }
    }
    file.warnings = unknown.iter().map(|key| format!("`{key}` of `--config` means nothing here")).collect();
    Ok(file)
}

impl File {
    fn grpc(&mut self, grpc: &Table, unknown: &mut Vec<String>) -> Result<(), String> {
        for (name, value) in grpc {
            match (name.as_str(), value) {
                ("address", value) => {
                    for text in texts("grpc.address", value)? {
                        let address = Address::from_str(&text);
                        self.addresses.push(address.map_err(|error| format!("`grpc.address`: {error}"))?);
                    }
                }
                ("tls", Value::Table(tls)) => {
                    for (name, value) in tls {
                        let part = match name.as_str() {
                            "ca" => &mut self.tls.ca,
                            "cert" => &mut self.tls.cert,
                            "key" => &mut self.tls.key,
                            _ => {
                                unknown.push(format!("grpc.tls.{name}"));
                                continue;
                            }
                        };
                        *part = Some(text(&format!("grpc.tls.{name}"), value)?.into());
                    }
                }
                _ => unknown.push(format!("grpc.{name}")),
            }
        }
        Ok(())
    }

    fn worker(&mut self, settings: &Table, unknown: &mut Vec<String>) -> Result<(), String> {
        for (name, value) in settings {
            match (name.as_str(), value) {
                ("enabled", _) => {}
                ("max-parallelism", Value::Integer(jobs)) => {
                    self.jobs = usize::try_from(*jobs).ok().filter(|jobs| *jobs > 0);
                }
                ("labels", Value::Table(labels)) => {
                    for (name, value) in labels {
                        self.labels.push((name.clone(), text(&format!("worker.oci.labels.{name}"), value)?));
                    }
                }
                ("networkMode", Value::String(mode)) => match mode.as_str() {
                    "host" => self.network = Some(NetworkMode::Host),
                    "none" => self.network = Some(NetworkMode::None),
                    "auto" | "" => {}
                    _ => unknown.push(format!("worker.oci.networkMode = \"{}\"", mode.escape_debug())),
                },
                ("defaultCgroupParent", value) => {
                    let parent = text("worker.oci.defaultCgroupParent", value)?;
                    self.cgroup_parent = Some(parent).filter(|parent| !parent.is_empty());
                }
                _ if gc::is_key(name) => {}
                _ => unknown.push(format!("worker.oci.{name}")),
            }
        }
        self.space = Space::of_worker(settings, unknown)?;
        Ok(())
    }
}

/// Each word becomes one of a line of its own file.
fn dns(table: &Table, unknown: &mut Vec<String>) -> Result<Dns, String> {
    let mut dns = Dns::default();
    let words = |key: &str, value| -> Result<Vec<String>, String> {
        let words = texts(key, value)?;
        match words.iter().find(|word| word.is_empty() || word.chars().any(|c| c.is_whitespace() || c.is_control())) {
            Some(word) => Err(format!("`{key}`: `{}` is not one word", word.escape_debug())),
            None => Ok(words),
        }
    };
    for (name, value) in table {
        match name.as_str() {
            "nameservers" => {
                for word in texts("dns.nameservers", value)? {
                    let address: Result<IpAddr, _> = word.parse();
                    dns.servers.push(
                        address.map_err(|_| format!("`dns.nameservers`: `{}` is no address", word.escape_debug()))?,
                    );
                }
            }
            "searchDomains" => dns.search = words("dns.searchDomains", value)?,
            "options" => dns.options = words("dns.options", value)?,
            _ => unknown.push(format!("dns.{name}")),
        }
    }
    Ok(dns)
}

fn text(key: &str, value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("`{key}` is a text"))
}

/// A list of texts.
///
/// # Errors
/// With the key, for everything else.
pub fn texts(key: &str, value: &Value) -> Result<Vec<String>, String> {
    let wrong = || format!("`{key}` is a list of texts");
    let list = value.as_array().ok_or_else(wrong)?;
    list.iter().map(|text| text.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests {
    use crate::options::size::Size;

    use super::*;

    #[test]
    fn a_buildkitd_toml_counts_as_far_as_it_means_something_here() {
        let text = "root = \"/r\"\ndebug = true\ninsecure-entitlements = [\"network.host\"]\n[log]\nformat = \
                    \"json\"\n[grpc]\naddress = [\"unix:///a.sock\", \"tcp://0.0.0.0:1\"]\nuid = 1\n[grpc.tls]\ncert = \
                    \"/c\"\nkey = \"/k\"\nca = \"/a\"\n[worker.oci]\nmax-parallelism = 3\ngc = true\nsnapshotter = \
                    \"x\"\nmaxUsedSpace = \"3GB\"\nnetworkMode = \"host\"\ndefaultCgroupParent = \
                    \"b.slice\"\n[worker.oci.labels]\na = \"b\"\n[worker.containerd]\nenabled = \
                    false\n[worker.other]\n[history]\nmaxAge = 1\nmaxEntries = 7\n[dns]\nnameservers = [\"1.1.1.1\", \
                    \"::1\"]\noptions = [\"ndots:2\"]\nsearchDomains = [\"a.example\"]\n[registry.\"a.example\"]\nhttp = \
                    true\n";
        let file = understand(text).expect("it is well formed");
        assert_eq!(file.root.as_deref(), Some(Path::new("/r")));
        let addresses = [Address::Unix("/a.sock".into()), Address::Tcp("0.0.0.0:1".into())];
        assert_eq!(file.addresses, addresses);
        let tls = tls::Files { ca: Some("/a".into()), cert: Some("/c".into()), key: Some("/k".into()) };
        assert_eq!(file.tls, tls);
        assert_eq!((file.entitlements, file.jobs), (vec!["network.host".to_owned()], Some(3)));
        assert_eq!(file.labels, [("a".to_owned(), "b".to_owned())]);
        assert_eq!((file.network, file.cgroup_parent.as_deref()), (Some(NetworkMode::Host), Some("b.slice")));
        assert_eq!(file.space.max_size, Some(Size::Bytes(3 << 30)));
        assert_eq!((file.history_keep, file.has_registries), (Some(7), true));
        let dns = Dns {
            servers: ["1.1.1.1", "::1"].map(|address| address.parse().expect("an address")).into(),
            search: vec!["a.example".into()],
            options: vec!["ndots:2".into()],
        };
        assert_eq!(file.dns, dns);
        let warned: Vec<_> = file.warnings.iter().filter_map(|text| text.split('`').nth(1)).collect();
        assert_eq!(warned, ["grpc.uid", "history.maxAge", "log", "worker.oci.snapshotter", "worker.other"]);
    }

    #[test]
    fn what_it_cannot_mean_is_refused_with_its_name() {
        let check = |text: &str, expected: &str| {
            let error = understand(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("root = ", "root");
        check("insecure-entitlements = 1", "`insecure-entitlements` is a list of texts");
        check("[grpc]\naddress = [\"tcp://x\"]", "`grpc.address`: write `tcp://HOST:PORT`");
        check("[dns]\nnameservers = [\"x\"]", "`dns.nameservers`: `x` is no address");
        check("[dns]\nsearchDomains = [\"a\\nnameserver 192.0.2.1\"]", "is not one word");
        check("[worker.oci]\nmaxUsedSpace = \"much\"", "`worker.oci.maxUsedSpace`");
    }
}
