//! `rbuild serve`: what its flags, rbuild's own settings and a buildkitd.toml say becomes a daemon's.
//!
//! A flag counts before everything, and rbuild's own settings before those of a `--config`: who wrote them meant rbuild.

mod buildkitd;
mod gc;

use std::sync::Arc;

use solver::op::NetworkMode;
use solver::seam::{Event, Progress};
use tokio_util::sync::CancellationToken;

use self::gc::Space;
use super::{Hall, interrupt};
use crate::cli::{ServeArgs, StepArgs};
use crate::config::Source;
use crate::daemon::{self, Address, tls};
use crate::engine::{Failure, Settings};
use crate::options;
use crate::report;

/// Serves until somebody stops it.
pub async fn serve(hall: &Hall<'_>, args: &ServeArgs) -> Result<u8, Failure> {
    let file = args.config.as_deref().map(buildkitd::read).transpose()?.unwrap_or_default();
    for text in &file.warnings {
        report::print(&report::note(text, hall.style()));
    }
    let mut settings = hall.settings();
    if let (Some(root), Source::Default) = (&file.root, &hall.config.root.source) {
        settings.root.clone_from(root);
    }
    if let (Some(keep), Source::Default) = (file.history_keep, &hall.config.history_keep.source) {
        settings.history.keep = keep;
    }
    if let (true, Some(path)) = (file.has_registries, &args.config) {
        settings.registries.hosts = settings.registries.hosts.with_buildkitd(path);
    }
    apply(space(args, file.space)?, hall, &mut settings);
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
        _ => hall.config.network.value.or(file.network),
    };
    let mut steps = options::steps::steps(&StepArgs::default(), &hall.config, hall.environment)?;
    steps.dns = file.dns;
    steps.limits.cgroup_parent = file.cgroup_parent;
    let entitlements = [&args.allow_insecure_entitlement[..], &file.entitlements, &hall.config.allow.value].concat();
    let config = daemon::Config {
        settings,
        steps,
        jobs: args.jobs.or(file.jobs).unwrap_or(hall.config.jobs.value),
        network,
        entitlements,
        labels: file.labels.clone().into_iter().chain(labels).collect(),
        environment: hall.environment.clone(),
        identity: tls::Identity::read(&tls::Files {
            ca: args.tlscacert.clone().or(file.tls.ca),
            cert: args.tlscert.clone().or(file.tls.cert),
            key: args.tlskey.clone().or(file.tls.key),
        })?,
    };
    let stop = CancellationToken::new();
    interrupt::listen(stop.clone(), CancellationToken::new(), notices)?;
    daemon::serve(config, &addresses, stop, |shown| {
        report::print(&format!("serving on {}\n", shown.join(", ")));
    })
    .await?;
    Ok(0)
}

/// What is said of space: flags of buildkitd before its file.
fn space(args: &ServeArgs, file: Space) -> Result<Space, Failure> {
    let flags = &args.buildkitd;
    if flags.oci_worker_gc.as_deref() == Some("false") {
        return Ok(Space::UNLIMITED);
    }
    let Some(text) = &flags.oci_worker_gc_keepstorage else { return Ok(file) };
    Space::of_flag(text).map_err(|reason| {
        Failure::new(format!("`--oci-worker-gc-keepstorage={}`: {reason}", text.escape_debug()))
            .help("write RESERVED[,FREE[,MAXIMUM]] in megabytes, like `--oci-worker-gc-keepstorage=10000,20%,50000`")
    })
}

/// Where rbuild's own settings say nothing.
fn apply(space: Space, hall: &Hall<'_>, settings: &mut Settings) {
    let config = &hall.config;
    if let Source::Default = config.max_size.source {
        (settings.max_size, settings.keep_free, settings.at_least) = (space.max_size, space.keep_free, space.at_least);
    }
    if let Source::Default = config.mounts_max_size.source {
        settings.mounts_max_size = space.mounts_max_size;
    }
    if let Source::Default = config.keep_for.source {
        settings.keep_for = space.keep_for;
    }
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
