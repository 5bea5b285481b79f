//! Variables that FROM lines see: those that rbuild sets, and the ARGs before the first FROM.

use std::collections::BTreeMap;

use super::env::Env;
use crate::error::Diagnostic;
use crate::expand::{Budget, Rules, expand};
use crate::plan::PlanOptions;
use crate::stage::Dockerfile;
use crate::suggest;

/// What PATH is when the base image has none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Proxy variables: usable without ARG, in no key and no history. Their names are matched in any case.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// The names of platform ARGs; a stage sees them once it declares them.
pub const PLATFORM_ARGS: [&str; 11] = [
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
];

/// The global variables. Faults of ARG lines go to `found`.
pub fn globals(
    file: &Dockerfile,
    options: &PlanOptions,
    target: usize,
    budget: &Budget,
    found: &mut Vec<Diagnostic>,
) -> Env {
    let stage = match (&options.target, file.stages.get(target).and_then(|stage| stage.from.name.as_ref())) {
        (Some(name), _) => name.as_str(),
        (None, Some(name)) => name.text.as_str(),
        (None, None) => "default",
    };
    let (build, target) = (&options.build_platform, &options.platform);
    let values: [&str; 11] = [
        &build.to_string(),
        &build.os,
        &build.os_version,
        &build.architecture,
        &build.variant,
        &target.to_string(),
        &target.os,
        &target.os_version,
        &target.architecture,
        &target.variant,
        stage,
    ];
    let mut env = Env::default();
    for (name, value) in PLATFORM_ARGS.into_iter().zip(values) {
        env.set(name, options.build_args.get(name).map_or(value, String::as_str));
    }
    for arg in &file.global_args {
        let name = &arg.name.text;
        if let Some(value) = options.build_args.get(name) {
            env.set(name, value);
        } else if let Some(word) = &arg.value {
            match expand(&word.text, Rules::ordinary(file.escape), &env, budget) {
                Ok(expansion) => env.set(name, &expansion.text),
                Err(error) => found.push(super::unexpandable(word, &error)),
            }
        }
    }
    env
}

/// The proxy variables of the build args, each in capitals and in small letters.
pub fn proxy_env(build_args: &BTreeMap<String, String>) -> Vec<String> {
    let mut lines = Vec::new();
    for proxy in PROXIES {
        // Capitals sort first, so of `http_proxy` and `HTTP_PROXY` the small one wins, as with other builders.
        if let Some((_, value)) = build_args.iter().rfind(|(name, _)| name.eq_ignore_ascii_case(proxy)) {
            lines.push(format!("{proxy}={value}"));
            lines.push(format!("{}={value}", proxy.to_ascii_lowercase()));
        }
    }
    lines
}

/// Warnings for build args that nothing in the file declares.
pub fn unused_build_args(file: &Dockerfile, options: &PlanOptions) -> Vec<Diagnostic> {
    let declared: std::collections::HashSet<&str> = file.declared_args().collect();
    let known = |name: &str| {
        declared.contains(name)
            || PLATFORM_ARGS.contains(&name)
            || PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
            || name.starts_with("BUILDKIT_")
            || name == "SOURCE_DATE_EPOCH"
    };
    options
        .build_args
        .keys()
        .filter(|name| !known(name))
        .map(|name| {
            let mut names: Vec<&str> = declared.iter().copied().collect();
            names.sort_unstable();
            let help = suggest::did_you_mean(name, names)
                .unwrap_or_else(|| format!("declare it with `ARG {name}` in the stage that uses it"));
            Diagnostic {
                severity: crate::error::Severity::Warning,
                ..Diagnostic::general(format!("the build arg `{name}` is not used")).help(help)
            }
        })
        .collect()
}
