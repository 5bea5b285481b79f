//! `rbuild config`: every setting and where it comes from.

use super::{Hall, table};
use crate::cli::{ConfigArgs, Format};
use crate::config::Row;
use crate::engine::Failure;
use crate::{escape, report};

/// Prints every setting and where it comes from.
pub fn config(hall: &Hall<'_>, args: &ConfigArgs) -> Result<u8, Failure> {
    let mut rows = hall.config.rows();
    let sources = hall.registries().hosts;
    let (hosts, unqualified) = sources.read();
    // Those of rbuild's own files are settings like others, and known already.
    for (key, value, source) in hosts.rules().skip(sources.own_count()).flat_map(oci::hosts::Rule::rows) {
        rows.push(Row { key, value, source: source.to_string() });
    }
    if let Some((names, source)) = unqualified {
        let value = format!("{} (not used: names without a registry mean docker.io)", names.join(" "));
        rows.push(Row { key: "unqualified-search-registries".into(), value, source: source.to_string() });
    }
    for warning in hosts.warnings() {
        report::print(&report::note(warning, hall.style()));
    }
    let text = match args.format {
        Format::Json => serde_json::to_string_pretty(&rows).expect("texts are always JSON") + "\n",
        Format::Table => {
            let cells =
                rows.iter().map(|row| [&row.key, &row.value, &row.source].map(|cell| escape::line(cell).into()));
            table::render(["SETTING", "VALUE", "FROM"], cells)
        }
    };
    super::print(&text)?;
    Ok(0)
}
