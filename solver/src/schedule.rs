//! What happens next: a pure core. Events go in, actions come out; no clock, no tasks, no IO.
//!
//! 1. **Keys, from the bottom up** ([`mod@keys`]): sources are pinned, what operations select from sources without a key
//!    is digested, definition keys follow. They are all known before anything runs.
//! 2. **Results, from the top down** ([`mod@results`]): a vertex is looked up by its definition key; on a hit nothing
//!    beneath it is touched, on a miss its inputs are demanded. When they are there, and its operation has ever given
//!    a result, what it reads of them is digested and its content key looked up ([`mod@contents`]).
//! 3. **Turns** ([`mod@turns`]): what is still unknown waits for a place, the one with most standing on it first; when its
//!    turn comes it claims its definition key, so that of all builds on a cache one runs it. While another has the
//!    claim it waits without a place, and looks again. Then it runs. One that waits for something outside of the build
//!    leaves its place meanwhile, and gets the next one that is free when it goes on.
//! 4. What ran is settled, if its operation gave results before: exchanged for one of them if it is the same. It is
//!    recorded under both keys; what its content key lacks is digested while it runs and beside what runs next.
//!
//! A vertex that runs whatever is known (`--no-cache`), or stands on one, is neither looked up nor claimed; but it is
//! settled and recorded. Settling takes nothing from the wish: it has run, and made what is there already, byte for byte.
//!
//! One schedule serves one build. After [`Schedule::stop`] no new action is given out; the caller ends what runs, and
//! [`Schedule::keep`] says what is to be remembered of it.

mod contents;
mod keys;
mod results;
mod turns;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use self::contents::{Content, Contents};
use crate::canon::Part;
use crate::graph::{Edge, Graph, Vertex, VertexId};
use crate::key::{ContentDigest, InputKey, Key};
use crate::op::Op;
use crate::seam::{Event, KeyKind, Read, ResultId, Selection};

/// Something the caller is to do, in this order. What has an answer is answered by the method that is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell those who watch.
    Tell(Event),
    /// Ask what a source is; [`Schedule::pinned`].
    Pin(VertexId),
    /// Digest what `reader` selects from the source `source`; [`Schedule::digested`].
    Digest {
        /// Who reads.
        reader: VertexId,
        /// The source without a key.
        source: VertexId,
        /// Names the question in the answer.
        slot: DigestSlot,
        /// What is read.
        selection: Selection,
    },
    /// Look a key up; [`Schedule::looked_up`].
    LookUp(VertexId, Key),
    /// Ask which results the operation of that key has ever given; [`Schedule::known`].
    Known(VertexId, Key),
    /// Digest what is read of a result; [`Schedule::content`].
    Content(ResultId, Read),
    /// Claim a key if it is free; [`Schedule::claimed`].
    TryClaim(VertexId, Key),
    /// Wait for the claim to a key; [`Schedule::granted`].
    Claim(VertexId, Key),
    /// Give the claim back.
    Release(VertexId),
    /// Run a vertex on these inputs; [`Schedule::ran`]. Meanwhile it may leave its place: [`Schedule::left`].
    Run(VertexId, Vec<ResultId>),
    /// Tell a vertex that runs, and left its place, that it has one again.
    GoOn(VertexId),
    /// Exchange what it has just made for one of the results that are known, if it is the same; [`Schedule::settled`].
    Settle {
        /// Who ran.
        vertex: VertexId,
        /// What it made.
        fresh: Vec<ResultId>,
        /// What its operation gave before.
        known: Vec<Vec<ResultId>>,
    },
    /// Remember.
    Record {
        /// Whose result.
        vertex: VertexId,
        /// Under which key.
        key: Key,
        /// What the key was made of.
        kind: KeyKind,
        /// The operation alone.
        operation: Key,
        /// All that the key covers.
        parts: Arc<[Part]>,
        /// One per output.
        results: Vec<ResultId>,
    },
}

impl Action {
    /// Whether it speaks of what has ended well already, so that it is done even if the build is stopped.
    pub fn is_due_after_the_end(&self) -> bool {
        let ended = |event: &Event| matches!(event, Event::Done(_) | Event::Cached { .. } | Event::Unchanged(_));
        matches!(self, Self::Record { .. } | Self::Release(_)) || matches!(self, Self::Tell(event) if ended(event))
    }
}

/// Which of a reader's selections a digest answers: (input index, position among its selections).
pub type DigestSlot = (usize, usize);

/// How much of rbuild's own work (copies, transfers, merges) is under way at once: each has a thread and some open files,
/// which are finite; what keeps processors busy is bounded where it is done.
const OWN_WORK_AT_ONCE: usize = 64;

/// Where one vertex is on its way. Answers are understood by it.
#[derive(Debug)]
enum State {
    /// Its key is not known yet; so many answers and input keys are missing.
    Keying { missing: usize },
    /// Its key is known (or it has none); nobody asked for its result.
    Keyed,
    /// It waits for another vertex of the same key.
    Following,
    /// Its definition key is being looked up.
    LookingUp,
    /// So many inputs have no result yet.
    Waiting { missing: usize },
    /// The results of its operation are asked for.
    Asking,
    /// What it reads of its inputs is being digested.
    Comparing,
    /// Its content key is being looked up.
    LookingUpContent,
    /// It waits for a place.
    Ready,
    /// It has a place and claims its key.
    Claiming,
    /// Another build has the claim.
    Behind,
    /// It has the claim, and looks whether another build had it before.
    LookingAgain,
    /// It runs.
    Running,
    /// What it made is compared with what is known.
    Settling(Vec<ResultId>),
    /// It is there: one result per output.
    Done(Vec<ResultId>),
}

/// All that is known of one vertex. Vertices are named by their position in [`Schedule::order`] in here.
#[derive(Debug)]
struct Node {
    state: State,
    /// Who and which output, per edge.
    inputs: Vec<(usize, u32)>,
    /// Who uses it, and as which of their inputs.
    users: Vec<(usize, usize)>,
    /// What its inputs contribute to its key, filled from the bottom up.
    input_keys: Vec<Option<InputKey>>,
    /// Digests that are being made for its key, per input: how many are missing, and those that are there.
    selected: HashMap<usize, (usize, Vec<Option<ContentDigest>>)>,
    /// Its definition key and what it was made of; `None` for a source without a key.
    key: Option<(Key, Arc<[Part]>)>,
    /// Whether it is a source without a key.
    keyless: bool,
    /// Of a source without a key: how many digests of it are being made.
    digesting: usize,
    /// The key of the operation alone, once it was needed.
    operation: Option<Key>,
    /// Results that its operation gave before.
    known: Vec<Vec<ResultId>>,
    /// The content of its inputs, once it was asked for.
    contents: Option<Contents>,
    /// Whether someone needs its result.
    demanded: bool,
    /// How many of its uses may yet demand it.
    undecided: usize,
    /// Vertices of the same key, which take its result.
    followers: Vec<usize>,
    /// Whether it runs whatever is known: because it was asked for, or because something beneath it does, whose new
    /// result no known one stands on.
    anew: bool,
    /// Whether its result was known.
    cached: bool,
    /// Whether it runs without being shown.
    quiet: bool,
    /// Whether it has the claim to its key.
    claims: bool,
    /// Whether it has a place.
    has_place: bool,
    /// The longest way to a want, counted in vertices: the later everything ends if this one ends late.
    height: usize,
}

/// What waits for a place, and how many places are taken.
#[derive(Debug)]
struct Queue {
    places: usize,
    taken: usize,
    /// Highest first, then in graph order.
    ready: BinaryHeap<(usize, Reverse<usize>)>,
    /// Those that have begun, left their place and want one again, in that order; they come first.
    returning: VecDeque<usize>,
}

impl Queue {
    fn new(places: usize) -> Self {
        Self { places: places.max(1), taken: 0, ready: BinaryHeap::new(), returning: VecDeque::new() }
    }

    /// Who is next, if there is a place.
    fn next(&mut self) -> Option<usize> {
        if self.taken >= self.places {
            return None;
        }
        let next = || self.ready.pop().map(|(_, Reverse(node))| node);
        let node = self.returning.pop_front().or_else(next)?;
        self.taken += 1;
        Some(node)
    }
}

/// The state of one build.
#[derive(Debug)]
pub struct Schedule {
    graph: Arc<Graph>,
    nodes: Vec<Node>,
    /// Inputs before users.
    order: Vec<VertexId>,
    positions: HashMap<VertexId, usize>,
    wants: Vec<Edge>,
    /// How many vertices still lack a key; results are demanded when it is zero.
    keys_missing: usize,
    /// Vertices whose inputs have all contributed, but whose key is not made yet. A list and not recursion: chains of
    /// steps may be longer than the stack.
    to_key: Vec<usize>,
    /// The first vertex of each key that was demanded, and whether it runs anew.
    leaders: HashMap<(Key, bool), usize>,
    /// What is known of the content of results.
    contents: HashMap<(ResultId, Read), Content>,
    processes: Queue,
    own_work: Queue,
    /// What is to be done next.
    actions: Vec<Action>,
    ran: usize,
    cached: usize,
    work: u64,
    stopped: bool,
}

impl Schedule {
    /// A build of `wants` in `graph` with at most `jobs` processes at a time (at least one).
    ///
    /// # Panics
    /// When a want is not in the graph; wants come from the one who made the graph.
    pub fn new(graph: Arc<Graph>, wants: &[Edge], jobs: usize) -> Self {
        let mut reachable = HashSet::new();
        let mut stack: Vec<VertexId> = wants.iter().map(|want| want.vertex).collect();
        while let Some(id) = stack.pop() {
            if reachable.insert(id) {
                let vertex = graph.get(&id).expect("wants and edges lie in the graph");
                stack.extend(vertex.inputs.iter().map(|edge| edge.vertex));
            }
        }
        let order: Vec<VertexId> = graph.iter().map(|(id, ..)| id).filter(|id| reachable.contains(id)).collect();
        let mut schedule = Self {
            nodes: Vec::with_capacity(order.len()),
            positions: order.iter().enumerate().map(|(position, id)| (*id, position)).collect(),
            keys_missing: order.len(),
            to_key: Vec::new(),
            order,
            wants: wants.to_vec(),
            leaders: HashMap::new(),
            contents: HashMap::new(),
            processes: Queue::new(jobs),
            own_work: Queue::new(OWN_WORK_AT_ONCE),
            actions: Vec::new(),
            ran: 0,
            cached: 0,
            work: 0,
            stopped: false,
            graph,
        };
        schedule.make_nodes();
        schedule.declare();
        schedule.start_keys();
        schedule
    }

    fn make_nodes(&mut self) {
        for (position, id) in self.order.iter().enumerate() {
            let vertex = self.graph.get(id).expect("order lies in the graph");
            let asked = self.graph.meta(id).is_some_and(|meta| meta.ignore_cache);
            let inputs: Vec<_> = vertex.inputs.iter().map(|edge| (self.positions[&edge.vertex], edge.output)).collect();
            self.work += 1 + inputs.len() as u64;
            for (i, (input, _)) in inputs.iter().enumerate() {
                let input: &mut Node = &mut self.nodes[*input];
                input.users.push((position, i));
                input.undecided += 1;
            }
            self.nodes.push(Node {
                anew: asked || inputs.iter().any(|(input, _)| self.nodes[*input].anew),
                state: State::Keying { missing: inputs.len() },
                input_keys: vec![None; inputs.len()],
                inputs,
                users: Vec::new(),
                selected: HashMap::new(),
                key: None,
                keyless: false,
                digesting: 0,
                operation: None,
                known: Vec::new(),
                contents: None,
                demanded: false,
                undecided: 0,
                followers: Vec::new(),
                cached: false,
                quiet: false,
                claims: false,
                has_place: false,
                height: 0,
            });
        }
        for position in (0..self.order.len()).rev() {
            let users = &self.nodes[position].users;
            let height = users.iter().map(|(user, _)| self.nodes[*user].height + 1).max().unwrap_or(0);
            self.nodes[position].height = height;
        }
    }

    fn declare(&mut self) {
        for id in &self.order {
            let (vertex, meta) = (self.graph.get(id), self.graph.meta(id));
            let (vertex, meta) = (vertex.expect("in the graph"), meta.expect("in the graph"));
            let inputs = vertex.inputs.iter().map(|edge| edge.vertex).collect();
            let declared = Event::Declared { vertex: *id, name: meta.description.clone(), inputs };
            self.actions.push(Action::Tell(declared));
        }
    }

    /// What to do now; each action is given out once. Nothing to do and no answer missing: the build is over.
    pub fn take_actions(&mut self) -> Vec<Action> {
        if self.stopped {
            return Vec::new();
        }
        while let Some(node) = self.own_work.next().or_else(|| self.processes.next()) {
            self.work += 1;
            self.turn(node);
        }
        std::mem::take(&mut self.actions)
    }

    /// From now on so many processes at a time, at least one; those that run go on.
    pub fn set_places(&mut self, jobs: usize) {
        self.processes.places = jobs.max(1);
    }

    /// Gives no more actions out, but what is left of those that are due all the same.
    pub fn stop(&mut self) -> Vec<Action> {
        self.stopped = true;
        let mut left = std::mem::take(&mut self.actions);
        left.retain(Action::is_due_after_the_end);
        left
    }

    /// Vertices that take part, inputs before users.
    pub fn order(&self) -> &[VertexId] {
        &self.order
    }

    /// The results of all wants, when all are there.
    pub fn results(&self) -> Option<HashMap<Edge, ResultId>> {
        let result = |want: &Edge| self.result(*self.positions.get(&want.vertex)?, want.output).cloned();
        self.wants.iter().map(|want| Some((*want, result(want)?))).collect()
    }

    /// The definition key of a vertex and what it was made of.
    pub fn key(&self, id: &VertexId) -> Option<(Key, &Arc<[Part]>)> {
        self.nodes[*self.positions.get(id)?].key.as_ref().map(|(key, parts)| (*key, parts))
    }

    /// How many operations ran, sources not counted.
    pub fn ran_count(&self) -> usize {
        self.ran
    }

    /// How many were known, sources not counted.
    pub fn cached_count(&self) -> usize {
        self.cached
    }

    /// How many vertices and edges were looked at; for a test that holds it linear in the graph.
    pub fn work(&self) -> u64 {
        self.work
    }

    fn result(&self, node: usize, output: u32) -> Option<&ResultId> {
        match &self.nodes[node].state {
            State::Done(results) => results.get(output as usize),
            _ => None,
        }
    }

    fn position(&self, id: &VertexId) -> usize {
        *self.positions.get(id).expect("answers are about vertices in play")
    }

    fn vertex(&self, node: usize) -> &Vertex {
        self.graph.get(&self.order[node]).expect("what is in play is in the graph")
    }

    fn is_source(&self, node: usize) -> bool {
        matches!(self.vertex(node).op, Op::Source(_))
    }

    fn tell(&mut self, event: Event) {
        self.actions.push(Action::Tell(event));
    }
}
