//! When a request is tried again, and after how long.
//!
//! An error comes in; a pause or the final error goes out. Tried again: what the network broke, 408, 429 and the 5xx
//! that pass. The pause doubles, with jitter, and `Retry-After` overrules it up to a cap. Clock, chance and sleep are
//! a [`Pace`], so that tests wait for nothing. Deliberately absent: what the request is.

use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::error::RegistryError;

/// Retries of one request before its error is final.
const RETRIES_MAX: u32 = 5;
/// Retries when not even a connection was made: a wrong port or no network should not cost half a minute.
const CONNECT_RETRIES_MAX: u32 = 2;
/// First pause; it doubles with each retry.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause of our own choice.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A pause of that length is said to whoever watches: nothing moves meanwhile.
const SAID_FROM: Duration = Duration::from_secs(3);
/// Longest pause that a registry may ask for. Who asks for hours is asked again after this, and then the build fails
/// with its words rather than hang.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The clock, chance, and waiting.
pub trait Pace: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> jiff::Timestamp;

    /// A number from 0 (included) to 1 (excluded), evenly spread.
    fn chance(&self) -> f64;

    /// Waits.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// How long all pauses between the tries of one request may be together; `None`: as long as there are tries.
    fn pauses_max(&self) -> Option<Duration> {
        None
    }

    /// Hears of a pause that somebody who watches will notice, before it begins, and why it is made.
    fn waits(&self, why: &str, pause: Duration) {
        tracing::debug!(why, pause_seconds = pause.as_secs_f64(), "waiting");
    }
}

/// The machine's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealPace;

impl Pace for RealPace {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    fn chance(&self) -> f64 {
        // Each `RandomState` is keyed at random; spreading retries needs no more than that.
        let bits = std::hash::RandomState::new().build_hasher().finish();
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// The tries of one request, whatever it is.
pub struct Tries<'a> {
    pace: &'a dyn Pace,
    failed: u32,
    paused: Duration,
}

impl<'a> Tries<'a> {
    /// None so far.
    pub fn new(pace: &'a dyn Pace) -> Self {
        Self { pace, failed: 0, paused: Duration::ZERO }
    }

    /// How many have failed.
    pub fn failed(&self) -> u32 {
        self.failed
    }

    /// Something was achieved: what comes is a new request.
    pub fn progressed(&mut self) {
        (self.failed, self.paused) = (0, Duration::ZERO);
    }

    /// Counts a failure and waits for the next try; `false` when there is none.
    pub async fn again(&mut self, wait: Option<Wait>) -> bool {
        self.again_after(wait, || None).await
    }

    /// The same; `why` is said when the pause is one that will be noticed.
    pub async fn again_after(&mut self, wait: Option<Wait>, why: impl FnOnce() -> Option<String>) -> bool {
        self.failed += 1;
        let Some(wait) = wait.filter(|wait| self.failed <= wait.retries_max) else { return false };
        let pause = wait.pause(self.failed, self.pace.chance());
        if self.pace.pauses_max().is_some_and(|most| self.paused + pause > most) {
            return false;
        }
        self.paused += pause;
        tracing::info!(retry = self.failed, pause_seconds = pause.as_secs_f64(), "trying again");
        if pause >= SAID_FROM
            && let Some(why) = why()
        {
            self.pace.waits(&why, pause);
        }
        self.pace.sleep(pause).await;
        true
    }
}

/// The tries of one request to a registry.
pub(super) struct Attempts<'a> {
    tries: Tries<'a>,
    /// Whether somebody else can be asked instead.
    has_alternative: bool,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(pace: &'a dyn Pace) -> Self {
        Self { tries: Tries::new(pace), has_alternative: false }
    }

    /// Of one that somebody else could answer as well: only what broke on the way is asked for once more.
    pub(super) fn with_alternative(self, has_alternative: bool) -> Self {
        Self { has_alternative, ..self }
    }

    /// Something was achieved: what comes is a new request.
    pub(super) fn progressed(&mut self) {
        self.tries.progressed();
    }

    /// Waits before the next try, or gives the error back if there is none.
    pub(super) async fn pause(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let wait = wait_after(&error).filter(|_| !self.has_alternative || self.is_worth_a_second(&error));
        self.wait(error, wait).await
    }

    /// The same for an error that is not worth a retry as such, but is here.
    pub(super) async fn pause_as_transient(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.wait(error, Some(Wait::transient(None))).await
    }

    /// Of a mirror: a transfer that was cut goes on where it stopped, which is cheaper than all of it from elsewhere.
    fn is_worth_a_second(&self, error: &RegistryError) -> bool {
        self.tries.failed() == 0
            && matches!(error, RegistryError::Transport { connecting: false, .. } | RegistryError::Idle { .. })
    }

    async fn wait(&mut self, error: RegistryError, wait: Option<Wait>) -> Result<(), RegistryError> {
        tracing::debug!(%error, "a request failed");
        if self.tries.again_after(wait, || Some(error.to_string())).await {
            return Ok(());
        }
        let failed = self.tries.failed();
        Err(if failed > 1 { error.after_attempts(failed) } else { error })
    }
}

/// How often a failure is worth another try, and how long whoever was asked wants to be left alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wait {
    retries_max: u32,
    retry_after: Option<Duration>,
}

impl Wait {
    /// After a failure that may pass. `retry_after` is what the server asked for.
    pub fn transient(retry_after: Option<Duration>) -> Self {
        Self { retries_max: RETRIES_MAX, retry_after }
    }

    /// After a connection that was not made.
    pub fn connecting() -> Self {
        Self { retries_max: CONNECT_RETRIES_MAX, retry_after: None }
    }

    /// After an answer of this status; `None` when it will not change.
    pub fn status(status: u16, retry_after: Option<Duration>) -> Option<Self> {
        matches!(status, 408 | 429 | 500 | 502 | 503 | 504).then(|| Self::transient(retry_after))
    }

    /// `failed` counts from 1.
    fn pause(&self, failed: u32, chance: f64) -> Duration {
        let own = FIRST_PAUSE.saturating_mul(1 << (failed - 1).min(16)).min(PAUSE_MAX);
        // Between half and all of it, so that many builds do not come back together.
        let own = own.mul_f64(0.5 + chance / 2.0);
        self.retry_after.map_or(own, |asked| asked.min(RETRY_AFTER_MAX).max(own))
    }
}

/// Hears a line for the user.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// A [`Pace`] for somebody who watches, and whose patience may have an end.
pub struct Watched {
    pace: Arc<dyn Pace>,
    tell: Tell,
    pauses_max: Option<Duration>,
}

impl Watched {
    /// The same pace; `tell` hears of pauses that will be noticed, and of what is asked again only so long.
    pub fn new(pace: Arc<dyn Pace>, tell: Tell, pauses_max: Option<Duration>) -> Self {
        Self { pace, tell, pauses_max }
    }
}

impl Pace for Watched {
    fn now(&self) -> jiff::Timestamp {
        self.pace.now()
    }

    fn chance(&self) -> f64 {
        self.pace.chance()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.pace.sleep(duration)
    }

    fn pauses_max(&self) -> Option<Duration> {
        self.pauses_max.or_else(|| self.pace.pauses_max())
    }

    fn waits(&self, why: &str, pause: Duration) {
        self.pace.waits(why, pause);
        (self.tell)(&format!("waiting {} s: {why}", pause.as_secs()));
    }
}

fn wait_after(error: &RegistryError) -> Option<Wait> {
    match error {
        // Tried enough elsewhere: a token server's, for example.
        RegistryError::Transport { attempts: 2.., .. }
        | RegistryError::Idle { attempts: 2.., .. }
        | RegistryError::Status { attempts: 2.., .. } => None,
        RegistryError::Transport { connecting: true, .. } => Some(Wait::connecting()),
        RegistryError::Transport { .. } | RegistryError::Idle { .. } => Some(Wait::transient(None)),
        RegistryError::Status { status, retry_after, .. } => Wait::status(*status, *retry_after),
        _ => None,
    }
}

/// `Retry-After`: seconds, or an HTTP date. RFC 9110, section 10.2.3. A date in the past is no wait; nonsense is `None`.
pub fn retry_after(value: &str, now: jiff::Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are more than any cap.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::error::RequestName;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now: jiff::Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let cases = [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
            ("-5", None),
            ("soon", None),
            ("", None),
        ];
        for (value, seconds) in cases {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_cap_and_honour_the_registry() {
        let own = Wait { retries_max: 5, retry_after: None };
        let millis: Vec<u128> = (1..=8).map(|n| own.pause(n, 0.999_999).as_millis()).collect();
        assert_eq!(millis, [499, 999, 1999, 3999, 7999, 15999, 29999, 29999]);
        assert_eq!(own.pause(1, 0.0).as_millis(), 250);
        assert_eq!(own.pause(200, 0.0).as_millis(), 15000);
        let asked = |seconds| Wait { retries_max: 5, retry_after: Some(Duration::from_secs(seconds)) };
        assert_eq!(asked(7).pause(1, 0.0), Duration::from_secs(7));
        assert_eq!(asked(36_000).pause(1, 0.0), RETRY_AFTER_MAX);
        assert_eq!(asked(0).pause(1, 0.0), Duration::from_millis(250), "zero is no licence to hammer");
    }

    /// Stands still, and nobody waits for it.
    struct Still;

    impl Pace for Still {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }

        fn chance(&self) -> f64 {
            0.0
        }

        fn sleep(&self, _duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(std::future::ready(()))
        }
    }

    #[tokio::test]
    async fn a_request_is_tried_as_long_as_its_pauses_may_be_and_who_watches_hears_of_long_ones() {
        let check = async |pauses_max: Option<u64>, retry_after: Option<u64>, retries: u32, heard: usize| {
            let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
            let kept = lines.clone();
            let tell: Tell = Arc::new(move |line| kept.lock().unwrap().push(line.to_owned()));
            let pace = Watched::new(Arc::new(Still), tell, pauses_max.map(Duration::from_secs));
            let mut tries = Tries::new(&pace);
            let wait = Some(Wait::transient(retry_after.map(Duration::from_secs)));
            while tries.again_after(wait, || Some("why".into())).await {}
            assert_eq!(tries.failed() - 1, retries, "{pauses_max:?}, {retry_after:?}");
            let lines = lines.lock().unwrap();
            assert_eq!(lines.len(), heard, "{lines:?}");
            assert!(lines.iter().all(|line| line.starts_with("waiting ") && line.ends_with(" s: why")), "{lines:?}");
        };
        // Pauses of a quarter, half, one, two and four seconds.
        check(None, None, 5, 1).await;
        check(Some(60), None, 5, 1).await;
        check(Some(4), None, 4, 0).await;
        check(Some(1), None, 2, 0).await;
        check(Some(0), None, 0, 0).await;
        check(None, Some(20), 5, 5).await;
        check(Some(50), Some(20), 2, 2).await;
        check(Some(10), Some(20), 0, 0).await;
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let request = RequestName { method: "GET".into(), host: "h".into(), path: "/".into() };
        let status = |status| RegistryError::Status {
            request: request.clone(),
            status,
            words: None,
            retry_after: None,
            attempts: 1,
        };
        for again in [408, 429, 500, 502, 503, 504] {
            assert!(wait_after(&status(again)).is_some(), "{again}");
        }
        for never in [400, 401, 403, 404, 405, 413, 416, 418, 501, 505] {
            assert_eq!(wait_after(&status(never)), None, "{never}");
        }
    }

    #[test]
    fn chance_is_between_zero_and_one() {
        let draws: Vec<f64> = (0..100).map(|_| RealPace.chance()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        assert!(draws.iter().any(|draw| *draw != draws[0]));
    }
}
