//! Two parsers that are not ours, on every golden case that each can read: they must see the same file.
//!
//! What they do not know is left out by name, with the reason beside it.

use std::path::Path;

use dockerfile_parser as old;
use parse_dockerfile as other;
use rbuild_frontend::instr::{CommandLine, Instruction, Kind, Source};
use rbuild_frontend::read;

/// The golden cases that this crate reads without an error: name and text.
fn cases() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/dockerfiles");
    let mut cases: Vec<(String, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("plan.txt").exists())
        .map(|entry| {
            let text = std::fs::read_to_string(entry.path().join("Dockerfile")).unwrap();
            (entry.file_name().into_string().unwrap(), text)
        })
        .collect();
    cases.sort();
    cases
}

/// Our reading, in a neutral form: one line for each instruction that both sides can be asked about.
fn ours(text: &str) -> Vec<String> {
    let (file, found) = read(text);
    assert!(found.iter().all(|fault| fault.severity == rbuild_frontend::Severity::Warning), "{found:?}");
    let mut lines = Vec::new();
    for stage in &file.stages {
        let name = stage.from.name.as_ref().map(|name| name.text.clone());
        lines.push(from(&stage.from.base.text, name.as_deref()));
        lines.extend(stage.commands.iter().filter_map(ours_command));
    }
    lines
}

fn ours_command(command: &Instruction) -> Option<String> {
    Some(match &command.kind {
        Kind::Run(run) if run.heredocs.is_empty() => command_line("RUN", &run.command),
        Kind::Cmd(command) => command_line("CMD", command),
        Kind::Entrypoint(command) => command_line("ENTRYPOINT", command),
        Kind::Copy(copy) => {
            let sources = copy.sources.iter().map(|source| match source {
                Source::Path(path) => path.text.clone(),
                Source::Inline(heredoc) => format!("<<{:?}", heredoc.content()),
            });
            let keyword = if copy.is_add { "ADD" } else { "COPY" };
            format!("{keyword} {:?} to {}", sources.collect::<Vec<_>>(), copy.dest.text)
        }
        _ => return None,
    })
}

fn command_line(keyword: &str, command: &CommandLine) -> String {
    match command {
        CommandLine::Exec(words) => exec(keyword, words.iter().map(|word| word.text.as_str())),
        CommandLine::Shell(text) => shell(keyword, &text.text),
    }
}

fn from(image: &str, name: Option<&str>) -> String {
    format!("FROM {image} AS {}", name.unwrap_or_default().to_lowercase())
}

fn exec<'a>(keyword: &str, words: impl Iterator<Item = &'a str>) -> String {
    format!("{keyword} {:?}", words.collect::<Vec<_>>())
}

/// Shell text without its blanks: parsers differ in how they join lines, not in what is there.
fn shell(keyword: &str, text: &str) -> String {
    format!("{keyword} {}", text.split_whitespace().collect::<String>())
}

#[test]
fn parse_dockerfile_sees_the_same() {
    let known_differences = [
        // Its shell text keeps comments between continuations, and an escaped escape character at the end of a line
        // continues the line.
        "lines",
    ];
    let mut compared = 0;
    for (name, text) in cases() {
        let Ok(theirs) = other::parse(&text) else { continue };
        let lines: Vec<String> = theirs.instructions.iter().filter_map(other_command).collect();
        if known_differences.contains(&name.as_str()) {
            assert_ne!(lines, ours(&text), "{name} is no difference any more");
            continue;
        }
        assert_eq!(lines, ours(&text), "{name}");
        compared += 1;
    }
    assert!(compared >= 45, "only {compared} cases were compared");
}

fn other_command(instruction: &other::Instruction<'_>) -> Option<String> {
    let command = |keyword: &str, command: &other::Command<'_>| match command {
        other::Command::Exec(words) => exec(keyword, words.value.iter().map(|word| word.value.as_ref())),
        other::Command::Shell(text) => {
            // Continuations are still inside.
            let joined: String =
                text.value.split('\n').map(|line| line.trim_end().trim_end_matches(['\\', '`'])).collect();
            shell(keyword, &joined)
        }
        other => panic!("a new form of command: {other:?}"),
    };
    let copy = |keyword: &str, sources: &[other::Source<'_>], dest: &str| {
        let sources = sources.iter().map(|source| match source {
            other::Source::Path(path) => path.value.to_string(),
            other::Source::HereDoc(heredoc) => format!("<<{:?}", heredoc.value),
            source => panic!("a new form of source: {source:?}"),
        });
        format!("{keyword} {:?} to {dest}", sources.collect::<Vec<_>>())
    };
    Some(match instruction {
        other::Instruction::From(line) => {
            from(&line.image.value, line.as_.as_ref().map(|(_, name)| name.value.as_ref()))
        }
        other::Instruction::Run(run) if run.here_docs.is_empty() => command("RUN", &run.arguments),
        other::Instruction::Cmd(cmd) => command("CMD", &cmd.arguments),
        other::Instruction::Entrypoint(entrypoint) => command("ENTRYPOINT", &entrypoint.arguments),
        other::Instruction::Copy(line) => copy("COPY", &line.src, &line.dest.value),
        other::Instruction::Add(line) => copy("ADD", &line.src, &line.dest.value),
        _ => return None,
    })
}

#[test]
fn dockerfile_parser_sees_the_same() {
    let mut compared = 0;
    for (name, text) in cases() {
        // It predates here-documents, flags of RUN and without a value, the JSON form of COPY, and directives.
        let beyond = ["<<", "RUN --", "--link", "COPY [", "# escape", "\u{feff}"];
        // And it forgives a comma at the end of a list, which other builders do not.
        if name == "json-lookalike" || beyond.iter().any(|word| text.contains(word)) {
            continue;
        }
        let Ok(theirs) = old::Dockerfile::parse(&text) else { continue };
        let theirs: Vec<String> = theirs.instructions.iter().filter_map(old_command).collect();
        // It has no ADD.
        let ours: Vec<String> = ours(&text).into_iter().filter(|line| !line.starts_with("ADD")).collect();
        assert_eq!(theirs, ours, "{name}");
        compared += 1;
    }
    assert!(compared >= 30, "only {compared} cases were compared");
}

fn old_command(instruction: &old::Instruction) -> Option<String> {
    let command = |keyword: &str, command: &old::ShellOrExecExpr| match command {
        old::ShellOrExecExpr::Exec(words) => exec(keyword, words.as_str_vec().into_iter()),
        old::ShellOrExecExpr::Shell(text) => shell(keyword, &text.to_string()),
    };
    Some(match instruction {
        old::Instruction::From(line) => {
            from(&line.image.content, line.alias.as_ref().map(|alias| alias.content.as_str()))
        }
        old::Instruction::Run(run) => command("RUN", &run.expr),
        old::Instruction::Cmd(cmd) => command("CMD", &cmd.expr),
        old::Instruction::Entrypoint(entrypoint) => command("ENTRYPOINT", &entrypoint.expr),
        old::Instruction::Copy(line) => {
            let sources: Vec<&str> = line.sources.iter().map(|source| source.content.as_str()).collect();
            format!("COPY {sources:?} to {}", line.destination.content)
        }
        _ => return None,
    })
}
