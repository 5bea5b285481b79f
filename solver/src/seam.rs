//! What the solver asks of the world, and what it tells it.
//!
//! [`Executor`] runs operations, [`CacheStore`] remembers results, [`Progress`] listens. Each is written in plain
//! data, has a toy in this room's tests and the real one elsewhere.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::canon::Part;
use crate::graph::{Vertex, VertexId};
use crate::key::{ContentDigest, Key};
use crate::op::{OpMeta, SourceOp};
use crate::place::Place;
use crate::work::Work;

/// Name of a result, given by the executor, understood by the executor and the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ResultId(pub String);

impl ResultId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ResultId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a source is, for keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// It is exactly this, and its key says so.
    Content(ContentDigest),
    /// It has no key of its own (a directory of the user): every operation that reads it takes the digest of the
    /// paths it selects into its key. See [`Executor::digest_selected`].
    Selected,
}

/// Which paths of a local source an operation reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selection {
    /// Path or pattern, absolute within the source.
    pub path: String,
    /// Whether `path` may hold wildcards.
    pub wildcard: bool,
    /// Whether a pattern that matches nothing is fine.
    pub allow_empty_wildcard: bool,
    /// Whether a link at `path` stands for what it points to.
    pub follow_symlinks: bool,
    /// Whether a directory stands for its contents (its own name and attributes do not count).
    pub dir_contents_only: bool,
    /// Only paths that match count; empty means all.
    pub include_patterns: Vec<String>,
    /// Paths that match do not count.
    pub exclude_patterns: Vec<String>,
    /// Paths or patterns beneath `path` of which each must be there; see [`crate::op::CopyAction::required_paths`].
    pub required_paths: Vec<String>,
}

/// One operation that is to be run now.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// Which vertex.
    pub id: VertexId,
    /// The operation, its platform, its edges.
    pub vertex: &'a Vertex,
    /// What stands beside it.
    pub meta: &'a OpMeta,
    /// The results of `vertex.inputs`, in that order.
    pub inputs: Vec<ResultId>,
    /// The operations of those inputs that are sources, likewise.
    pub sources: Vec<Option<&'a SourceOp>>,
    /// Its place among those that run at once, to be left while it waits for something that is not its build's.
    pub place: Place,
}

/// What an operation reads of one of its inputs: what its content key takes in from there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Read {
    /// All of it, layer by layer: what the operation's result stands on.
    Chain,
    /// These paths of the merged tree, with their owners.
    Selected(Selection),
}

/// Runs operations. Shared by all tasks of a build.
pub trait Executor: Send + Sync + 'static {
    /// Why something could not be done.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What `source` is, before it is fetched. Cheap and idempotent. Ends soon after `cancel` fires.
    fn pin(
        &self,
        source: &SourceOp,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<Pin, Self::Error>> + Send;

    /// Digest of what `selection` selects in a source that is [`Pin::Selected`]. Ends soon after `cancel` fires.
    fn digest_selected(
        &self,
        source: &SourceOp,
        selection: &Selection,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<ContentDigest, Self::Error>> + Send;

    /// Digest of what `read` reads of a result; equal digests mean that an operation cannot tell the results apart.
    /// `None`: it cannot be told. Ends soon after `cancel` fires.
    fn content(
        &self,
        result: &ResultId,
        read: &Read,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<Option<ContentDigest>, Self::Error>> + Send {
        let _ = (result, read, cancel);
        async { Ok(None) }
    }

    /// Exchanges `fresh`, which an operation has just made and nobody has seen, for one of `known`, which the same
    /// operation made before, if it stands on the same layers and has the same content: then the fresh ones are
    /// thrown away, so that whatever stood on the known ones still does. An error leaves the fresh ones as they are, and
    /// the caller goes on with them.
    fn settle(
        &self,
        fresh: Vec<ResultId>,
        known: &[Vec<ResultId>],
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<Vec<ResultId>, Self::Error>> + Send {
        let _ = (known, cancel);
        async { Ok(fresh) }
    }

    /// Runs one operation and returns one result per output. Output of the process goes to `log`. Returns soon after
    /// `cancel` fires, with an error, leaving nothing behind.
    fn run(
        &self,
        job: Job<'_>,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<Vec<ResultId>, Self::Error>> + Send;
}

/// What a key was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// Of the operation and the definitions of its inputs.
    Definition,
    /// Of the operation and the content of its inputs.
    Content,
}

/// What is remembered under a key.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What the key was made of.
    pub kind: KeyKind,
    /// The operation alone, see [`crate::key::operation_key`].
    pub operation: Key,
    /// All that the key covers.
    pub parts: &'a [Part],
    /// One per output.
    pub results: &'a [ResultId],
}

/// Remembers which key led to which results.
pub trait CacheStore: Send + Sync + 'static {
    /// Why the memory failed.
    type Error: std::error::Error + Send + Sync + 'static;
    /// The right to be the only one who works on a key; given back when dropped.
    type Flight: Send + 'static;

    /// The results of `key`, one per output, if they are known and still there; they stay there for this build. May ask
    /// memories elsewhere.
    fn find(&self, key: &Key) -> impl Future<Output = Result<Option<Vec<ResultId>>, Self::Error>> + Send;

    /// Results that this operation gave on any inputs, the latest first, a few at most; memories elsewhere are not
    /// asked. Empty: the operation never ran here, and no content key of it can be known.
    fn of_operation(&self, operation: &Key) -> Result<Vec<Vec<ResultId>>, Self::Error>;

    /// Remembers. Remembering twice keeps the later.
    fn record(&self, key: &Key, record: &Record<'_>) -> Result<(), Self::Error>;

    /// The right to work on `key`, unless another build, in this process or another, has it now. A right whose process
    /// has died is free.
    fn try_claim(&self, key: &Key) -> Result<Option<Self::Flight>, Self::Error>;

    /// Waits for that right; the caller looks the key up again when it has it. Dropping the future ends the wait.
    fn claim(&self, key: &Key) -> impl Future<Output = Result<Self::Flight, Self::Error>> + Send;
}

/// Where a running operation writes its output.
pub trait LogSink: Send + Sync {
    /// Bytes as the process wrote them, in any pieces.
    fn write(&self, stream: Stream, bytes: &[u8]);

    /// How far a transfer is: `name` (`sha256:12ab…`), bytes done, bytes in all when known, and whether it is over.
    fn progress(&self, name: &str, current_bytes: u64, total_bytes: Option<u64>, done: bool);

    /// A line for the user about this operation.
    fn notice(&self, text: &str);

    /// What its process used, once that has ended, however it did.
    fn used(&self, usage: &Usage) {
        let _ = usage;
    }

    /// What the builder itself did for the operation, once that is done.
    fn worked(&self, work: &Work) {
        let _ = work;
    }
}

/// What a process and all that it started used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Processor time in programs.
    #[serde(rename = "user_us", with = "micros")]
    pub user: Duration,
    /// Processor time in the kernel.
    #[serde(rename = "system_us", with = "micros")]
    pub system: Duration,
    /// The most memory that all of them had at once, with the files that they held in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
    /// The largest resident set of one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rss_bytes: Option<u64>,
}

/// Durations as microseconds.
pub(crate) mod micros {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_micros)
    }
}

/// Which of its two streams a process wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a result was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hit {
    /// By its definition key.
    Definition,
    /// By its content key: what it reads is what it once read, however that came about.
    Content,
    /// Another build made it while this one waited.
    Flight,
    /// What stands on it was known, so that nobody needs it.
    Unneeded,
}

/// Something that happened; the clock is the listener's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The vertex will take part; comes once, before anything else about it.
    Declared {
        /// Which.
        vertex: VertexId,
        /// Its description.
        name: String,
        /// Those whose results it uses.
        inputs: Vec<VertexId>,
    },
    /// Its definition key is known; not told of sources without a key. Comes before anything is looked up.
    Keyed {
        /// Whose.
        vertex: VertexId,
        /// The key.
        key: Key,
        /// All that it covers.
        parts: Arc<[Part]>,
    },
    /// Neither its definition nor the content of what it stands on is known: it runs, as soon as there is a place. Not
    /// told of what runs whatever is known ([`crate::op::OpMeta::ignore_cache`] there or beneath).
    Missed(VertexId),
    /// It runs now.
    Started(VertexId),
    /// Its result was known; nothing ran.
    Cached {
        /// Whose.
        vertex: VertexId,
        /// How it was known.
        by: Hit,
    },
    /// It ran, and its result is what it was before: what stands on it need not run.
    Unchanged(VertexId),
    /// It wrote something.
    Log {
        /// Who.
        vertex: VertexId,
        /// Where.
        stream: Stream,
        /// What.
        bytes: Vec<u8>,
    },
    /// A transfer went on.
    Progress {
        /// For whom.
        vertex: VertexId,
        /// Of what.
        name: String,
        /// Bytes so far.
        current_bytes: u64,
        /// Bytes in all, when known.
        total_bytes: Option<u64>,
        /// Whether it is over.
        done: bool,
    },
    /// A line for the user.
    Notice {
        /// About whom.
        vertex: VertexId,
        /// The line.
        text: String,
    },
    /// Why it runs, for the user: found out beside the build, and told while it lasts.
    Why {
        /// Who.
        vertex: VertexId,
        /// What follows `because`.
        text: String,
    },
    /// What its process used.
    Used {
        /// Whose.
        vertex: VertexId,
        /// How much.
        usage: Usage,
    },
    /// The builder did something for it; perhaps before it began, or after it ended.
    Worked {
        /// For whom.
        vertex: VertexId,
        /// What.
        work: Work,
    },
    /// It ended well.
    Done(VertexId),
    /// It ended badly.
    Failed {
        /// Who.
        vertex: VertexId,
        /// Why, in one line.
        error: String,
    },
    /// It was stopped because another failed or the user asked.
    Canceled(VertexId),
}

/// Listens to a build. Called from many tasks; must not block.
pub trait Progress: Send + Sync + 'static {
    /// Takes note.
    fn event(&self, event: Event);
}

/// Turns what an operation writes into events about its vertex.
pub struct VertexLog<'a> {
    /// Whose events.
    pub vertex: VertexId,
    /// Who hears them.
    pub progress: &'a dyn Progress,
}

impl LogSink for VertexLog<'_> {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        self.progress.event(Event::Log { vertex: self.vertex, stream, bytes: bytes.to_vec() });
    }

    fn progress(&self, name: &str, current_bytes: u64, total_bytes: Option<u64>, done: bool) {
        let name = name.to_owned();
        self.progress.event(Event::Progress { vertex: self.vertex, name, current_bytes, total_bytes, done });
    }

    fn notice(&self, text: &str) {
        self.progress.event(Event::Notice { vertex: self.vertex, text: text.to_owned() });
    }

    fn used(&self, usage: &Usage) {
        self.progress.event(Event::Used { vertex: self.vertex, usage: *usage });
    }

    fn worked(&self, work: &Work) {
        self.progress.event(Event::Worked { vertex: self.vertex, work: *work });
    }
}
