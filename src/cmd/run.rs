//! `rbuild run`.

use tokio_util::sync::CancellationToken;

use super::Hall;
use crate::cli::RunArgs;
use crate::cli::values::ProgressArg;
use crate::engine::{self, Failure};
use crate::options;
use crate::progress::Mode;

/// Runs an image in the foreground and returns the exit code of its process.
pub async fn run(hall: &Hall<'_>, args: &RunArgs) -> Result<u8, Failure> {
    let options = options::run::run(args, &hall.config, hall.environment)?;
    // The process owns the terminal: a display that is redrawn would write over what it prints.
    let mode = match hall.config.progress.value {
        ProgressArg::Quiet => Mode::Quiet,
        ProgressArg::None => Mode::None,
        ProgressArg::Rawjson => Mode::RawJson,
        ProgressArg::Auto | ProgressArg::Plain | ProgressArg::Tty => Mode::Plain,
    };
    let settings = hall.settings();
    let (settings, options) = (&settings, &options);
    // Signals stop the preparation; once the process runs, they are passed on to it.
    let running = CancellationToken::new();
    let code = hall.under_display_until(running.clone(), mode, async |progress, cancel| {
        engine::run(settings, options, progress, cancel, &running).await
    });
    Ok(exit_code(code.await?))
}

/// What a shell can see of it: codes beyond 255 cannot be passed on and count as failure.
fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(crate::EXIT_FAILURE)
}

#[cfg(test)]
mod tests {
    #[test]
    fn exit_codes_are_passed_on() {
        let check = |code: i32, expected: u8| assert_eq!(super::exit_code(code), expected);
        check(0, 0);
        check(137, 137);
        check(255, 255);
        check(256, 1);
        check(-1, 1);
    }
}
