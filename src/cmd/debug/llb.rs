//! `rbuild debug llb`: the operations of a plan as a definition of the low-level builder.
//!
//! As JSON, one operation per line with its digest, or as the bytes that clients of BuildKit send and read.

use std::io::{IsTerminal as _, Write as _};

use frontend::Plan;
use prost::Message as _;

use crate::cli::DebugFormat;
use crate::daemon::llb::{self, Dockerfile};
use crate::engine::{Failure, Text};
use crate::escape;

/// Prints what the plan wants.
pub fn print(dockerfile: &Text, plan: &Plan, format: DebugFormat) -> Result<u8, Failure> {
    let text = Dockerfile { name: &dockerfile.name, text: &dockerfile.text, spans: &plan.spans };
    let wants: Vec<_> = plan.output.edge.into_iter().collect();
    let written = llb::write(&plan.graph, &wants, Some(text)).map_err(|error| Failure::from_error(&error))?;
    if format == DebugFormat::Pb {
        let bytes = written.definition.encode_to_vec();
        let mut out = std::io::stdout().lock();
        if out.is_terminal() {
            return Err(Failure::new("a definition is bytes, and standard output is a terminal")
                .help("write it to a file, or leave `--format pb` out"));
        }
        let printed = out.write_all(&bytes).and_then(|()| out.flush());
        return printed.map(|()| 0).map_err(|error| Failure::new(format!("cannot print the definition: {error}")));
    }
    let lines = llb::json::lines(&written.definition).map_err(|error| Failure::from_error(&error))?;
    crate::cmd::print(&lines.iter().map(escape::json_line).collect::<String>())?;
    Ok(0)
}
