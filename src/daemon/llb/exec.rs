//! Exec: a process and all that it may see.
//!
//! Two things are said in other ways. The size of `/dev/shm` is a tmpfs mount there, in front of all others, where no
//! client of another builder has one. And proxies are five values, each of which a process gets in capitals and in small
//! letters. Mount points that a step needed are always removed with the directories that were made for them, whatever
//! `remove_mount_stubs_recursive` says: a layer never shows them.

use api::pb;
use solver::op::{Device, ExecOp, NetworkMode, SecretEnv, SecurityMode};

use super::bounds::{dense, text, texts};
use super::error::Fault;
use super::mount;

/// The address that stands for the builder's machine.
const HOST_GATEWAY: &str = "host-gateway";

/// Reads a process that is no operation of a definition, in a container whose mounts are of so many results.
///
/// # Errors
/// What is wrong with it.
pub fn process(exec: &pb::ExecOp, inputs: usize) -> Result<ExecOp, String> {
    read(exec, inputs).map_err(|fault| fault.to_string())
}

/// Reads one that has so many inputs.
pub(super) fn read(exec: &pb::ExecOp, inputs: usize) -> Result<ExecOp, Fault> {
    let meta = exec.meta.as_ref().ok_or_else(|| Fault::malformed("it has no process"))?;
    if meta.args.is_empty() {
        return Err(Fault::malformed("it has no command"));
    }
    let cwd = text("the working directory", if meta.cwd.is_empty() { "/" } else { &meta.cwd })?;
    if !cwd.starts_with('/') {
        return Err(Fault::malformed(format!("the working directory `{cwd}` is not absolute")));
    }
    let mut mounts = Vec::with_capacity(exec.mounts.len());
    for mount in &exec.mounts {
        mounts.push(mount::read(mount, &cwd, inputs)?);
    }
    let shm_size_bytes = mounts.first().and_then(mount::size_of_shm);
    if shm_size_bytes.is_some() {
        mounts.remove(0);
    }
    dense(mounts.iter().map(|mount| mount.output))?;
    match mounts.iter().filter(|mount| mount.target == "/").count() {
        1 => {}
        0 => return Err(Fault::malformed("no mount has the target `/`")),
        _ => return Err(Fault::malformed("several mounts have the target `/`")),
    }
    Ok(ExecOp {
        args: texts("the command", &meta.args)?,
        env: texts("the environment", &meta.env)?.into(),
        proxy_env: meta.proxy_env.as_ref().map_or(Ok(Vec::new()), proxies)?,
        cwd,
        user: text("the user", &meta.user)?,
        mounts,
        network: match pb::NetMode::try_from(exec.network) {
            Ok(pb::NetMode::Unset) => NetworkMode::Default,
            Ok(pb::NetMode::Host) => NetworkMode::Host,
            Ok(pb::NetMode::None) => NetworkMode::None,
            Err(_) => return Err(Fault::unsupported(format!("the network mode {}", exec.network))),
        },
        security: match pb::SecurityMode::try_from(exec.security) {
            Ok(pb::SecurityMode::Sandbox) => SecurityMode::Sandbox,
            Ok(pb::SecurityMode::Insecure) => SecurityMode::Insecure,
            Err(_) => return Err(Fault::unsupported(format!("the security mode {}", exec.security))),
        },
        secret_env: exec.secretenv.iter().map(secret_env).collect::<Result<_, _>>()?,
        extra_hosts: meta.extra_hosts.iter().map(host).collect::<Result<_, _>>()?,
        hostname: text("the host name", &meta.hostname)?,
        ulimits: meta.ulimit.iter().map(ulimit).collect::<Result<_, _>>()?,
        shm_size_bytes: shm_size_bytes.unwrap_or(0),
        cgroup_parent: text("the control group", &meta.cgroup_parent)?,
        valid_exit_codes: meta.valid_exit_codes.clone(),
        devices: exec.cdi_devices.iter().map(device).collect::<Result<_, _>>()?,
    })
}

fn secret_env(secret: &pb::SecretEnv) -> Result<SecretEnv, Fault> {
    if secret.id.is_empty() {
        return Err(Fault::malformed(format!("the variable `{}` is of no secret", secret.name)));
    }
    let name = text("the name of a variable", &secret.name)?;
    if name.is_empty() || name.contains('=') {
        return Err(Fault::malformed(format!("`{name}` cannot be the name of a variable")));
    }
    Ok(SecretEnv { id: text("the name of a secret", &secret.id)?, name, optional: secret.optional })
}

fn host(host: &pb::HostIp) -> Result<(String, String), Fault> {
    let name = text("the name of a host", &host.host)?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(Fault::malformed(format!("`{}` is no name of a host", name.escape_debug())));
    }
    if host.ip != HOST_GATEWAY && host.ip.parse::<std::net::IpAddr>().is_err() {
        return Err(Fault::malformed(format!("the address `{}` of `{name}` is none", host.ip.escape_debug())));
    }
    Ok((name, host.ip.clone()))
}

fn ulimit(limit: &pb::Ulimit) -> Result<(String, i64, i64), Fault> {
    Ok((text("the name of a limit", &limit.name)?, limit.soft, limit.hard))
}

fn device(device: &pb::CdiDevice) -> Result<Device, Fault> {
    Ok(Device { name: text("the name of a device", &device.name)?, required: !device.optional })
}

/// Names in the order in which a process gets them, with their values.
fn five(proxies: &pb::ProxyEnv) -> [(&'static str, &str); 5] {
    [
        ("HTTP_PROXY", &proxies.http_proxy),
        ("HTTPS_PROXY", &proxies.https_proxy),
        ("FTP_PROXY", &proxies.ftp_proxy),
        ("NO_PROXY", &proxies.no_proxy),
        ("ALL_PROXY", &proxies.all_proxy),
    ]
}

fn proxies(proxies: &pb::ProxyEnv) -> Result<Vec<String>, Fault> {
    let mut lines = Vec::new();
    for (name, value) in five(proxies).into_iter().filter(|(_, value)| !value.is_empty()) {
        let value = text("a proxy", value)?;
        lines.push(format!("{name}={value}"));
        lines.push(format!("{}={value}", name.to_ascii_lowercase()));
    }
    Ok(lines)
}

/// The other way round; an empty value says what its absence says.
fn write_proxies(lines: &[String]) -> Result<Option<pb::ProxyEnv>, Fault> {
    let is_empty = |line: &&String| line.split_once('=').is_none_or(|(_, value)| value.is_empty());
    let given: Vec<&String> = lines.iter().filter(|line| !is_empty(line)).collect();
    let value = |name: &str| {
        let found = given.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default().to_owned()
    };
    let written = pb::ProxyEnv {
        http_proxy: value("HTTP_PROXY"),
        https_proxy: value("HTTPS_PROXY"),
        ftp_proxy: value("FTP_PROXY"),
        no_proxy: value("NO_PROXY"),
        all_proxy: value("ALL_PROXY"),
    };
    if proxies(&written)?.iter().ne(given.iter().copied()) {
        return Err(Fault::unsupported("a proxy that is not the same in capitals and in small letters"));
    }
    Ok((!given.is_empty()).then_some(written))
}

/// Writes one.
pub(super) fn write(exec: &ExecOp) -> Result<pb::ExecOp, Fault> {
    let meta = pb::Meta {
        args: exec.args.clone(),
        env: exec.env.to_vec(),
        cwd: exec.cwd.clone(),
        user: exec.user.clone(),
        proxy_env: write_proxies(&exec.proxy_env)?,
        extra_hosts: exec
            .extra_hosts
            .iter()
            .map(|(host, ip)| pb::HostIp { host: host.clone(), ip: ip.clone() })
            .collect(),
        hostname: exec.hostname.clone(),
        ulimit: exec
            .ulimits
            .iter()
            .map(|(name, soft, hard)| pb::Ulimit { name: name.clone(), soft: *soft, hard: *hard })
            .collect(),
        cgroup_parent: exec.cgroup_parent.clone(),
        remove_mount_stubs_recursive: true,
        valid_exit_codes: exec.valid_exit_codes.clone(),
    };
    let shm = (exec.shm_size_bytes > 0).then(|| mount::of_shm(exec.shm_size_bytes));
    let mounts = shm.as_ref().into_iter().chain(&exec.mounts);
    Ok(pb::ExecOp {
        meta: Some(meta),
        mounts: mounts.map(mount::write).collect::<Result<_, _>>()?,
        network: match exec.network {
            NetworkMode::Default => pb::NetMode::Unset,
            NetworkMode::Host => pb::NetMode::Host,
            NetworkMode::None => pb::NetMode::None,
        } as i32,
        security: match exec.security {
            SecurityMode::Sandbox => pb::SecurityMode::Sandbox,
            SecurityMode::Insecure => pb::SecurityMode::Insecure,
        } as i32,
        secretenv: exec
            .secret_env
            .iter()
            .map(|secret| pb::SecretEnv { id: secret.id.clone(), name: secret.name.clone(), optional: secret.optional })
            .collect(),
        cdi_devices: exec
            .devices
            .iter()
            .map(|device| pb::CdiDevice { name: device.name.clone(), optional: !device.required })
            .collect(),
    })
}
