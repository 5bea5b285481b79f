//! `rbuild history`: the last builds, their steps, what they printed.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read as _, Write};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use solver::explain::Fate;
use store::Store;
use store::history::{Build, Entry, Head, Outcome, StepRecord};

use super::{Hall, table};
use crate::amount::{amount, seconds};
use crate::cli::{
    Format, HistoryArgs, HistoryInspectArgs, HistoryLogsArgs, HistoryLsArgs, HistoryRmArgs, HistoryTimingsArgs,
    HistoryVerb,
};
use crate::engine::Failure;
use crate::engine::past::{self, Filter};
use crate::engine::timings;
use crate::engine::why::{self, Miss};
use crate::escape;
use crate::progress::{Lines, Mode};
use crate::report;

/// Some of the builds run.
const SOME_LEFT: u8 = 1;
/// What the table of steps takes on the left of their names, about.
const COLUMNS_BEFORE_NAME: usize = 34;
/// A log is shown in pieces of this size.
const PIECE_BYTES: usize = 64 * 1024;

/// Does what is asked.
pub async fn history(hall: &Hall<'_>, args: &HistoryArgs) -> Result<u8, Failure> {
    let settings = &hall.settings();
    let store = hall.under_display(Mode::Plain, async |progress, _| settings.open_store(&progress)).await?;
    match &args.verb {
        HistoryVerb::Ls(args) => ls(&store, args),
        HistoryVerb::Logs(args) => logs(hall, &store, args),
        HistoryVerb::Inspect(args) => inspect(hall, &store, args),
        HistoryVerb::Timings(args) => timings(hall, &store, args),
        HistoryVerb::Rm(args) => rm(hall, &store, args),
    }
}

fn ls(store: &Store, args: &HistoryLsArgs) -> Result<u8, Failure> {
    let filters: Vec<Filter> = args.filters.iter().map(|text| Filter::parse(text)).collect::<Result<_, _>>()?;
    let entries = past::list(store, &filters)?;
    let text = match (args.quiet, args.format) {
        (true, _) => entries.iter().map(|entry| format!("{}\n", entry.head.id)).collect(),
        (false, Format::Json) => escape::json(&entries.iter().map(|entry| head_json(&entry.head)).collect::<Vec<_>>()),
        (false, Format::Table) => list(&entries, Timestamp::now()),
    };
    super::print(&text)?;
    Ok(0)
}

fn list(entries: &[Entry], now: Timestamp) -> String {
    let cell = |text: &str| escape::line(text).into_owned();
    let rows = entries.iter().map(|Entry { head, .. }| {
        let name = match (&head.tags[..], &head.dockerfile) {
            ([], None) => head.context.clone(),
            ([], Some(file)) => file.clone(),
            (tags, _) => tags.join(" "),
        };
        let took = head.ended.map(|ended| seconds(duration(head.begun, ended))).unwrap_or_default();
        let steps = format!("{}/{}", head.cached, head.steps);
        let begun = why::ago(now.duration_since(head.begun));
        [head.id.clone(), cell(&name), head.outcome.name().into(), begun, took, steps]
    });
    table::render(["BUILD ID", "NAME", "STATUS", "CREATED", "DURATION", "CACHED"], rows)
}

fn duration(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn head_json(head: &Head) -> Value {
    serde_json::to_value(head).expect("plain data becomes JSON")
}

fn logs(hall: &Hall<'_>, store: &Store, args: &HistoryLogsArgs) -> Result<u8, Failure> {
    let entry = past::find(store, &args.build)?;
    let build = past::open(store, &entry)?;
    let out = &mut std::io::stdout().lock();
    let written = match &args.step {
        Some(text) => {
            let place = past::step(&build, text)?;
            match log(store, &entry, place)? {
                // A program, or a file, gets what the step wrote.
                Some(mut file) if !hall.environment.stdout_terminal => std::io::copy(&mut file, out).map(drop),
                Some(file) => show(file, out),
                None => {
                    let text = format!("{} printed nothing", escape::line(&build.steps[place].name));
                    report::print(&report::note(&text, hall.style()));
                    Ok(())
                }
            }
        }
        None => all_logs(store, &entry, &build, out)?,
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new("the log cannot be shown").note(error.to_string()))
        }
        _ => Ok(0),
    }
}

fn log(store: &Store, entry: &Entry, step: usize) -> Result<Option<File>, Failure> {
    store.build_log(entry, step).map_err(|error| Failure::from_error(&error))
}

/// Every step that printed something, under its name.
fn all_logs(store: &Store, entry: &Entry, build: &Build, out: &mut impl Write) -> Result<std::io::Result<()>, Failure> {
    let mut order: Vec<usize> = (0..build.steps.len()).filter(|place| build.steps[*place].log.is_some()).collect();
    order.sort_by_key(|place| build.steps[*place].number);
    for (count, place) in order.into_iter().enumerate() {
        let Some(file) = log(store, entry, place)? else { continue };
        let blank = if count == 0 { "" } else { "\n" };
        let heading = writeln!(out, "{blank}{}", escape::line(&titled(&build.steps[place])));
        if let Err(error) = heading.and_then(|()| show(file, out)) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

/// What a step wrote, made safe to show.
fn show(file: File, out: &mut impl Write) -> std::io::Result<()> {
    let mut reader = BufReader::new(file);
    let mut lines = Lines::default();
    let mut piece = vec![0; PIECE_BYTES];
    let mut failed = None;
    let mut write = |_: (), line: String| {
        if failed.is_none() {
            failed = writeln!(out, "{line}").err();
        }
    };
    loop {
        let count = reader.read(&mut piece)?;
        if count == 0 {
            break;
        }
        lines.push((), &piece[..count], &mut write);
    }
    lines.flush(&mut write);
    failed.map_or(Ok(()), Err)
}

fn inspect(hall: &Hall<'_>, store: &Store, args: &HistoryInspectArgs) -> Result<u8, Failure> {
    let build = past::open(store, &past::find(store, &args.build)?)?;
    let old = why::before(store, &build.head).map_err(|error| Failure::from_error(&error))?;
    let ran = why::ran(&build);
    let misses = match &old {
        Some(old) => why::misses(store, &build, old, &ran).map_err(|error| Failure::from_error(&error))?,
        None => Vec::new(),
    };
    super::print(&match args.format {
        Format::Json => escape::json(&build_json(&build, &misses)),
        Format::Table => text(&build, &misses, Timestamp::now(), hall.columns()),
    })?;
    Ok(0)
}

fn text(build: &Build, misses: &[Miss], now: Timestamp, columns: Option<usize>) -> String {
    let head = &build.head;
    let mut out = String::new();
    let mut fact = |name: &str, value: &str| {
        writeln!(out, "{name:<11}{}", escape::line(value)).expect("writing to a String cannot fail");
    };
    fact("build", &head.id);
    let error = head.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    fact("status", &format!("{}{error}", head.outcome.name()));
    fact("context", &head.context);
    for (name, value) in [("dockerfile", &head.dockerfile), ("target", &head.target), ("image", &head.image)] {
        if let Some(value) = value {
            fact(name, value);
        }
    }
    if !head.tags.is_empty() {
        fact("tags", &head.tags.join(" "));
    }
    fact("platform", &head.platform);
    fact("begun", &format!("{} ({})", head.begun, why::ago(now.duration_since(head.begun))));
    if let Some(ended) = head.ended {
        fact("took", &seconds(duration(head.begun, ended)));
    }
    fact("rbuild", &head.version);
    if head.outcome != Outcome::Running {
        fact("steps", &format!("{}, {} cached", head.steps, head.cached));
    }
    out.push('\n');
    let mut order: Vec<usize> = (0..build.steps.len()).filter(|place| build.steps[*place].number.is_some()).collect();
    order.sort_by_key(|place| build.steps[*place].number);
    let rows = order.iter().map(|place| {
        let step = &build.steps[*place];
        let number = step.number.map(|number| format!("#{number}")).unwrap_or_default();
        let log = step.log.as_ref().map(|log| amount(log.bytes)).unwrap_or_default();
        let (cpu, memory) = used(step);
        let name = super::named(&step.name, COLUMNS_BEFORE_NAME, columns);
        [number, result(step).into(), time(step), cpu, memory, log, name]
    });
    let table = table::render(["STEP", "RESULT", "TIME", "CPU", "MEMORY", "LOG", "NAME"], rows);
    let mut lines = table.lines();
    out.extend(lines.next().map(|heading| format!("{heading}\n")));
    for (line, place) in lines.zip(order) {
        out.push_str(line);
        out.push('\n');
        let because = build.steps[place].error.iter().cloned();
        let reasons = misses.iter().filter(|miss| miss.root == place).flat_map(|miss| &miss.reasons);
        for told in because.chain(reasons.map(|told| format!("because {}", told.text))) {
            writeln!(out, "       {}", escape::line(&told)).expect("writing to a String cannot fail");
        }
    }
    out
}

fn titled(step: &StepRecord) -> String {
    let number = step.number.map(|number| format!("#{number} ")).unwrap_or_default();
    format!("{number}{}", step.name)
}

fn result(step: &StepRecord) -> &'static str {
    match step.fate {
        Fate::Cached => "cached",
        Fate::Ran if step.is_operation() => "ran",
        Fate::Ran => "done",
        Fate::Unchanged => "unchanged",
        Fate::Failed => "failed",
        Fate::Canceled => "canceled",
        Fate::NotReached => "not reached",
    }
}

fn time(step: &StepRecord) -> String {
    match (step.started_us, step.ended_us) {
        (Some(started), Some(ended)) => seconds(Duration::from_micros(ended.saturating_sub(started))),
        _ => String::new(),
    }
}

/// Processor time, and the most memory at once: of all processes of the step, or else of its largest.
fn used(step: &StepRecord) -> (String, String) {
    let Some(usage) = &step.usage else { return Default::default() };
    let memory = usage.memory_peak_bytes.or(usage.max_rss_bytes).map(amount);
    (seconds(usage.user + usage.system), memory.unwrap_or_default())
}

fn build_json(build: &Build, misses: &[Miss]) -> Value {
    let mut value = head_json(&build.head);
    let steps = build.steps.iter().enumerate().map(|(place, step)| {
        let because = misses.iter().find(|miss| miss.steps.contains(&place) || miss.root == place);
        let reasons: Vec<&str> = because.iter().flat_map(|miss| &miss.reasons).map(|told| told.text.as_str()).collect();
        json!({
            "vertex": step.vertex,
            "name": step.name,
            "number": step.number,
            "line": step.line,
            "key": step.key,
            "inputs": step.inputs,
            "result": step.fate,
            "cached_by": step.by,
            "error": step.error,
            "started_us": step.started_us,
            "ended_us": step.ended_us,
            "log": step.log,
            "usage": step.usage,
            "work": step.work,
            "because_of": because.map(|miss| &build.steps[miss.root].name),
            "reasons": reasons,
        })
    });
    value["all_steps"] = Value::Array(steps.collect());
    value
}

fn timings(hall: &Hall<'_>, store: &Store, args: &HistoryTimingsArgs) -> Result<u8, Failure> {
    if args.output.as_os_str() == "-" && hall.environment.stdout_terminal {
        return Err(Failure::new("a page is nothing for a terminal")
            .help("write it into a file, and open that in a browser: `-o FILE.html`"));
    }
    let build = past::open(store, &past::find(store, &args.build)?)?;
    timings::write(&timings::page(store, &build)?, &args.output)?;
    Ok(0)
}

fn rm(hall: &Hall<'_>, store: &Store, args: &HistoryRmArgs) -> Result<u8, Failure> {
    let entries = if args.all {
        past::list(store, &[])?
    } else {
        args.builds.iter().map(|text| past::find(store, text)).collect::<Result<_, _>>()?
    };
    let (gone, running) = past::forget(store, &entries)?;
    super::print(&gone.iter().map(|id| format!("{id}\n")).collect::<String>())?;
    for id in &running {
        report::print(&report::note(&format!("the build {id} runs, and stays"), hall.style()));
    }
    Ok(if running.is_empty() || args.all { 0 } else { SOME_LEFT })
}
