//! Flags of `rbuild check`, and those with which `rbuild build` looks instead of building.

use clap::{ArgAction, Args, ValueEnum};

use super::input::InputArgs;

/// How findings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// For people
    Text,
    /// As `docker build --call=check,format=json`
    Json,
    /// SARIF 2.1.0, for code hosts and editors
    Sarif,
    /// Annotations of GitHub Actions
    Github,
}

/// Flags of `rbuild check`.
#[derive(Debug, Default, Args)]
#[command(
    args_override_self = true,
    after_help = "\
Nothing is built, fetched or kept, and no rights are needed. Images are looked up in the local store if there is one.
Findings go to standard output. In GitHub Actions, annotations go to standard error as well, unless --format is given.

A finding is skipped with `# check=skip=RULE` at the top of the file or above the instruction.

Exit codes:
  0    nothing was found (with --fix: nothing is left)
  1    there are warnings or errors, or the file could not be read
  130  interrupted

Examples:
  rbuild check .                                look at the Dockerfile of this folder
  rbuild check -f app.Dockerfile --fix .        mend what can be mended
  rbuild check --fix -f - . < old > new         the same as a filter
  rbuild check --format sarif . > check.sarif   for a code host"
)]
pub struct CheckArgs {
    /// What is looked at.
    #[command(flatten)]
    pub input: InputArgs,
    /// How findings are printed: text, json, sarif or github [default: text]
    #[arg(long, value_name = "FORMAT", value_enum, hide_possible_values = true)]
    pub format: Option<CheckFormat>,
    /// Mend what needs no judgement, and write the file back: the image stays the same, but for commands of plain words
    /// that lose a shell which had nothing to do (JSONArgsRecommended)
    #[arg(long)]
    pub fix: bool,
}

/// With what `rbuild build` looks instead of building.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Look instead of building")]
pub struct CallArgs {
    /// Only check the Dockerfile, like `rbuild check`; the exit code is 1 if anything was found
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", hide_default_value = true, hide_possible_values = true, action = ArgAction::Set)]
    pub check: bool,
    /// check; outline: build arguments, secrets and caches of the target; targets: all stages; build.
    /// `,format=json` behind it is for programs
    #[arg(long, value_name = "WHAT[,format=FORMAT]", value_parser = call)]
    pub call: Option<Call>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// To build.
    Build,
    /// What is wrong.
    Check {
        /// `format=`.
        format: Option<CheckFormat>,
        /// `ignorestatus=true`: the exit code is 0 whatever is found.
        ignore_status: bool,
    },
    /// What the target can be given.
    Outline {
        /// Whether for programs.
        json: bool,
    },
    /// Which stages there are.
    Targets {
        /// Whether for programs.
        json: bool,
    },
}

impl CallArgs {
    /// What is asked for; `--check` stands for `--call=check`.
    pub fn wanted(&self) -> Call {
        match self.call {
            Some(call) => call,
            None if self.check => Call::Check { format: None, ignore_status: false },
            None => Call::Build,
        }
    }
}

/// `check`, `outline,format=json`.
fn call(text: &str) -> Result<Call, String> {
    let mut parts = text.split(',').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let (mut format, mut ignore_status) = (None, false);
    for part in parts {
        match part.split_once('=').unwrap_or((part, "")) {
            ("format", value) => {
                let known = CheckFormat::from_str(value, false).ok();
                format = Some(known.ok_or_else(|| format!("`{value}` is none of text, json, sarif, github"))?);
            }
            ("ignorestatus", "" | "true" | "1") => ignore_status = true,
            ("ignorestatus", "false" | "0") => ignore_status = false,
            ("ignorestatus", value) => return Err(format!("`ignorestatus` is true or false, not `{value}`")),
            (option, _) => return Err(format!("`{option}` is none of format, ignorestatus")),
        }
    }
    let json = match format {
        None | Some(CheckFormat::Text) => Ok(false),
        Some(CheckFormat::Json) => Ok(true),
        Some(_) => Err(format!("`{name}` is printed as text or json only")),
    };
    match name {
        "build" => Ok(Call::Build),
        "check" | "lint" => Ok(Call::Check { format, ignore_status }),
        "outline" => json.map(|json| Call::Outline { json }),
        "targets" => json.map(|json| Call::Targets { json }),
        name => Err(format!("`{name}` is none of check, outline, targets, build")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_understood() {
        let check = |text: &str, expected: Call| assert_eq!(call(text), Ok(expected), "{text}");
        let lint = |format, ignore_status| Call::Check { format, ignore_status };
        check("build", Call::Build);
        check("check", lint(None, false));
        check("lint", lint(None, false));
        check("check,format=json", lint(Some(CheckFormat::Json), false));
        check("check,format=sarif,ignorestatus=true", lint(Some(CheckFormat::Sarif), true));
        check("check, ignorestatus", lint(None, true));
        check("outline", Call::Outline { json: false });
        check("outline,format=json", Call::Outline { json: true });
        check("targets,format=text", Call::Targets { json: false });
    }

    #[test]
    fn what_is_no_call_is_refused() {
        let check = |text: &str, expected: &str| {
            let reason = call(text).expect_err(text);
            assert!(reason.contains(expected), "{text}: {reason}");
        };
        check("", "`` is none of check, outline, targets, build");
        check("chekc", "`chekc` is none of check");
        check("check,format=xml", "`xml` is none of text");
        check("outline,format=sarif", "text or json only");
        check("check,color=always", "`color` is none of format, ignorestatus");
        check("check,ignorestatus=perhaps", "not `perhaps`");
    }
}
