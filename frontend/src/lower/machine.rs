//! For which machine a step is, as its name says it: `[linux/arm64 build 2/4]`, `[linux/amd64->arm64 build 2/4]`.
//!
//! It is said where it is news: when the stage is for another machine than the one that builds, or its variables say
//! that it makes something for another one, or several machines are built for at once.

use std::collections::BTreeMap;

use oci::model::Platform;

use super::env::Env;
use crate::error::Diagnostic;
use crate::plan::PlanOptions;

/// The build arg that says that several machines are built for, even if it is one now.
const MULTI_PLATFORM: &str = "BUILDKIT_MULTI_PLATFORM";

/// Whether every step says its machine.
///
/// # Errors
/// When the build arg is neither true nor false.
pub fn always(options: &PlanOptions) -> Result<bool, Diagnostic> {
    Ok(is_multi_platform(&options.build_args)? || options.several_platforms)
}

/// Whether the build arg `BUILDKIT_MULTI_PLATFORM` says that several machines are built for, even if it is one now.
///
/// # Errors
/// When it is neither true nor false.
pub fn is_multi_platform(build_args: &BTreeMap<String, String>) -> Result<bool, Diagnostic> {
    match build_args.get(MULTI_PLATFORM).map(String::as_str) {
        None | Some("" | "0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some(_) => Err(Diagnostic::general(format!("the build arg `{MULTI_PLATFORM}` is neither true nor false"))
            .help(format!("write `--build-arg {MULTI_PLATFORM}=1`"))),
    }
}

/// What stands in front of a stage's name: a machine and a blank, or nothing.
pub fn prefix(stage: &Platform, build: &Platform, always: bool, variables: &Env) -> String {
    let arrow = target(stage, variables).map(|target| arrow(stage, &target)).unwrap_or_default();
    if always || !arrow.is_empty() || stage != build { format!("{stage}{arrow} ") } else { String::new() }
}

/// The machine that the variables of a stage name.
fn target(stage: &Platform, variables: &Env) -> Option<Platform> {
    if let Some(platform) = variables.get("TARGETPLATFORM").and_then(|text| text.parse().ok()) {
        return Some(platform);
    }
    let (os, architecture) = (variables.get("TARGETOS"), variables.get("TARGETARCH"));
    let variant = variables.get("TARGETVARIANT");
    if os.is_none() && architecture.is_none() && variant.is_none() {
        return None;
    }
    let or = |value: Option<&str>, other: &str| value.filter(|v| !v.is_empty()).unwrap_or(other).to_owned();
    let (os, architecture) = (or(os, &stage.os), or(architecture, &stage.architecture));
    Some(Platform::normalised(&os, &architecture, variant.unwrap_or_default()))
}

fn arrow(stage: &Platform, target: &Platform) -> String {
    if target.os != stage.os {
        return format!("->{target}");
    }
    if target.architecture == stage.architecture {
        return String::new();
    }
    let variant = if target.variant.is_empty() { String::new() } else { format!("/{}", target.variant) };
    format!("->{}{variant}", target.architecture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_said_where_it_is_news() {
        let check = |stage: &str, always: bool, variables: &[&str], expected: &str| {
            let lines: Vec<String> = variables.iter().map(|line| (*line).to_owned()).collect();
            let found =
                prefix(&stage.parse().unwrap(), &"linux/amd64".parse().unwrap(), always, &Env::from_lines(&lines));
            assert_eq!(found, expected, "{stage} {variables:?}");
        };
        check("linux/amd64", false, &[], "");
        check("linux/amd64", true, &[], "linux/amd64 ");
        check("linux/arm64", false, &[], "linux/arm64 ");
        check("linux/arm/v7", false, &[], "linux/arm/v7 ");
        check("linux/amd64", false, &["TARGETPLATFORM=linux/amd64"], "");
        check("linux/amd64", false, &["TARGETPLATFORM=linux/arm64"], "linux/amd64->arm64 ");
        check("linux/amd64", false, &["TARGETARCH=arm64"], "linux/amd64->arm64 ");
        check("linux/amd64", false, &["TARGETARCH=arm", "TARGETVARIANT=v6"], "linux/amd64->arm/v6 ");
        check("linux/amd64", false, &["TARGETOS=windows"], "linux/amd64->windows/amd64 ");
        check("linux/arm64", false, &["TARGETARCH=arm64"], "linux/arm64 ");
        check("linux/amd64", false, &["TARGETARCH="], "");
        check("linux/amd64", false, &["TARGETPLATFORM=?"], "");
        check("linux/amd64", true, &["TARGETOS=linux"], "linux/amd64 ");
    }
}
