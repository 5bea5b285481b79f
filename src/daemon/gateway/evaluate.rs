//! References are solved: once each, whoever asks first, on a thread of its own.
//!
//! In: a reference of a build. Out: the engine's [`Evaluated`]. It is stopped with its build, with the session, and when
//! nobody waits for it any more. What failed is solved again for the next who asks.

use std::sync::{Arc, PoisonError};

use api::control::CacheOptions;
use solver::graph::Edge;
use tokio::sync::Mutex;
use tonic::Status;

use super::{Known, Reference};
use crate::daemon::control::{settings_for, stops};
use crate::daemon::frontend::{self, Asked};
use crate::daemon::job::Job;
use crate::daemon::session::blobs::Kept;
use crate::daemon::thread::beside;
use crate::daemon::{Daemon, definition, error};
use crate::engine::{self, Definition, Evaluated, PlannedBuild};

/// The result of a reference.
///
/// # Errors
/// As a build's.
pub async fn evaluated(daemon: &Daemon, job: &Arc<Job>, known: &Known) -> Result<Arc<Evaluated>, Status> {
    known.evaluated.get_or_try_init(|| solve(daemon, job, &known.what)).await.cloned()
}

/// What is solved.
enum Looked {
    Planned(Arc<Mutex<Option<PlannedBuild>>>, usize),
    Definition(Box<Definition>, Edge),
}

async fn solve(daemon: &Daemon, job: &Arc<Job>, what: &Reference) -> Result<Arc<Evaluated>, Status> {
    job.references.lock().unwrap_or_else(PoisonError::into_inner).evaluate()?;
    let asking = &job.asking;
    let session = daemon.sessions.find(&asking.session).await?;
    let (asked, looked) = match what {
        Reference::Dockerfile(planned, at) => (planned.asked.clone(), Looked::Planned(planned.build.clone(), *at)),
        Reference::Definition(llb) => {
            let imports = job.references.lock().unwrap_or_else(PoisonError::into_inner).imports();
            let defined = definition::definition(daemon, job, &session, vec![llb.clone()]).await?;
            (Asked { imports, ..Asked::default() }, Looked::Definition(Box::new(defined), llb.wants[0]))
        }
    };
    let request = frontend::Request {
        exporters: Vec::new(),
        cache: CacheOptions { exports: Vec::new(), ..asking.cache.clone() },
        entitlements: asking.entitlements.clone(),
        policy: asking.policy.clone(),
        session: session.clone(),
        kept: Kept::default(),
    };
    let options = frontend::options(&daemon.config, &asked, &request);
    let options = options.map_err(|failure| error::status(&failure, None))?;
    let settings = settings_for(daemon, &session);
    let cancel = stops(job.cancel.clone(), session.lost().clone());
    let _unless_awaited = cancel.clone().drop_guard();
    let told = job.told();
    let solve = || async move {
        let mut planned;
        let looked = match &looked {
            Looked::Definition(definition, edge) => engine::Looked::Definition(definition, *edge),
            Looked::Planned(build, at) => {
                planned = build.lock().await;
                match planned.as_mut() {
                    Some(planned) => engine::Looked::Planned(planned, *at),
                    // It is being built.
                    None => engine::Looked::Dockerfile,
                }
            }
        };
        Ok(engine::evaluate(&settings, &options, looked, told, cancel).await)
    };
    let solved = beside(solve).await?;
    solved.map(Arc::new).map_err(|failure| error::status(&failure, job.hub.failed()))
}
