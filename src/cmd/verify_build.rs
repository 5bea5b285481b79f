//! `rbuild verify-build`: whether a build gives the same image twice, and why not.

use std::fmt::Write as _;
use std::path::Path;

use super::Hall;
use crate::cli::{Format, VerifyBuildArgs};
use crate::engine::Failure;
use crate::engine::verify_build::{
    Against, Change, EntryDifference, Epoch, Field, LayerDifference, Verified, VerifyOptions, verify_build,
};
use crate::escape;
use crate::options;
use crate::report;

/// Both builds went well, and gave different images.
const EXIT_DIFFERENT: u8 = 2;
/// Characters of an instruction that are shown.
const STEP_MAX_CHARS: usize = 100;

/// Builds twice and prints what differs.
pub async fn verify(hall: &Hall<'_>, args: &VerifyBuildArgs) -> Result<u8, Failure> {
    let options = options::build::build(&args.build, &hall.config, hall.environment)?;
    let asked = VerifyOptions {
        against: args.against.as_deref().map(|text| against(text, &hall.environment.working_directory)).transpose()?,
        true_times: args.true_times,
    };
    let (settings, options) = (&hall.settings(), &options);
    let verified = hall
        .under_display(hall.mode()?, async |progress, cancel| {
            verify_build(settings, options, &asked, progress, cancel).await
        })
        .await?;
    if let (true, Some(words)) = (hall.talks(), about_epoch(&verified)) {
        report::print(&report::note(&words, hall.style()));
    }
    super::print(&match args.format {
        Format::Json => escape::json(&verified),
        Format::Table => text(&verified),
    })?;
    Ok(if verified.reproducible { 0 } else { EXIT_DIFFERENT })
}

/// A file or a directory that is there, or looks like one; else the name of an image.
fn against(text: &str, here: &Path) -> Result<Against, Failure> {
    let path = here.join(text);
    if path.exists() || text.starts_with(['.', '/']) {
        return Ok(Against::Archive(path));
    }
    text.parse().map(Against::Image).map_err(|error| {
        Failure::new(format!("`--against {text}` is neither a file nor the name of an image")).note(format!("{error}"))
    })
}

fn about_epoch(verified: &Verified) -> Option<String> {
    match verified.epoch {
        Epoch::Given(_) | Epoch::None => None,
        Epoch::Image(seconds) => {
            Some(format!("`SOURCE_DATE_EPOCH` is not set: taken to be {seconds}, when the other image was made"))
        }
        Epoch::Assumed(seconds) => Some(format!(
            "`SOURCE_DATE_EPOCH` is not set: both builds got {seconds}; without it two builds differ in their times \
             (`--true-times` shows where)"
        )),
    }
}

fn text(verified: &Verified) -> String {
    let mut out = String::new();
    let (digest, other) = (&verified.digest, &verified.other);
    let against = verified.against.as_deref().map(escape::line);
    let mut line = |text: &str| writeln!(out, "{}", escape::line(text)).expect("writing to a String cannot fail");
    match (verified.reproducible, &against) {
        (true, None) => line(&format!("reproducible: {digest}")),
        (true, Some(name)) if digest == other => line(&format!("{name} is built from this: {digest}")),
        (true, Some(name)) => line(&format!("{name} is built from this; only its manifest is another: {other}")),
        (false, None) => line("not reproducible: two builds gave two images"),
        (false, Some(name)) => line(&format!("{name} is not what is built from this")),
    }
    if let Some(circumstances) = &verified.circumstances {
        line(&format!(
            "  the second build: another store and path, umask {}, {} at a time, {} s later",
            circumstances.umask,
            if circumstances.jobs == 1 { "1 step".into() } else { format!("{} steps", circumstances.jobs) },
            circumstances.seconds_later
        ));
    }
    if digest != other {
        line(&format!("  first  {digest}"));
        line(&format!("  second {other}"));
    }
    fields(&mut line, "manifest", &verified.differences.documents);
    for image in &verified.differences.images {
        let of = if verified.differences.images.len() > 1 { format!(" ({})", image.platform) } else { String::new() };
        fields(&mut line, &format!("config{of}"), &image.config);
        for layer in &image.layers {
            self::layer(&mut line, &of, layer);
        }
    }
    out
}

fn fields(line: &mut impl FnMut(&str), name: &str, fields: &[Field]) {
    if fields.is_empty() {
        return;
    }
    line("");
    line(name);
    for field in fields {
        line(&format!("  {}: {}", field.path, beside(field.first.as_deref(), field.second.as_deref())));
        field.hints.iter().for_each(|hint| line(&format!("    help: {hint}")));
    }
}

fn layer(line: &mut impl FnMut(&str), of: &str, layer: &LayerDifference) {
    line("");
    let made = layer.step.as_ref().map(|step| {
        let place = match (&step.file, step.line) {
            (Some(file), Some(line)) => format!(" ({file}:{line})"),
            _ => String::new(),
        };
        let mut words = escape::line(&step.created_by).into_owned();
        if let Some((end, _)) = words.char_indices().nth(STEP_MAX_CHARS) {
            words.truncate(end);
            words.push('…');
        }
        format!(": {words}{place}")
    });
    line(&format!("layer {}{of}{}", layer.number, made.unwrap_or_default()));
    if let Some(note) = &layer.note {
        line(&format!("  {note}"));
    }
    layer.entries.iter().for_each(|entry| self::entry(line, entry));
    if layer.more > 0 {
        line(&format!("  and {} more", layer.more));
    }
}

fn entry(line: &mut impl FnMut(&str), entry: &EntryDifference) {
    let path = if entry.path.is_empty() { "/" } else { &entry.path };
    if let [Change { what, first, second }] = &entry.changes[..]
        && what == "file"
    {
        let (which, kind) = match (first, second) {
            (Some(kind), _) => ("first", kind),
            (None, kind) => ("second", kind.as_ref().expect("one of them has it")),
        };
        line(&format!("  {path}: a {kind} in the {which} image only"));
    } else {
        line(&format!("  {path}"));
        for change in &entry.changes {
            line(&format!("    {}: {}", change.what, beside(change.first.as_deref(), change.second.as_deref())));
        }
    }
    if let Some(offset) = entry.offset {
        match &entry.at {
            Some(at) => {
                let place =
                    at.line.map_or_else(|| format!("byte {offset}"), |line| format!("byte {offset}, line {line}"));
                line(&format!("    from {place} on"));
                line(&format!("      - {}", at.first));
                line(&format!("      + {}", at.second));
            }
            None => line(&format!("    in the mebibyte from byte {offset} on")),
        }
    }
    entry.hints.iter().for_each(|hint| line(&format!("    help: {hint}")));
}

fn beside(first: Option<&str>, second: Option<&str>) -> String {
    let shown = |value: Option<&str>| value.map_or_else(|| "nothing".to_owned(), |value| format!("`{value}`"));
    format!("{} and {}", shown(first), shown(second))
}

#[cfg(test)]
mod tests {
    use oci::model::Digest;

    use super::*;
    use crate::engine::verify_build::{Circumstances, Differences, Excerpt, ImageDifference, Step};

    fn verified(differences: Differences) -> Verified {
        let circumstances = Circumstances { umask: "077".into(), jobs: 4, seconds_later: 3 };
        Verified {
            reproducible: differences.is_empty(),
            digest: Digest::of(b"1"),
            other: Digest::of(if differences.is_empty() { b"1" } else { b"2" }),
            against: None,
            epoch: Epoch::Assumed(0),
            circumstances: Some(circumstances),
            differences,
        }
    }

    fn change(what: &str, first: Option<&str>, second: Option<&str>) -> Change {
        Change { what: what.into(), first: first.map(str::to_owned), second: second.map(str::to_owned) }
    }

    #[test]
    fn what_differs_is_told_from_the_top_down() {
        insta::assert_snapshot!(text(&verified(Differences::default())), @"
        reproducible: sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b
          the second build: another store and path, umask 077, 4 steps at a time, 3 s later
        ");
        let bytes = EntryDifference {
            path: "etc/built\x1b".into(),
            changes: vec![
                change("bytes", Some("2 bytes"), Some("3 bytes")),
                change("mode", Some("0644"), Some("0600")),
            ],
            offset: Some(1),
            at: Some(Excerpt { line: Some(1), first: "a".into(), second: "bc".into() }),
            hints: vec!["this looks like a time".into()],
        };
        let only = EntryDifference {
            path: "new".into(),
            changes: vec![change("file", None, Some("pipe"))],
            ..EntryDifference::default()
        };
        let layer = LayerDifference {
            number: 2,
            step: Some(Step {
                created_by: "RUN date > /etc/built".into(),
                file: Some("Dockerfile".into()),
                line: Some(7),
            }),
            note: None,
            entries: vec![bytes, only],
            more: 5,
        };
        let field = Field { path: "config.Labels.x".into(), first: Some("1".into()), second: None, hints: Vec::new() };
        let image = ImageDifference { platform: "linux/amd64".into(), config: vec![field], layers: vec![layer] };
        let differences = Differences { documents: Vec::new(), images: vec![image] };
        insta::assert_snapshot!(text(&verified(differences)), @r"
        not reproducible: two builds gave two images
          the second build: another store and path, umask 077, 4 steps at a time, 3 s later
          first  sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b
          second sha256:d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35

        config
          config.Labels.x: `1` and nothing

        layer 2: RUN date > /etc/built (Dockerfile:7)
          etc/built\x1b
            bytes: `2 bytes` and `3 bytes`
            mode: `0644` and `0600`
            from byte 1, line 1 on
              - a
              + bc
            help: this looks like a time
          new: a pipe in the second image only
          and 5 more
        ");
    }
}
