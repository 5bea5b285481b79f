//! `rbuild serve`.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;

use solver::op::NetworkMode;
use solver::seam::{Event, Progress};
use tokio_util::sync::CancellationToken;

use super::{Hall, interrupt};
use crate::cli::{ServeArgs, StepArgs};
use crate::daemon::{self, Address};
use crate::engine::Failure;
use crate::options;
use crate::report;

/// Serves until somebody stops it.
pub async fn serve(hall: &Hall<'_>, args: &ServeArgs) -> Result<u8, Failure> {
    let file = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
    for text in &file.warnings {
        report::print(&report::note(text, hall.style()));
    }
    let mut settings = hall.settings();
    if let (Some(root), crate::config::Source::Default) = (&file.root, &hall.config.root.source) {
        settings.root.clone_from(root);
    }
    // A store that cannot be used is told now, not to the first client.
    let notices: Arc<dyn Progress> = Arc::new(ToStderr);
    settings.open_store(&notices)?;
    let mut addresses = args.addresses.clone();
    if addresses.is_empty() {
        addresses = file.addresses.clone();
    }
    if addresses.is_empty() {
        addresses.push(usual(hall)?);
    }
    let labels = args.buildkitd.oci_worker_labels.iter().map(|text| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    });
    let network = match args.buildkitd.oci_worker_net.as_deref() {
        Some("host") => Some(NetworkMode::Host),
        _ => hall.config.network.value,
    };
    let entitlements = [&args.allow_insecure_entitlement[..], &file.entitlements, &hall.config.allow.value].concat();
    let config = daemon::Config {
        settings,
        steps: options::steps::steps(&StepArgs::default(), &hall.config, hall.environment)?,
        jobs: args.jobs.or(file.jobs).unwrap_or(hall.config.jobs.value),
        network,
        entitlements,
        labels: file.labels.clone().into_iter().chain(labels).collect(),
        environment: hall.environment.clone(),
    };
    let stop = CancellationToken::new();
    interrupt::listen(stop.clone(), CancellationToken::new(), notices)?;
    daemon::serve(config, &addresses, stop, |shown| {
        report::print(&format!("serving on {}\n", shown.join(", ")));
    })
    .await?;
    Ok(0)
}

/// The socket that nobody has to name.
fn usual(hall: &Hall<'_>) -> Result<Address, Failure> {
    if hall.environment.root_user {
        return Ok(Address::Unix("/run/rbuild.sock".into()));
    }
    let dir = hall.environment.directory("XDG_RUNTIME_DIR").ok_or_else(|| {
        Failure::new("there is no usual place for a socket: `XDG_RUNTIME_DIR` is not set")
            .help("name one with `--addr unix:///PATH`")
    })?;
    Ok(Address::Unix(dir.join("rbuild.sock")))
}

/// What is of nobody's build.
struct ToStderr;

impl Progress for ToStderr {
    fn event(&self, event: Event) {
        if let Event::Notice { text, .. } = event {
            report::print(&format!("{}\n", crate::escape::line(&text)));
        }
    }
}

/// What counts of a buildkitd.toml.
#[derive(Debug, Default, PartialEq)]
struct File {
    root: Option<PathBuf>,
    addresses: Vec<Address>,
    entitlements: Vec<String>,
    jobs: Option<usize>,
    labels: Vec<(String, String)>,
    warnings: Vec<String>,
}

fn read(path: &Path) -> Result<File, Failure> {
    let failed = |reason: String| Failure::new(format!("`--config {}` cannot be used", path.display())).note(reason);
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    understand(&text).map_err(failed)
}

fn understand(text: &str) -> Result<File, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let mut file = File::default();
    let mut unknown = Vec::new();
    for (key, value) in &table {
        match (key.as_str(), value) {
            ("root", toml::Value::String(root)) => file.root = Some(root.into()),
            ("debug" | "trace", toml::Value::Boolean(_)) => {}
            ("insecure-entitlements", value) => file.entitlements = texts(key, value)?,
            ("grpc", toml::Value::Table(grpc)) => {
                for (name, value) in grpc {
                    match name.as_str() {
                        "address" => {
                            for text in texts("grpc.address", value)? {
                                let address = Address::from_str(&text);
                                file.addresses.push(address.map_err(|error| format!("`grpc.address`: {error}"))?);
                            }
                        }
                        _ => unknown.push(format!("grpc.{name}")),
                    }
                }
            }
            ("worker", toml::Value::Table(workers)) => {
                for (worker, value) in workers {
                    let Some(settings) = value.as_table().filter(|_| worker == "oci") else {
                        unknown.push(format!("worker.{worker}"));
                        continue;
                    };
                    for (name, value) in settings {
                        match (name.as_str(), value) {
                            ("enabled", _) => {}
                            ("max-parallelism", toml::Value::Integer(jobs)) => {
                                file.jobs = usize::try_from(*jobs).ok().filter(|jobs| *jobs > 0);
                            }
                            ("labels", toml::Value::Table(labels)) => {
                                for (name, value) in labels {
                                    let value = value.as_str().ok_or("`worker.oci.labels` holds texts")?;
                                    file.labels.push((name.clone(), value.to_owned()));
                                }
                            }
                            _ => unknown.push(format!("worker.oci.{name}")),
                        }
                    }
                }
            }
            _ => unknown.push(key.clone()),
        }
    }
    file.warnings = unknown.iter().map(|key| format!("`{key}` of `--config` means nothing here")).collect();
    Ok(file)
}

fn texts(key: &str, value: &toml::Value) -> Result<Vec<String>, String> {
    let wrong = || format!("`{key}` is a list of texts");
    let list = value.as_array().ok_or_else(wrong)?;
    list.iter().map(|text| text.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buildkitd_toml_counts_as_far_as_it_means_something_here() {
        let text = "root = \"/r\"\ndebug = true\ninsecure-entitlements = [\"network.host\"]\n[grpc]\naddress = \
                    [\"unix:///a.sock\"]\nuid = 1\n[worker.oci]\nmax-parallelism = 3\ngc = true\n[worker.oci.labels]\n\
                    a = \"b\"\n[worker.containerd]\nenabled = false\n[history]\nmaxAge = 1\n";
        let file = understand(text).expect("it is well formed");
        assert_eq!(file.root.as_deref(), Some(Path::new("/r")));
        assert_eq!(file.addresses, [Address::Unix("/a.sock".into())]);
        assert_eq!((file.entitlements, file.jobs), (vec!["network.host".to_owned()], Some(3)));
        assert_eq!(file.labels, [("a".to_owned(), "b".to_owned())]);
        let warned = file.warnings.join("\n");
        for key in ["grpc.uid", "worker.oci.gc", "worker.containerd", "history"] {
            assert!(warned.contains(&format!("`{key}`")), "{key}: {warned}");
        }
        for wrong in ["root = ", "insecure-entitlements = 1", "[grpc]\naddress = [\"tcp://x\"]"] {
            assert!(understand(wrong).is_err(), "{wrong}");
        }
    }
}
