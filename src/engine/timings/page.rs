//! The page itself.
//!
//! In: a [`Sheet`]. Out: HTML that is well-formed as XML too, with its style in it and nothing that is fetched or run; a
//! Content-Security-Policy says so to the reader. Every text that comes from a build passes [`html`]. Deliberately absent:
//! finding anything out.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use solver::explain::Fate;
use store::history::{Head, WorkRecord};

use super::figures::{Bytes, Row, Sheet, micros, result};
use super::lanes::rows;
use super::path::Cause;
use crate::amount::amount;
use crate::escape;

const STYLE: &str = include_str!("page.css");
/// Heights in pixels, as the style has them.
const BAR_PX: usize = 24;
const PIECE_PX: usize = 10;
/// So many marks on the axis, about.
const TICKS: u64 = 8;
/// A piece of work that is shorter is in the table alone.
const PIECE_MIN_US: u64 = 500;

/// Foreign text as it may stand anywhere on the page, in an attribute too.
fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in escape::line(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // No character of XML, and no reason to show one.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// The whole page.
pub fn page(head: &Head, sheet: &Sheet<'_>) -> String {
    let mut out = String::new();
    let title = match (&head.tags[..], &head.dockerfile) {
        ([], None) => head.context.clone(),
        ([], Some(file)) => file.clone(),
        (tags, _) => tags.join(", "),
    };
    out.push_str("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n");
    out.push_str(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n",
    );
    out.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n");
    put(
        &mut out,
        format_args!("<title>Timings of {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n", html(&title)),
    );
    heading(&mut out, head, sheet, &title);
    time_line(&mut out, sheet);
    path(&mut out, sheet);
    table(&mut out, sheet);
    work(&mut out, sheet);
    put(&mut out, format_args!("<p class=\"soft\">rbuild {}</p>\n</body>\n</html>\n", html(&head.version)));
    out
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
}

fn heading(out: &mut String, head: &Head, sheet: &Sheet<'_>, title: &str) {
    put(out, format_args!("<h1>{}</h1>\n<p class=\"soft\">", html(title)));
    let begun = head.begun.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let id = if head.id.is_empty() { String::new() } else { format!("build {}, ", head.id) };
    put(
        out,
        format_args!("{}context {}, {}, begun {begun}</p>\n", html(&id), html(&head.context), html(&head.platform)),
    );
    if let Some(error) = &head.error {
        put(out, format_args!("<p class=\"bad\">{}</p>\n", html(error)));
    }
    let cpu: Duration = sheet.steps.iter().filter_map(|row| row.cpu).sum();
    let sum = &sheet.sum;
    let compressed = format!("{} → {}", amount(sum.compressed_from), amount(sum.compressed_to));
    let facts = [
        ("status", head.outcome.name().to_owned()),
        ("took", seconds(sheet.total_us)),
        ("steps", format!("{}, {} cached", head.steps, head.cached)),
        ("processor time of steps", seconds(micros(cpu))),
        ("read", amount(sum.read)),
        ("hashed", amount(sum.hashed)),
        ("compressed", compressed),
        ("received", amount(sum.received)),
        ("sent", amount(sum.sent)),
    ];
    out.push_str("<div class=\"facts\">\n");
    for (name, value) in facts {
        put(out, format_args!("<div><b>{}</b><span class=\"soft\">{name}</span></div>\n", html(&value)));
    }
    out.push_str("</div>\n");
}

/// What stands on the time line.
struct Bar {
    began: u64,
    ended: u64,
    class: String,
    /// What stands in it.
    text: String,
    /// What is said of it to who points at it.
    title: String,
    /// Row of the table.
    step: usize,
    /// What lies before it, in which it waited for a place.
    waited: u64,
}

/// The bars of one lane: steps, and beneath them what was done with bytes.
#[derive(Default)]
struct Lane {
    steps: Vec<Bar>,
    pieces: Vec<Bar>,
}

fn time_line(out: &mut String, sheet: &Sheet<'_>) {
    // In the order in which stages are declared; what belongs to none stands above.
    let mut lanes: Vec<(Option<&str>, Lane)> = vec![(None, Lane::default())];
    let mut known: HashMap<Option<&str>, usize> = HashMap::from([(None, 0)]);
    for (place, row) in sheet.steps.iter().enumerate() {
        let lane = *known.entry(row.stage).or_insert_with(|| {
            lanes.push((row.stage, Lane::default()));
            lanes.len() - 1
        });
        let lane = &mut lanes[lane].1;
        lane.steps.extend(row.ran_us.map(|(began, ended)| Bar {
            began,
            ended,
            class: format!("{}{}", class(row), if row.critical { " on" } else { "" }),
            text: row.text.to_owned(),
            title: pointed_at(row, began, ended),
            step: place,
            waited: row.waited_us.unwrap_or(0),
        }));
        lane.pieces.extend(row.step.work.iter().filter(|record| micros(record.work.took) >= PIECE_MIN_US).map(
            |record| Bar {
                began: record.began_us(),
                ended: record.ended_us,
                class: format!("piece {}", record.work.kind.name()),
                text: String::new(),
                title: format!("{} of {}: {}", record.work.kind.name(), row.step.name, told(record)),
                step: place,
                waited: 0,
            },
        ));
    }
    out.push_str("<h2>Time line</h2>\n<div class=\"time\">\n");
    let total = sheet.total_us.max(1);
    let ticks = ticks(total);
    put(
        out,
        format_args!(
            "<div class=\"lane axis\"><div class=\"label soft\">stage</div><div class=\"track\" style=\"height:1.2rem\">"
        ),
    );
    for at in &ticks {
        put(out, format_args!("<div class=\"tick\" style=\"left:{}\">{}</div>", percent(*at, total), seconds(*at)));
    }
    out.push_str("</div></div>\n");
    for (stage, mut lane) in lanes {
        if lane.steps.is_empty() && lane.pieces.is_empty() {
            continue;
        }
        let label = match stage {
            None => "rbuild",
            Some("") => "the image",
            Some(stage) => stage,
        };
        let label = html(label);
        let (bars, heights) = (place(&mut lane.steps), place(&mut lane.pieces));
        let height = bars.1 * BAR_PX + heights.1 * PIECE_PX;
        put(out, format_args!("<div class=\"lane\"><div class=\"label\" title=\"{label}\">{label}</div>"));
        put(out, format_args!("<div class=\"track\" style=\"height:{height}px\">\n"));
        for at in &ticks {
            put(out, format_args!("<div class=\"tick\" style=\"left:{}\"></div>", percent(*at, total)));
        }
        out.push('\n');
        for (bar, row) in lane.steps.iter().zip(bars.0) {
            write_bar(out, bar, row * BAR_PX, total);
        }
        for (bar, row) in lane.pieces.iter().zip(heights.0) {
            write_bar(out, bar, bars.1 * BAR_PX + row * PIECE_PX, total);
        }
        out.push_str("</div></div>\n");
    }
    out.push_str("</div>\n<div class=\"legend\">\n");
    let kinds = [
        "ran",
        "unchanged",
        "failed",
        "canceled",
        "task",
        "digest",
        "copy",
        "archive",
        "compress",
        "unpack",
        "receive",
        "send",
    ];
    for kind in kinds {
        put(out, format_args!("<span><i class=\"{kind}\"></i>{kind}</span>\n"));
    }
    out.push_str("<span><i class=\"on\"></i>critical path</span>\n<span><i class=\"wait\"></i>waited for a place</span>\n</div>\n");
}

/// Sorts bars, and gives each its row.
fn place(bars: &mut [Bar]) -> (Vec<usize>, usize) {
    bars.sort_by_key(|bar| (bar.began, bar.ended, bar.step));
    rows(&bars.iter().map(|bar| (bar.began, bar.ended)).collect::<Vec<_>>())
}

fn write_bar(out: &mut String, bar: &Bar, top: usize, total: u64) {
    if bar.waited >= PIECE_MIN_US {
        let (left, width) =
            (percent(bar.began.saturating_sub(bar.waited), total), percent(bar.waited.min(bar.began), total));
        put(out, format_args!("<div class=\"bar wait\" style=\"left:{left};width:{width};top:{top}px\"></div>"));
    }
    let (left, width) = (percent(bar.began, total), percent(bar.ended.saturating_sub(bar.began), total));
    let Bar { class, step, .. } = bar;
    let (title, text) = (html(&bar.title), html(&bar.text));
    put(
        out,
        format_args!(
            "<a class=\"bar {class}\" href=\"#s{step}\" title=\"{title}\" style=\"left:{left};width:{width};top:{top}px\">{text}</a>\n"
        ),
    );
}

fn class(row: &Row<'_>) -> &'static str {
    match row.step.fate {
        Fate::Failed => "failed",
        Fate::Canceled => "canceled",
        Fate::Unchanged => "unchanged",
        Fate::Cached => "task",
        Fate::Ran | Fate::NotReached if row.step.is_operation() => "ran",
        Fate::Ran | Fate::NotReached => "task",
    }
}

fn pointed_at(row: &Row<'_>, began: u64, ended: u64) -> String {
    let mut text =
        format!("{}: {} from {} to {}", row.step.name, seconds(ended - began), seconds(began), seconds(ended));
    if let Some(waited) = row.waited_us.filter(|waited| *waited >= PIECE_MIN_US) {
        text = text + ", waited " + &seconds(waited);
    }
    if let Some(cpu) = row.cpu {
        text = text + ", processor " + &seconds(micros(cpu));
    }
    text
}

fn told(record: &WorkRecord) -> String {
    let work = &record.work;
    let what = if record.what.is_empty() { String::new() } else { format!("{}, ", record.what) };
    format!(
        "{what}{}, read {}, wrote {}",
        seconds(micros(work.took)),
        amount(work.read_bytes),
        amount(work.written_bytes)
    )
}

fn path(out: &mut String, sheet: &Sheet<'_>) {
    out.push_str("<h2>Critical path</h2>\n");
    if sheet.path.is_empty() {
        out.push_str("<p class=\"soft\">Nothing took any time.</p>\n");
        return;
    }
    out.push_str(
        "<p class=\"soft\">Each of these began when the one before it had ended. To make anything else faster makes \
                  this build no faster.</p>\n<div class=\"wide\"><table>\n<thead><tr><th class=\"n\">after</th>\
                  <th class=\"n\">took</th><th class=\"n\">of the build</th><th>step</th></tr></thead>\n<tbody>\n",
    );
    for link in &sheet.path {
        let row = &sheet.steps[link.place];
        let (began, ended) = row.ran_us.unwrap_or_default();
        let cause = match link.cause {
            Cause::Place if link.gap_us < PIECE_MIN_US => {
                " <span class=\"why\">when that had given its place free</span>"
            }
            Cause::Place => " <span class=\"why\">when there was a place</span>",
            Cause::First | Cause::Input | Cause::Order => "",
        };
        put(
            out,
            format_args!(
                "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"name\"><a href=\"#s{}\">{}</a>{cause}</td></tr>\n",
                seconds(link.gap_us),
                seconds(ended - began),
                percent(ended - began, sheet.total_us.max(1)),
                link.place,
                html(&row.step.name),
            ),
        );
    }
    let took: u64 =
        sheet.path.iter().filter_map(|link| sheet.steps[link.place].ran_us).map(|(began, ended)| ended - began).sum();
    let gaps: u64 = sheet.path.iter().map(|link| link.gap_us).sum();
    put(
        out,
        format_args!(
            "</tbody>\n<tfoot><tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td></td></tr></tfoot>\n</table></div>\n",
            seconds(gaps),
            seconds(took),
            percent(took, sheet.total_us.max(1)),
        ),
    );
}

fn table(out: &mut String, sheet: &Sheet<'_>) {
    out.push_str("<h2>Steps</h2>\n<div class=\"wide\"><table>\n<thead><tr>");
    for name in ["step", "result"] {
        put(out, format_args!("<th>{name}</th>"));
    }
    let columns = [
        "time s",
        "waited s",
        "processor s",
        "memory B",
        "read B",
        "hashed B",
        "compressed from B",
        "to B",
        "received B",
        "sent B",
        "printed B",
    ];
    for name in columns {
        put(out, format_args!("<th class=\"n\">{name}</th>"));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    let took = |row: &Row<'_>| row.ran_us.map(|(began, ended)| ended - began);
    let mut order: Vec<usize> = (0..sheet.steps.len()).collect();
    order.sort_by_key(|place| (std::cmp::Reverse(took(&sheet.steps[*place])), *place));
    for place in order {
        let row = &sheet.steps[place];
        let number = row.step.number.map(|number| format!("#{number} ")).unwrap_or_default();
        let mark = if row.critical { "<span class=\"mark\" title=\"on the critical path\">◆ </span>" } else { "" };
        put(out, format_args!("<tr id=\"s{place}\"><td class=\"name\">{mark}{}{}", number, html(&row.step.name)));
        for because in &row.because {
            put(out, format_args!("<div class=\"why\">{}</div>", html(because)));
        }
        put(out, format_args!("</td><td>{}</td>", result(row.step)));
        let log = row.step.log.as_ref().map(|log| log.bytes.saturating_add(log.dropped_bytes));
        let times = [took(row), row.waited_us, row.cpu.map(micros)];
        let cells = times.into_iter().map(|time| time.map(exact_seconds)).chain([row.memory_bytes.map(exact)]);
        let cells: Vec<_> = cells.chain(bytes(&row.bytes)).chain([log.map(exact)]).collect();
        write_cells(out, &cells);
        out.push_str("</tr>\n");
    }
    let printed = sheet
        .steps
        .iter()
        .filter_map(|row| row.step.log.as_ref())
        .map(|log| log.bytes.saturating_add(log.dropped_bytes));
    let printed = printed.fold(0, u64::saturating_add);
    let cpu: Duration = sheet.steps.iter().filter_map(|row| row.cpu).sum();
    out.push_str("</tbody>\n<tfoot><tr><td>all</td><td></td>");
    let cells = [Some(exact_seconds(sheet.total_us)), None, Some(exact_seconds(micros(cpu))), None];
    let cells: Vec<_> = cells.into_iter().chain(bytes(&sheet.sum)).chain([Some(exact(printed))]).collect();
    write_cells(out, &cells);
    out.push_str("</tr></tfoot>\n</table></div>\n");
}

fn write_cells(out: &mut String, cells: &[Option<String>]) {
    for cell in cells {
        put(out, format_args!("<td class=\"n\">{}</td>", cell.as_deref().unwrap_or_default()));
    }
}

/// The cells of bytes; nothing where there are none.
fn bytes(bytes: &Bytes) -> [Option<String>; 6] {
    let Bytes { read, hashed, compressed_from, compressed_to, received, sent } = *bytes;
    [read, hashed, compressed_from, compressed_to, received, sent].map(|bytes| (bytes > 0).then(|| exact(bytes)))
}

fn work(out: &mut String, sheet: &Sheet<'_>) {
    let mut pieces: Vec<(usize, &WorkRecord)> = Vec::new();
    for (place, row) in sheet.steps.iter().enumerate() {
        pieces.extend(row.step.work.iter().map(|record| (place, record)));
    }
    if pieces.is_empty() {
        return;
    }
    pieces.sort_by_key(|(place, record)| (std::cmp::Reverse(record.work.took), *place, record.ended_us));
    out.push_str(
        "<h2>Work on bytes</h2>\n<p class=\"soft\">What rbuild itself did, beside the processes of steps; bars beneath \
                  the steps.</p>\n<div class=\"wide\"><table>\n<thead><tr><th>work</th><th>of</th>",
    );
    for name in ["time s", "began s", "files", "read B", "hashed B", "written B"] {
        put(out, format_args!("<th class=\"n\">{name}</th>"));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for (place, record) in pieces {
        let work = &record.work;
        let what = if record.what.is_empty() {
            String::new()
        } else {
            format!("<div class=\"why\">{}</div>", html(&record.what))
        };
        let name = html(&sheet.steps[place].step.name);
        put(
            out,
            format_args!(
                "<tr><td>{}</td><td class=\"name\"><a href=\"#s{place}\">{name}</a>{what}</td>",
                work.kind.name()
            ),
        );
        let numbers = [work.files, work.read_bytes, work.hashed_bytes, work.written_bytes];
        let times = [Some(exact_seconds(micros(work.took))), Some(exact_seconds(record.began_us()))];
        let cells: Vec<_> =
            times.into_iter().chain(numbers.map(|number| (number > 0).then(|| exact(number)))).collect();
        write_cells(out, &cells);
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table></div>\n");
}

/// Round times on the axis, from 0.
fn ticks(total_us: u64) -> Vec<u64> {
    let least = total_us.div_ceil(TICKS).max(1);
    let mut step: u64 = 1;
    while step < least {
        // 1, 2, 5, 10, …
        let leading = step / 10_u64.pow(step.ilog10());
        step = if leading == 2 { step / 2 * 5 } else { step * 2 };
    }
    (0..).map_while(|count: u64| count.checked_mul(step)).take_while(|at| *at <= total_us).collect()
}

/// A part of the width.
fn percent(part: u64, total: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let value = part.min(total) as f64 * 100.0 / total as f64;
    format!("{value:.2}%")
}

/// As people read it: `1.23 s`, `45.6 ms`.
fn seconds(us: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let value = us as f64 / 1e6;
    match us {
        0 => "0 s".into(),
        1..1_000 => format!("{us} µs"),
        1_000..100_000 => format!("{:.1} ms", value * 1e3),
        100_000..1_000_000 => format!("{:.0} ms", value * 1e3),
        1_000_000..100_000_000 => format!("{value:.2} s"),
        _ => format!("{value:.0} s"),
    }
}

/// Seconds to the microsecond.
fn exact_seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// With a thin space between thousands.
fn exact(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 2);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests;
