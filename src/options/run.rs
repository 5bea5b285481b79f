//! From flags and surroundings to [`RunOptions`].

use std::net::IpAddr;
use std::path::PathBuf;

use super::{Publish, RunOptions, Volume, args, provisions, steps};
use crate::cli::RunArgs;
use crate::config::Config;
use crate::engine::Failure;
use crate::environment::Environment;

/// What `rbuild run` is asked to do.
///
/// # Errors
/// With advice, for what has no meaning here.
pub fn run(args: &RunArgs, config: &Config, environment: &Environment) -> Result<RunOptions, Failure> {
    let mut env = Vec::new();
    for text in &args.env {
        match text.split_once('=') {
            Some(("", _)) => return Err(Failure::new(format!("`-e {text}` has no name")).help("write `-e NAME=VALUE`")),
            Some(_) => env.push(text.clone()),
            None => env.extend(args::bare(text, environment)?.map(|value| format!("{text}={value}"))),
        }
    }
    Ok(RunOptions {
        image: args.image.clone(),
        command: args.command.clone(),
        entrypoint: args.entrypoint.clone(),
        env,
        volumes: args.volumes.iter().map(|text| volume(text, environment)).collect::<Result<_, _>>()?,
        workdir: args.workdir.clone(),
        user: args.user.clone(),
        interactive: args.interactive,
        tty: args.tty,
        network: args.steps.network,
        steps: steps::steps(&args.steps, config, environment)?,
        provisions: provisions::provisions(&args.steps)?,
        publish: args.publish.iter().map(|text| publish(text)).collect::<Result<_, _>>()?,
    })
}

fn volume(text: &str, environment: &Environment) -> Result<Volume, Failure> {
    let wrong = |reason: &str| Failure::new(format!("`-v {text}`: {reason}")).help("write `-v SOURCE:TARGET[:ro]`");
    let (source, target, options) = match text.split(':').collect::<Vec<_>>()[..] {
        [source, target] => (source, target, "rw"),
        [source, target, options] => (source, target, options),
        _ => return Err(wrong("a source and a target are expected")),
    };
    let path = PathBuf::from(source);
    // As in docker: a word without a slash names a volume, a path begins with `/` or `.`.
    if !path.is_absolute() && !source.starts_with('.') {
        return Err(wrong("named volumes are not supported by this version of rbuild; a path begins with `/` or `.`"));
    }
    if !target.starts_with('/') {
        return Err(wrong("the target is not an absolute path"));
    }
    let readonly = match options {
        "ro" => true,
        "rw" => false,
        _ => return Err(wrong("the only options are `ro` and `rw`")),
    };
    Ok(Volume { source: environment.working_directory.join(path), target: target.to_owned(), readonly })
}

fn publish(text: &str) -> Result<Publish, Failure> {
    let wrong = |reason: &str| Failure::new(format!("`-p {text}`: {reason}")).help("write `-p [ADDRESS:]PORT:PORT`");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp") {
        return Err(wrong("the protocol is neither `tcp` nor `udp`"));
    }
    let (host, container) = ports.rsplit_once(':').ok_or_else(|| wrong("two ports are expected"))?;
    let (address, host) = match host.rsplit_once(':') {
        Some((address, port)) => (Some(address), port),
        None => (None, host),
    };
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 && !text.starts_with('+') => Ok(port),
        _ => Err(wrong(&format!("`{text}` is not a port"))),
    };
    let address = address
        .map(|address| address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>())
        .transpose()
        .map_err(|_| wrong("the address is not an IP address"))?;
    let (host_port, container_port) = (port(host)?, port(container)?);
    Ok(Publish { address, host_port, container_port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Environment {
        Environment { working_directory: "/here".into(), ..Environment::default() }
    }

    #[test]
    fn volumes_are_paths() {
        let check = |text: &str, source: &str, target: &str, readonly: bool| {
            let expected = Volume { source: source.into(), target: target.into(), readonly };
            assert_eq!(volume(text, &here()).expect(text), expected, "{text}");
        };
        check("/a:/b", "/a", "/b", false);
        check("/a:/b:ro", "/a", "/b", true);
        check("./a:/b:rw", "/here/./a", "/b", false);
        let refuse = |text: &str, expected: &str| {
            let failure = volume(text, &here()).expect_err(text);
            assert!(failure.problems[0].message.contains(expected), "{failure:?}");
        };
        refuse("/a", "a source and a target");
        refuse("data:/b", "named volumes");
        refuse("/a:b", "not an absolute path");
        refuse("/a:/b:z", "only options");
    }

    #[test]
    fn ports_are_numbers() {
        let check = |text: &str, address: Option<&str>, host_port: u16, container_port: u16| {
            let address = address.map(|address| address.parse().expect("an address"));
            assert_eq!(publish(text).expect(text), Publish { address, host_port, container_port }, "{text}");
        };
        check("80:80", None, 80, 80);
        check("8080:80/tcp", None, 8080, 80);
        check("127.0.0.1:80:80", Some("127.0.0.1"), 80, 80);
        check("[::1]:80:80/udp", Some("::1"), 80, 80);
        for text in ["80", "0:80", "80:99999", "80:+80", "x:80:80", "80:80/sctp", "-1:80"] {
            assert!(publish(text).is_err(), "{text}");
        }
    }
}
