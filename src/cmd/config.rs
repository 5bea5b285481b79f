//! `rbuild config`: every setting and where it comes from.

use super::{Hall, table};
use crate::cli::{ConfigArgs, Format};
use crate::engine::Failure;
use crate::escape;

/// Prints every setting and where it comes from.
pub fn config(hall: &Hall<'_>, args: &ConfigArgs) -> Result<u8, Failure> {
    let rows = hall.config.rows();
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
