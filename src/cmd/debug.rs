//! `rbuild debug`: the stages between a Dockerfile and its image, printed.

mod llb;
mod steps;

use executor::StepSettings;
use executor::source::given::Given;
use frontend::Severity;
use frontend::debug::{self, graph::Drawing, json};

use super::Hall;
use crate::cli::{DebugArgs, DebugFormat, DebugWhat};
use crate::engine::{Checker, Failure, inspect};
use crate::escape;
use crate::options::{self, InputOptions};
use crate::report::{self, Reporter};

/// The file is not well-formed.
const FAULTY: u8 = 1;

/// Prints what is asked for.
pub async fn debug(hall: &Hall<'_>, args: &DebugArgs) -> Result<u8, Failure> {
    if args.what != DebugWhat::Graph && matches!(args.format, DebugFormat::Dot | DebugFormat::Mermaid) {
        return Err(Failure::new("only a graph is drawn").help("write `rbuild debug graph`, or `--format json`"));
    }
    if args.what != DebugWhat::Llb && args.format == DebugFormat::Pb {
        return Err(Failure::new("only a definition is written as `pb`").help("write `rbuild debug llb --format pb`"));
    }
    let input = options::input::input(&args.input, &hall.config, hall.environment)?;
    if args.what == DebugWhat::Ast {
        return ast(hall, &input, args.format);
    }
    options::input::single(&input, "rbuild debug")?;
    let settings = &hall.settings();
    let (dockerfile, plan) = if settings.offline {
        inspect::plan_offline(settings, &input)?
    } else {
        // There are no flags for it here; a build would have what the config files give it.
        let (secrets, agents) = (&hall.config.secrets.value, &hall.config.ssh.value);
        let given = Given::of(&StepSettings {
            secrets: options::secrets::secrets(secrets, hall.environment)?,
            agents: options::secrets::agents(agents, hall.environment)?,
            ..StepSettings::default()
        });
        let plan = async |progress, cancel| inspect::plan(settings, &input, &given, progress, cancel).await;
        hall.under_display(hall.mode()?, plan).await?
    };
    if args.what == DebugWhat::Llb {
        return llb::print(&dockerfile, &plan, args.format);
    }
    let drawing = || Drawing::of(&dockerfile.text, &plan);
    let shown = StepSettings { rung: settings.rung, ..StepSettings::default() };
    super::print(&match (args.what, args.format) {
        (DebugWhat::Graph, DebugFormat::Text) => escape::lines(&drawing().text()).into_owned(),
        (DebugWhat::Graph, DebugFormat::Json) => escape::json(&drawing().json()),
        (DebugWhat::Graph, DebugFormat::Dot) => drawing().dot(),
        (DebugWhat::Graph, DebugFormat::Mermaid) => drawing().mermaid(),
        (DebugWhat::Steps, DebugFormat::Json) => {
            escape::json(&steps::json(&steps::of(&dockerfile.text, &plan, &shown)?))
        }
        (DebugWhat::Steps, _) => escape::lines(&steps::text(&steps::of(&dockerfile.text, &plan, &shown)?)).into_owned(),
        (_, DebugFormat::Json) => escape::json(&json::plan(&plan)),
        (_, _) => escape::lines(&debug::plan(&plan)).into_owned(),
    })?;
    Ok(0)
}

/// The statements that could be read; what could not be is told beside them.
fn ast(hall: &Hall<'_>, input: &InputOptions, format: DebugFormat) -> Result<u8, Failure> {
    let dockerfile = Checker::open(&hall.settings(), input)?.dockerfile;
    let (ast, found) = frontend::parse::parse(&dockerfile.text);
    super::print(&match format {
        DebugFormat::Json => escape::json(&json::ast(&ast)),
        _ => escape::lines(&debug::ast(&ast)).into_owned(),
    })?;
    let mut reporter = Reporter::new(hall.style());
    let mut code = 0;
    for found in found.iter().filter(|found| found.severity == Severity::Error) {
        report::print(&reporter.problem(report::Severity::Error, &crate::engine::problem(found, &dockerfile)));
        code = FAULTY;
    }
    Ok(code)
}
