//! Flags about registries, and the verbs that log in and out.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};
use oci::model::Reference;

use super::format::Format;
use super::values;

/// How the registries of this one command are met.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Registries")]
pub struct RegistryArgs {
    /// Take credentials from this file, and from no other [env: REGISTRY_AUTH_FILE]
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Trust the registries that are named here with the certificates of this folder too: *.crt are authorities,
    /// NAME.cert and NAME.key are the client's
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// With false, the registries that are named here may show any certificate, or speak plain HTTP; no other host may
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        hide_possible_values = true)]
    pub tls_verify: Option<bool>,
}

/// Flags of `rbuild login`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rbuild login r.example                                 ask for name and password
  echo \"$TOKEN\" | rbuild login -u me --password-stdin ghcr.io
  rbuild login --get-login r.example                     who is logged in there?")]
pub struct LoginArgs {
    /// The registry, perhaps with the beginning of a repository [default: docker.io]
    #[arg(value_name = "REGISTRY")]
    pub registry: Option<String>,
    /// The user's name [default: it is asked for]
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// The password; everybody who may list processes sees it there, so rather use --password-stdin
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Print who is logged in, and change nothing
    #[arg(long, conflicts_with_all = ["username", "password", "password_stdin"])]
    pub get_login: bool,
    /// How the registry is met.
    #[command(flatten)]
    pub meeting: RegistryArgs,
}

/// Flags of `rbuild logout`.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// The registry, perhaps with the beginning of a repository [default: docker.io]
    #[arg(value_name = "REGISTRY", conflicts_with = "all")]
    pub registry: Option<String>,
    /// Forget all credentials of all registries
    #[arg(short, long)]
    pub all: bool,
    /// Forget what this file has, and leave all others alone [env: REGISTRY_AUTH_FILE]
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
}

/// Flags of `rbuild auth`.
#[derive(Debug, Args)]
pub struct AuthArgs {
    /// What is asked.
    #[command(subcommand)]
    pub verb: AuthVerb,
}

/// What `rbuild auth` tells.
#[derive(Debug, Subcommand)]
pub enum AuthVerb {
    /// Say where an image would be asked for, with whose credentials, and which file says so; nothing is sent
    Why(AuthWhyArgs),
}

/// Flags of `rbuild auth why`.
#[derive(Debug, Args)]
pub struct AuthWhyArgs {
    /// The image
    #[arg(value_name = "IMAGE", value_parser = values::image)]
    pub image: Reference,
    /// How it is printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
    /// How the registry is met.
    #[command(flatten)]
    pub meeting: RegistryArgs,
}

/// `--creds` of a build.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Registries")]
pub struct CredsArgs {
    /// Use these credentials for the registry that is pushed to, and for no other; everybody who may list processes sees
    /// them there, so rather use `rbuild login`
    #[arg(long, value_name = "USER:PASSWORD", action = ArgAction::Set)]
    pub creds: Option<String>,
}
