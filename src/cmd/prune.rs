//! `rbuild prune`: space comes back.

use std::time::Duration;

use serde_json::json;
use store::{Collected, Kind, Wish};

use super::du::{by_kind, rows_of};
use super::{Hall, table};
use crate::amount::amount;
use crate::cli::values;
use crate::cli::{Format, PruneArgs};
use crate::engine::{self, Failure};
use crate::options::size::Size;
use crate::progress::Mode;

/// Removes, and prints what went.
pub async fn prune(hall: &Hall<'_>, args: &PruneArgs) -> Result<u8, Failure> {
    let wish = wish(args)?;
    let settings = &hall.settings();
    let mode = if args.format == Format::Json { Mode::Quiet } else { Mode::Plain };
    let work =
        hall.under_display(mode, async |progress, _| engine::prune(settings, wish, args.dry_run, progress).await);
    super::print(&text(&work.await?, args))?;
    Ok(0)
}

fn wish(args: &PruneArgs) -> Result<Wish, Failure> {
    let mut wish = Wish { all: args.all, unused_for: args.older_than, ..filtered(&args.filters)? };
    wish.unused_for = wish.unused_for.max(filtered(&args.filters)?.unused_for);
    wish.keep_bytes = match args.keep_storage {
        None => None,
        Some(Size::Bytes(bytes)) => Some(bytes),
        Some(Size::Percent(_)) => {
            return Err(Failure::new("`--keep-storage` takes a size, not a share of the disk")
                .help("for example `--keep-storage 20GB`; `max_size` in config.toml may be a share"));
        }
    };
    Ok(wish)
}

/// What `--filter` asks for; BuildKit's names of kinds are known too.
pub(super) fn filtered(filters: &[String]) -> Result<Wish, Failure> {
    let mut wish = Wish::default();
    for filter in filters {
        let (key, value) = filter.split_once('=').unwrap_or((filter, ""));
        match key {
            "type" => wish.kinds.extend(kinds(value)?),
            "id" if !value.is_empty() => wish.ids.push(value.trim_start_matches("sha256:").to_owned()),
            "until" | "unused-for" => {
                let age =
                    values::duration(value).map_err(|reason| Failure::new(format!("`--filter {filter}`: {reason}")))?;
                wish.unused_for = wish.unused_for.max(Some(age)).filter(|age| *age > Duration::ZERO);
            }
            _ => {
                return Err(Failure::new(format!("`--filter {filter}` means nothing here"))
                    .help("it takes `type=KIND`, `id=ID` and `until=TIME`"));
            }
        }
    }
    Ok(wish)
}

fn kinds(word: &str) -> Result<Vec<Kind>, Failure> {
    Ok(match word {
        "exec.cachemount" => vec![Kind::Mount],
        "source.git.checkout" => vec![Kind::Git],
        "source.local" => vec![Kind::Client, Kind::Context],
        "regular" => vec![Kind::Layer, Kind::Key, Kind::Blob],
        _ => match word.parse() {
            Ok(kind) => vec![kind],
            Err(()) => {
                let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.word()).collect();
                return Err(Failure::new(format!("`--filter type={word}`: there is no such kind"))
                    .help(format!("known here: {}", known.join(", "))));
            }
        },
    })
}

fn text(collected: &Collected, args: &PruneArgs) -> String {
    let freed = collected.freed_bytes();
    match args.format {
        Format::Json => {
            let value = json!({
                "dry_run": args.dry_run,
                "removed": collected.gone,
                "freed_bytes": freed,
                "total_bytes": collected.total_bytes,
            });
            serde_json::to_string_pretty(&value).expect("a JSON value is always JSON") + "\n"
        }
        Format::Table => {
            let mut text = String::new();
            if args.verbose && !collected.gone.is_empty() {
                text += &table::render(
                    ["KIND", "ID", "SIZE"],
                    rows_of(&collected.gone).map(|[kind, id, size, ..]| [kind, id, size]),
                );
            } else if !collected.gone.is_empty() {
                let kinds = by_kind(&collected.gone);
                let cells =
                    kinds.iter().map(|(kind, sum)| [kind.to_string(), sum.count.to_string(), amount(sum.bytes)]);
                text += &table::render(["KIND", "COUNT", "SIZE"], cells);
            }
            let word = if args.dry_run { "Reclaimable" } else { "Reclaimed" };
            text + &format!("Total {} space: {}\n", word.to_ascii_lowercase(), amount(freed))
        }
    }
}

#[cfg(test)]
mod tests {
    use store::Used;

    use super::*;

    fn used(kind: Kind, name: &str, bytes: u64) -> Used {
        let label = "built layer".into();
        Used { kind, name: name.into(), label, bytes, used_at: None, held: None, dependants: 0 }
    }

    fn args(words: &str) -> PruneArgs {
        let line = std::iter::once("prune").chain(words.split_whitespace()).map(std::ffi::OsString::from);
        let Ok(crate::cli::Request::Do(cli)) = crate::cli::parse(line) else { panic!("`{words}` is not understood") };
        let crate::cli::Verb::Prune(args) = cli.verb else { panic!("`{words}` is no prune") };
        args
    }

    #[test]
    fn flags_and_filters_become_a_wish() {
        let check = |words: &str, expected: &str| {
            let wish = wish(&args(words)).map_err(|failure| failure.problems[0].message.clone());
            assert_eq!(wish.map_or_else(|error| error, |wish| format!("{wish:?}")), expected, "{words}");
        };
        check("-af", "Wish { all: true, kinds: [], ids: [], unused_for: None, keep_bytes: None }");
        check(
            "--filter type=mount --filter until=24h --older-than 1h",
            "Wish { all: false, kinds: [Mount], ids: [], unused_for: Some(86400s), keep_bytes: None }",
        );
        check(
            "--filter type=regular --filter id=sha256:ab --keep-storage 1kB",
            "Wish { all: false, kinds: [Layer, Key, Blob], ids: [\"ab\"], unused_for: None, keep_bytes: Some(1000) }",
        );
        check("--filter type=cow", "`--filter type=cow`: there is no such kind");
        check("--filter label=x", "`--filter label=x` means nothing here");
        check(
            "--filter until=soon",
            "`--filter until=soon`: `soon` is not a time: `90s`, `15m`, `48h`, `60d`, `1h30m`",
        );
        check("--keep-storage 10%", "`--keep-storage` takes a size, not a share of the disk");
    }

    #[test]
    fn what_went_is_counted_and_named_on_request() {
        let gone = vec![used(Kind::Layer, "b-1", 2_000_000), used(Kind::Layer, "b-2", 500), used(Kind::Key, "ab", 1)];
        let collected = Collected { gone, ..Collected::default() };
        insta::assert_snapshot!(text(&collected, &args("")), @"
        KIND    COUNT   SIZE
        key     1       1B
        layer   2       2.00MB
        Total reclaimed space: 2.00MB
        ");
        insta::assert_snapshot!(text(&collected, &args("--dry-run --verbose")), @"
        KIND    ID    SIZE
        layer   b-1   2.00MB
        layer   b-2   500B
        key     ab    1B
        Total reclaimable space: 2.00MB
        ");
        assert_eq!(text(&Collected::default(), &args("")), "Total reclaimed space: 0B\n");
    }
}
