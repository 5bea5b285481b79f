//! Where the time of a build went: `--timings` and `rbuild history timings`.
//!
//! In: a build with its steps, as the history has it ([`store::history`]). Out: one HTML page that needs nothing else: no
//! script, no network. What is found out here is why steps ran; the rest is put together in [`figures`] (what each step
//! took), [`path`] (which steps the build waited for), [`lanes`] (what stands above what) and [`page`] (the text).
//! Deliberately absent: measuring, which is [`super::history`]'s.

mod figures;
mod lanes;
mod page;
mod path;

use std::path::Path;
use std::sync::Arc;

use solver::graph::VertexId;
use solver::seam::{Event, Progress};
use store::Store;
use store::history::Build;

use self::figures::Sheet;
use super::task::in_background;
use super::{Built, Failure, why, words};

/// The page of a build.
///
/// # Errors
/// When the store cannot be read.
pub fn page(store: &Store, build: &Build) -> Result<String, Failure> {
    let failed = |error: store::StoreError| words::store(&error);
    let mut reasons = vec![None; build.steps.len()];
    if let Some(old) = why::before(store, &build.head).map_err(failed)? {
        for miss in why::misses(store, build, &old, &why::ran(build)).map_err(failed)? {
            let texts: Vec<&str> = miss.reasons.iter().map(|told| told.text.as_str()).collect();
            let text = texts.join("; ");
            for step in &miss.steps {
                let beneath = (*step != miss.root).then(|| format!("{}: ", build.steps[miss.root].name));
                reasons[*step] = Some(beneath.unwrap_or_default() + &text);
            }
            reasons[miss.root].get_or_insert(text);
        }
    }
    Ok(page::page(&build.head, &Sheet::of(build, &reasons)))
}

/// Writes the page of a build that has ended, well or not, to `dest`; `-` is standard output. A build that went well and
/// whose page cannot be written has failed.
pub async fn finish(
    built: Result<Built, Failure>,
    store: &Store,
    build: Build,
    dest: &Path,
    progress: &Arc<dyn Progress>,
) -> Result<Built, Failure> {
    let path = dest.to_owned();
    let written = in_background(store, move |store| write(&page(store, &build)?, &path)).await;
    match (built, written) {
        (Ok(_), Err(failure)) => Err(failure),
        (built, Ok(())) => built,
        (built, Err(failure)) => {
            // Why the build failed is what is told last.
            let text = failure.problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ");
            progress.event(Event::Notice { vertex: VertexId::of_name("timings"), text });
            built
        }
    }
}

/// Writes a page into a file of the user's, or to standard output.
///
/// # Errors
/// When that cannot be written.
pub fn write(page: &str, dest: &Path) -> Result<(), Failure> {
    use std::io::Write as _;
    if dest.as_os_str() == "-" {
        let mut out = std::io::stdout().lock();
        return match out.write_all(page.as_bytes()).and_then(|()| out.flush()) {
            // A reader that has seen enough is fine.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::new("standard output cannot be written to").note(error.to_string()))
            }
            _ => Ok(()),
        };
    }
    std::fs::write(dest, page).map_err(|error| {
        Failure::new(format!("the page of timings `{}` cannot be written", dest.display())).note(error.to_string())
    })
}
