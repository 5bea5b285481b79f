//! Settings of registries, found: rbuild's own first, then the files of other tools that speak of the same registries.
//!
//! Settings and surroundings come in; an [`oci::hosts::Hosts`] goes out, when an image is first asked for. Sources, the
//! first with the first say: `config.toml`; `buildkitd.toml`; `registries.conf` with its folder of drop-ins;
//! containerd's `hosts.toml`; docker's `daemon.json`; folders `certs.d`. A user's files come before the system's of the
//! same kind, `registries.conf` stands in its place. What others wrote and nobody understands is a warning, never the end
//! of a build. Deliberately absent: what the files mean ([`oci::hosts`]).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci::hosts::{Hosts, Rule, Said, Trust, buildkit, certs_d, daemon_json, hosts_toml, registries_conf};

use crate::config::Config;
use crate::environment::Environment;

/// Where settings of registries are.
#[derive(Clone, Debug, Default)]
pub struct HostSources {
    /// rbuild's own.
    own: Vec<Rule>,
    /// `registries.conf`, the first that is there.
    registries_conf: Vec<PathBuf>,
    /// Its drop-ins; those of a later folder have a later say.
    registries_conf_d: Vec<PathBuf>,
    /// `buildkitd.toml`.
    buildkitd: Vec<PathBuf>,
    /// Folders with `HOST/hosts.toml`.
    hosts_d: Vec<PathBuf>,
    /// `daemon.json`.
    daemon_json: Vec<PathBuf>,
    /// Folders with `HOST/*.crt`.
    certs_d: Vec<PathBuf>,
    /// `--cert-dir`.
    cert_dir: Option<PathBuf>,
    /// `--tls-verify`.
    tls_verify: Option<bool>,
    /// What may be insecure in one place of this command (`registry.insecure=true` of a cache).
    insecure: Vec<String>,
}

impl HostSources {
    /// Those of this user on this machine.
    pub fn new(config: &Config, environment: &Environment) -> Self {
        let own = config.registries.iter().filter_map(|(name, registry)| registry.rule(name)).collect();
        let flags = &config.registry_flags;
        let own = Self { own, cert_dir: flags.cert_dir.clone(), tls_verify: flags.tls_verify, ..Self::default() };
        if !config.registry_files.value {
            return own;
        }
        let home = environment
            .directory("XDG_CONFIG_HOME")
            .or_else(|| environment.directory("HOME").map(|home| home.join(".config")));
        // The user's file, and the system's.
        let both = |user: &str, system: &str| -> Vec<PathBuf> {
            home.iter().map(|home| home.join(user)).chain([PathBuf::from(system)]).collect()
        };
        let named = environment.get("CONTAINERS_REGISTRIES_CONF").map(PathBuf::from);
        let drop_ins = match &named {
            Some(_) => Vec::new(),
            // The user's have the last word.
            None => {
                both("containers/registries.conf.d", "/etc/containers/registries.conf.d").into_iter().rev().collect()
            }
        };
        Self {
            registries_conf: match named {
                Some(path) => vec![path],
                None => both("containers/registries.conf", "/etc/containers/registries.conf"),
            },
            registries_conf_d: drop_ins,
            buildkitd: both("buildkit/buildkitd.toml", "/etc/buildkit/buildkitd.toml"),
            hosts_d: both("containerd/certs.d", "/etc/containerd/certs.d"),
            daemon_json: both("docker/daemon.json", "/etc/docker/daemon.json"),
            certs_d: [
                both("containers/certs.d", "/etc/containers/certs.d"),
                both("docker/certs.d", "/etc/docker/certs.d"),
            ]
            .concat(),
            ..own
        }
    }

    /// The same, and this registry may be insecure.
    pub fn with_insecure(mut self, registry: &str) -> Self {
        self.insecure.push(registry.to_owned());
        self
    }

    /// The same, with this `buildkitd.toml` before all others.
    pub fn with_buildkitd(mut self, path: &Path) -> Self {
        self.buildkitd.insert(0, path.to_owned());
        self
    }

    /// How many rules are rbuild's own.
    pub fn own_count(&self) -> usize {
        self.own.len()
    }

    /// Reads them. The second is where podman would look for names without a registry.
    pub fn read(&self) -> (Hosts, registries_conf::Unqualified) {
        let mut hosts = Hosts::default();
        hosts.add(Said { rules: self.own.clone(), ..Said::default() });
        for path in &self.buildkitd {
            if let Some(text) = read(path, &mut hosts) {
                hosts.add(buildkit::parse(path, &text));
            }
        }
        let unqualified = self.read_registries_conf(&mut hosts);
        for folder in &self.hosts_d {
            let mut said = Said::default();
            for name in entries(folder, &mut hosts) {
                let path = folder.join(&name).join("hosts.toml");
                if let (Some(name), Some(text)) = (name.to_str(), read(&path, &mut hosts)) {
                    let found = hosts_toml::parse(&path, name, &text);
                    said.rules.extend(found.rules);
                    said.warnings.extend(found.warnings);
                }
            }
            hosts.add(said);
        }
        for path in &self.daemon_json {
            if let Some(text) = read(path, &mut hosts) {
                hosts.add(daemon_json::parse(path, &text));
            }
        }
        for folder in &self.certs_d {
            for name in entries(folder, &mut hosts) {
                let directory = folder.join(&name);
                if let Some(name) = name.to_str().filter(|_| directory.is_dir()) {
                    let files = entries(&directory, &mut hosts);
                    hosts.add(certs_d::parse(&directory, name, &files));
                }
            }
        }
        self.add_flags(&mut hosts);
        (hosts, unqualified)
    }

    fn read_registries_conf(&self, hosts: &mut Hosts) -> registries_conf::Unqualified {
        let mut all = registries_conf::RegistriesConf::default();
        for path in &self.registries_conf {
            if let Some(text) = read(path, hosts) {
                all = registries_conf::parse(path, &text);
                break;
            }
        }
        for folder in &self.registries_conf_d {
            for name in entries(folder, hosts) {
                let path = folder.join(&name);
                if path.extension().is_some_and(|extension| extension == "conf")
                    && let Some(text) = read(&path, hosts)
                {
                    all = all.then(registries_conf::parse(&path, &text));
                }
            }
        }
        hosts.add(all.said);
        all.unqualified
    }

    fn add_flags(&self, hosts: &mut Hosts) {
        for registry in &self.insecure {
            hosts.let_be_insecure(registry);
        }
        if let Some(directory) = &self.cert_dir {
            let files = entries(directory, hosts);
            let (trust, warnings) = certs_d::trust(directory, &files);
            if warnings.is_empty() && trust == Trust::default() {
                hosts.warn(format!("`--cert-dir`: there is no certificate in `{}`", directory.display()));
            }
            warnings.into_iter().for_each(|warning| hosts.warn(warning));
            hosts.trust_named(trust);
        }
        if let Some(verify) = self.tls_verify {
            hosts.trust_named(Trust { insecure: Some(!verify), ..Trust::default() });
        }
    }
}

/// The text of a file; one that is not there says nothing.
fn read(path: &Path, hosts: &mut Hosts) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
        Err(error) => {
            hosts.warn(format!("{}: cannot be read: {error}", path.display()));
            None
        }
    }
}

/// The names in a folder, sorted; one that is not there has none.
fn entries(folder: &Path, hosts: &mut Hosts) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| PathBuf::from(entry.file_name()))).collect::<Result<Vec<_>, _>>()
    });
    match listed {
        Ok(mut names) => {
            names.sort();
            names
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Vec::new(),
        Err(error) => {
            hosts.warn(format!("{}: cannot be read: {error}", folder.display()));
            Vec::new()
        }
    }
}
