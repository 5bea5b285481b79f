//! RUN.

use solver::op::{Device, NetworkMode, SecurityMode};

use super::command::{CommandLine, command_line};
use super::device;
use super::flags::{Flags, Takes};
use super::mount::{self, MountSpec};
use crate::ast::Statement;
use crate::error::Diagnostic;
use crate::heredoc::{self, Heredoc};
use crate::span::Word;
use crate::suggest;

/// What RUN says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The command; of a here-document form the line that opens it.
    pub command: CommandLine,
    /// Its here-documents.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order.
    pub mounts: Vec<MountSpec>,
    /// `--network`.
    pub network: NetworkMode,
    /// `--security`.
    pub security: SecurityMode,
    /// `--device`, in order.
    pub devices: Vec<Device>,
}

impl Run {
    /// The here-document when the command is nothing else: its body is the script.
    pub fn script(&self) -> Option<&Heredoc> {
        match (&self.command, &self.heredocs[..]) {
            (CommandLine::Shell(text), [only]) if heredoc::opening(&text.text).is_some() => Some(only),
            _ => None,
        }
    }
}

/// Reads RUN.
pub fn read(statement: &Statement, found: &mut Vec<Diagnostic>) -> Option<Run> {
    let known = [("mount", Takes::List), ("network", Takes::Text), ("security", Takes::Text), ("device", Takes::List)];
    let flags = Flags::check(statement, &known, found)?;
    let before = found.len();
    let command = command_line(statement, found)?;
    let empty = match &command {
        CommandLine::Shell(text) => text.text.is_empty(),
        CommandLine::Exec(words) => words.is_empty(),
    };
    if empty {
        found.push(
            Diagnostic::error(statement.arguments_span(), "RUN needs a command", "nothing to run")
                .help("write `RUN command` or `RUN [\"executable\", \"argument\"]`"),
        );
    }
    let mounts = flags.all("mount").filter_map(|flag| mount::read(flag, found)).collect();
    let network = match flags.text("network") {
        None => NetworkMode::Default,
        Some(word) => match word.text.as_str() {
            "default" => NetworkMode::Default,
            "none" => NetworkMode::None,
            "host" => NetworkMode::Host,
            _ => {
                found.push(unknown("network", &word, &["default", "none", "host"]));
                NetworkMode::Default
            }
        },
    };
    let security = match flags.text("security") {
        None => SecurityMode::Sandbox,
        Some(word) => match word.text.as_str() {
            "sandbox" => SecurityMode::Sandbox,
            "insecure" => SecurityMode::Insecure,
            _ => {
                found.push(unknown("security", &word, &["sandbox", "insecure"]));
                SecurityMode::Sandbox
            }
        },
    };
    let devices = flags.list("device").filter_map(|word| device::read(word, found)).collect();
    (found.len() == before).then(|| Run {
        command,
        heredocs: statement.heredocs.clone(),
        mounts,
        network,
        security,
        devices,
    })
}

fn unknown(flag: &str, word: &Word, known: &[&str]) -> Diagnostic {
    let list: Vec<String> = known.iter().map(|known| format!("`{known}`")).collect();
    let help = suggest::did_you_mean(&word.text, known.iter().copied());
    Diagnostic::error(word.span, format!("`{}` is no value of `--{flag}`", word.text), "")
        .help(help.unwrap_or_else(|| format!("write one of {}", list.join(", "))))
}
