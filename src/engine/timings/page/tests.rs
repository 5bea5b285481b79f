//! The page is well-formed, whatever is in it, and says what the figures say.

use solver::canon::Part;
use solver::seam::Usage;
use solver::work::{Work, WorkKind};
use store::history::{Build, LogFile, StepRecord};

use super::*;

/// All that could end a text, an attribute, a comment or a style, or be taken for a tag.
const HOSTILE: &str =
    "</style></title><script>alert(1)</script><!-- --> ]]> \" ' & &amp; &lt; \u{0}\u{1b}[31m\n\u{202e}\u{ffff}";

fn step(name: &str, ran: Option<(u64, u64)>, inputs: &[usize]) -> StepRecord {
    let (started_us, ended_us) = ran.unzip();
    StepRecord {
        name: name.into(),
        number: Some(3),
        parts: [Part { name: "exec.args[0]".into(), value: "make".into() }].into(),
        inputs: inputs.to_vec(),
        fate: if ran.is_some() { Fate::Ran } else { Fate::Cached },
        started_us,
        ended_us: ended_us.or(Some(0)),
        ..StepRecord::default()
    }
}

fn work(kind: WorkKind, what: &str, bytes: u64, ended_us: u64, took_us: u64) -> WorkRecord {
    let took = Duration::from_micros(took_us);
    let work = Work { kind, files: 2, read_bytes: bytes, hashed_bytes: bytes, written_bytes: bytes / 2, took };
    WorkRecord { what: what.into(), ended_us, work }
}

fn build() -> Build {
    let mut head = Head::new("/srv/app".into(), "linux/amd64".into());
    (head.id, head.steps, head.cached) = ("3dxpb73lo7fj".into(), 3, 1);
    let mut compiled = step("[build 2/2] RUN make", Some((1_000_000, 4_500_000)), &[0]);
    compiled.usage = Some(Usage {
        user: Duration::from_millis(5_250),
        system: Duration::from_millis(250),
        memory_peak_bytes: Some(1_234_567),
        max_rss_bytes: None,
    });
    compiled.log = Some(LogFile { bytes: 1_000, dropped_bytes: 24 });
    compiled.work = vec![work(WorkKind::Compress, "", 9_000_000, 5_900_000, 1_000_000)];
    let mut exporting = step("exporting to image", Some((4_500_000, 6_000_000)), &[]);
    exporting.parts = Vec::new().into();
    exporting.work = vec![work(WorkKind::Send, "pushing sha256:ab", 4_500_000, 6_000_000, 90_000)];
    let steps = vec![
        step("[build 1/2] FROM debian", None, &[]),
        compiled,
        step("[docs 2/2] RUN man", Some((1_000_000, 2_000_000)), &[0]),
        exporting,
    ];
    Build { head, steps }
}

fn page_of(build: &Build, reasons: &[Option<String>]) -> String {
    let page = page(&build.head, &Sheet::of(build, reasons));
    check_well_formed(&page);
    page
}

/// Every tag that is opened is closed in turn, every attribute is quoted, no `<` and no `&` stands anywhere else, and
/// there is nothing that is fetched or run.
fn check_well_formed(page: &str) {
    let body = page.strip_prefix("<!DOCTYPE html>\n").expect("it says what it is");
    let style =
        body.find("<style>").expect("it has a style") + "<style>".len()..body.find("</style>").expect("it ends");
    assert!(!body[style.clone()].contains(['<', '&']) && !body[style.clone()].contains("url("));
    let body = format!("{}{}", &body[..style.start], &body[style.end..]);
    let (mut open, mut rest) = (Vec::new(), body.as_str());
    while let Some(at) = rest.find('<') {
        check_text(&rest[..at]);
        let end = rest[at..].find('>').expect("a tag ends") + at;
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed in turn");
            continue;
        }
        let (tag, is_closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "{name:?}");
        assert!(!["script", "link", "img", "iframe", "object", "embed", "base", "form"].contains(&name), "{name}");
        while !attributes.trim().is_empty() {
            let (name, value) = attributes.trim_start().split_once("=\"").expect("an attribute has a value in quotes");
            let (value, more) = value.split_once('"').expect("which end");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !name.starts_with("on"), "{name:?}");
            assert!(name != "href" || value.starts_with('#'), "{value:?}");
            check_text(value);
            attributes = more;
        }
        if !is_closed {
            open.push(name);
        }
    }
    check_text(rest);
    assert!(open.is_empty(), "{open:?} stay open");
}

fn check_text(text: &str) {
    assert!(!text.contains('>'), "{text:?}");
    for reference in text.split('&').skip(1) {
        let known = ["amp;", "lt;", "gt;", "quot;", "#39;"];
        assert!(known.iter().any(|name| reference.starts_with(name)), "{reference:?}");
    }
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
}

#[test]
fn names_errors_and_reasons_of_others_are_only_shown() {
    let mut build = build();
    let head = &mut build.head;
    (head.context, head.platform, head.error) = (HOSTILE.into(), HOSTILE.into(), Some(HOSTILE.into()));
    (head.tags, head.version, head.id) = (vec![HOSTILE.into()], HOSTILE.into(), HOSTILE.into());
    head.dockerfile = Some(HOSTILE.into());
    for step in &mut build.steps {
        step.name = format!("[{HOSTILE} 1/2] RUN {HOSTILE}");
        step.error = Some(HOSTILE.into());
        step.work.push(work(WorkKind::Receive, HOSTILE, 1, 900_000, 800_000));
    }
    let page = page_of(&build, &[Some(HOSTILE.into()), None, None, Some(HOSTILE.into())]);
    assert!(!page.contains("<script"));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && page.contains("\\u{202e}"));
}

#[test]
fn the_page_says_what_the_figures_say() {
    let page = page_of(&build(), &[None, Some("RUN: the command changed".into()), None, None]);
    for expected in [
        "<title>Timings of /srv/app</title>",
        "build 3dxpb73lo7fj, context /srv/app, linux/amd64",
        "because RUN: the command changed",
        // Of the bar, of its row of the table, and of the sum.
        "[build 2/2] RUN make: 3.50 s from 1.00 s to 4.50 s, waited 1.00 s, processor 5.50 s",
        "<td class=\"n\">3.500000</td><td class=\"n\">1.000000</td><td class=\"n\">5.500000</td><td class=\"n\">1\u{202f}234\u{202f}567</td>",
        "<td class=\"n\">9\u{202f}000\u{202f}000</td><td class=\"n\">4\u{202f}500\u{202f}000</td>",
        "<td class=\"n\">1\u{202f}024</td>",
        "pushing sha256:ab",
        "class=\"bar ran on\"",
        "class=\"bar ran\"",
        "class=\"bar piece compress\"",
        "<td>cached</td>",
    ] {
        assert!(page.contains(expected), "`{expected}` is not in {page}");
    }
    let rows: Vec<&str> = page.split("<tr id=\"s").skip(1).map(|row| &row[..1]).collect();
    assert_eq!(rows, ["1", "3", "2", "0"], "the longest first, what took no time last");
}

#[test]
fn a_build_of_nothing_has_a_page_too() {
    let head = Head::new(String::new(), String::new());
    let page = page_of(&Build { head, steps: Vec::new() }, &[]);
    assert!(page.contains("Nothing took any time."));
}

#[test]
fn times_and_numbers_are_written_exactly() {
    let check = |us: u64, short: &str, long: &str| {
        assert_eq!((seconds(us).as_str(), exact_seconds(us).as_str()), (short, long));
    };
    check(0, "0 s", "0.000000");
    check(999, "999 µs", "0.000999");
    check(12_345, "12.3 ms", "0.012345");
    check(123_456, "123 ms", "0.123456");
    check(1_234_567, "1.23 s", "1.234567");
    check(123_456_789, "123 s", "123.456789");
    let check = |number: u64, expected: &str| assert_eq!(exact(number).replace('\u{202f}', "_"), expected);
    check(0, "0");
    check(999, "999");
    check(1_000, "1_000");
    check(u64::MAX, "18_446_744_073_709_551_615");
}

#[test]
fn the_axis_has_few_round_marks() {
    let check = |total: u64, step: u64, count: usize| {
        let found = ticks(total);
        assert_eq!((found.get(1).copied(), found.len()), (Some(step), count), "{total}");
    };
    check(1, 1, 2);
    check(7_900, 1_000, 8);
    check(8_100, 2_000, 5);
    check(1_000_000, 200_000, 6);
    check(3_600_000_000, 500_000_000, 8);
    assert_eq!(ticks(0), [0]);
    assert!(ticks(u64::MAX).len() <= 10);
}
