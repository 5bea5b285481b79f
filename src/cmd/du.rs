//! `rbuild du`: what the store takes, and why.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;
use store::{Holder, Kind, Limit, Usage, Used};

use super::images::ago;
use super::prune::filtered;
use super::{Hall, table};
use crate::amount::amount;
use crate::cli::{DuArgs, Format};
use crate::engine::{self, Failure};
use crate::escape;
use crate::progress::Mode;

/// Prints what the store takes.
pub async fn du(hall: &Hall<'_>, args: &DuArgs) -> Result<u8, Failure> {
    let wish = filtered(&args.filters)?;
    let settings = &hall.settings();
    let mode = if args.format == Format::Json { Mode::Quiet } else { Mode::Plain };
    let (mut usage, limit) =
        hall.under_display(mode, async |progress, _| engine::usage(settings, progress).await).await?;
    let now = Timestamp::now();
    if !args.filters.is_empty() {
        usage.things.retain(|used| {
            let age = now.as_second().saturating_sub(used.used_at.unwrap_or_default());
            let unused = wish.unused_for.is_none_or(|least| u64::try_from(age).is_ok_and(|age| age >= least.as_secs()));
            let kind = wish.kinds.is_empty() || wish.kinds.contains(&used.kind);
            kind && unused && (wish.ids.is_empty() || wish.ids.iter().any(|id| used.name.starts_with(id)))
        });
        usage.other.clear();
        usage.total_bytes = usage.things.iter().map(|used| used.bytes).sum();
    }
    super::print(&text(&usage, &limit, args, now))?;
    Ok(0)
}

/// What some things come to.
#[derive(Default)]
pub(super) struct Sum {
    pub(super) count: usize,
    pub(super) bytes: u64,
    free_bytes: u64,
}

pub(super) fn by_kind(things: &[Used]) -> BTreeMap<&'static str, Sum> {
    let mut kinds: BTreeMap<&'static str, Sum> = BTreeMap::new();
    for used in things {
        let sum = kinds.entry(used.kind.word()).or_default();
        sum.count += 1;
        sum.bytes += used.bytes;
        sum.free_bytes += if used.held.is_none() { used.bytes } else { 0 };
    }
    kinds
}

fn text(usage: &Usage, limit: &Limit, args: &DuArgs, now: Timestamp) -> String {
    let free: u64 = usage.things.iter().filter(|used| used.held.is_none()).map(|used| used.bytes).sum();
    if args.format == Format::Json {
        let things: Vec<_> = usage.things.iter().map(|used| row(used, now)).collect();
        let value = json!({
            "things": things,
            "other": usage.other,
            "total_bytes": usage.total_bytes,
            "reclaimable_bytes": free,
            "max_bytes": limit.max_bytes,
            "max_mount_bytes": limit.max_mount_bytes,
        });
        return serde_json::to_string_pretty(&value).expect("a JSON value is always JSON") + "\n";
    }
    let mut text = String::new();
    if args.verbose {
        let cells = rows_of(&usage.things).zip(&usage.things).map(|([kind, id, size, what], used)| {
            let when = used.used_at.map_or("-".into(), |at| since(at, now));
            [kind, id, size, when, what, reason(used, now)]
        });
        text += &table::render(["KIND", "ID", "SIZE", "LAST USED", "WHAT", "KEPT BECAUSE"], cells);
        text += "\n";
    }
    let kinds = by_kind(&usage.things);
    let cells = kinds
        .iter()
        .map(|(kind, sum)| [kind.to_string(), sum.count.to_string(), amount(sum.bytes), amount(sum.free_bytes)]);
    let others = usage.other.iter().filter(|(_, bytes)| **bytes > 0);
    let others = others.map(|(name, bytes)| [escape::line(name).into(), "-".into(), amount(*bytes), "-".into()]);
    text += &table::render(["KIND", "COUNT", "SIZE", "RECLAIMABLE"], cells.chain(others));
    if let (Some(mounts), Some(max)) = (kinds.get(Kind::Mount.word()), limit.max_mount_bytes) {
        text += &format!("Cache mounts: {}, may take {}\n", amount(mounts.bytes), amount(max));
    }
    let (free, total, max) = (amount(free), amount(usage.total_bytes), amount(limit.max_bytes));
    text + &format!("Reclaimable: {free}\nTotal: {total}, may take {max}\n")
}

/// Kind, id, size, and what it is.
pub(super) fn rows_of(things: &[Used]) -> impl Iterator<Item = [String; 4]> {
    things.iter().map(|used| {
        let id = match used.kind {
            Kind::Layer if used.name.len() > 14 => &used.name[..14],
            Kind::Mount | Kind::Layer | Kind::Note => &used.name,
            _ => used.name.get(..12).unwrap_or(&used.name),
        };
        [used.kind.to_string(), escape::line(id).into(), amount(used.bytes), escape::line(&used.label).into()]
    })
}

fn row(used: &Used, now: Timestamp) -> serde_json::Value {
    json!({
        "kind": used.kind,
        "id": used.name,
        "what": used.label,
        "size_bytes": used.bytes,
        "last_used": used.used_at.and_then(|at| Timestamp::from_second(at).ok()).map(|at| at.to_string()),
        "reclaimable": used.held.is_none(),
        "kept_because": reason(used, now),
    })
}

/// Why a thing is there.
fn reason(used: &Used, now: Timestamp) -> String {
    match &used.held {
        Some(Holder::Tag(name)) if used.kind == Kind::Image => format!("tag {}", escape::line(name)),
        Some(Holder::Tag(name)) => format!("beneath tag {}", escape::line(name)),
        Some(Holder::Build) => "running build".into(),
        Some(Holder::Pin) => "pinned".into(),
        None => match (used.used_at, used.dependants) {
            (_, 1) => "beneath 1 other".into(),
            (_, count @ 2..) => format!("beneath {count} others"),
            (Some(at), 0) => format!("used {}", since(at, now)),
            (None, 0) => "not used yet".into(),
        },
    }
}

fn since(at: i64, now: Timestamp) -> String {
    Timestamp::from_second(at).map_or_else(|_| "-".into(), |at| ago(now.duration_since(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(verbose: bool, format: Format) -> String {
        let used = |kind, name: &str, bytes, held, dependants| Used {
            kind,
            name: name.into(),
            label: "built layer".into(),
            bytes,
            used_at: Some(0),
            held,
            dependants,
        };
        let tag = Some(Holder::Tag("app:1".into()));
        let usage = Usage {
            things: vec![
                used(Kind::Image, &"ab".repeat(32), 4096, tag.clone(), 0),
                used(Kind::Layer, "b-abcdefghijklmnopqrstuvwxyz", 2_000_000, tag, 1),
                used(Kind::Layer, "b-2", 1_000_000, None, 2),
                used(Kind::Mount, "m", 500, Some(Holder::Build), 0),
                used(Kind::Git, "g", 500, None, 0),
            ],
            other: [("index".to_owned(), 700)].into(),
            total_bytes: 3_005_796,
        };
        let args = DuArgs { verbose, filters: Vec::new(), format };
        let limit = Limit { max_bytes: 10_000_000, max_mount_bytes: Some(5_000_000), ..Limit::default() };
        text(&usage, &limit, &args, Timestamp::from_second(7200).expect("a time"))
    }

    #[test]
    fn what_the_store_takes_is_told_by_kind_and_thing_by_thing_on_request() {
        insta::assert_snapshot!(check(false, Format::Table), @"
        KIND    COUNT   SIZE     RECLAIMABLE
        git     1       500B     500B
        image   1       4.10kB   0B
        layer   2       3.00MB   1.00MB
        mount   1       500B     0B
        index   -       700B     -
        Cache mounts: 500B, may take 5.00MB
        Reclaimable: 1.00MB
        Total: 3.01MB, may take 10.00MB
        ");
        insta::assert_snapshot!(check(true, Format::Table), @"
        KIND    ID               SIZE     LAST USED     WHAT          KEPT BECAUSE
        image   abababababab     4.10kB   2 hours ago   built layer   tag app:1
        layer   b-abcdefghijkl   2.00MB   2 hours ago   built layer   beneath tag app:1
        layer   b-2              1.00MB   2 hours ago   built layer   beneath 2 others
        mount   m                500B     2 hours ago   built layer   running build
        git     g                500B     2 hours ago   built layer   used 2 hours ago

        KIND    COUNT   SIZE     RECLAIMABLE
        git     1       500B     500B
        image   1       4.10kB   0B
        layer   2       3.00MB   1.00MB
        mount   1       500B     0B
        index   -       700B     -
        Cache mounts: 500B, may take 5.00MB
        Reclaimable: 1.00MB
        Total: 3.01MB, may take 10.00MB
        ");
        let json: serde_json::Value = serde_json::from_str(&check(false, Format::Json)).expect("it is JSON");
        assert_eq!(json["reclaimable_bytes"], 1_000_500);
        assert_eq!(json["things"][0]["kept_because"], "tag app:1");
        assert_eq!(json["things"][2]["reclaimable"], true);
    }
}
