//! Waiting for a cache mount that another step uses, in whatever process, until its lock is free or nobody wants it.
//!
//! Deliberately absent: how a lock is waited for ([`crate::waiting`]), which mount one gets ([`store`] decides), the
//! place among `--jobs`, which the caller leaves meanwhile.

use std::time::Duration;

use solver::seam::LogSink;
use store::{BusyMount, MountTurn, shown_mount_id};
use tokio_util::sync::CancellationToken;

use super::StepError;
use crate::error::ExecError;
use crate::waiting::Waiting;

/// Nobody is told of waits that are over at once.
const SILENT_WAIT: Duration = Duration::from_secs(1);

/// Waits for a cache mount; after a moment it says so, once for all waits with the same `told`.
pub(super) async fn wait(
    busy: BusyMount,
    log: &dyn LogSink,
    told: &mut bool,
    cancel: &CancellationToken,
) -> Result<MountTurn, ExecError> {
    let notice = format!("waits for the cache mount `{}`, which another step uses", shown_mount_id(&busy.key.id));
    let mut waiting = Waiting::start("cache-mount", move |given_up| busy.wait(given_up)).map_err(failed)?;
    let turn = tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        turn = &mut waiting => Some(turn),
        () = tokio::time::sleep(SILENT_WAIT), if !*told => {
            log.notice(&notice);
            *told = true;
            tokio::select! {
                biased;
                () = cancel.cancelled() => None,
                turn = &mut waiting => Some(turn),
            }
        }
    };
    let turn = turn.ok_or(ExecError::Canceled)?;
    Ok(turn?.expect("nobody gave up"))
}

fn failed(source: std::io::Error) -> StepError {
    StepError::Io { act: "start", path: "the thread that waits for a cache mount".into(), source }
}
