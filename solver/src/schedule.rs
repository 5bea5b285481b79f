//! What happens next: a pure core. Events go in, actions come out; no clock, no tasks, no IO.
//!
//! First every vertex that the wants stand on gets its key: sources are pinned, what operations select from sources
//! without a key is digested, keys follow from the bottom up. Then results are demanded from the top down: a vertex
//! is looked up; on a hit nothing beneath it is touched, on a miss its inputs are demanded, and when they are there
//! it is ready to run. Ready processes wait for a place; the one that most depends on goes first.
//!
//! One schedule serves one build. After [`Schedule::stop`] no new action is given out; the caller ends what runs.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use crate::canon::Part;
use crate::graph::{Edge, Graph, VertexId};
use crate::key::{self, ContentDigest, InputKey, Key};
use crate::op::Op;
use crate::seam::{Pin, ResultId, Selection};

/// Something the caller is to do, and to answer with a call of the method of the same name in past tense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask what a source is; answered by [`Schedule::pinned`].
    Pin(VertexId),
    /// Digest what `reader` selects from the source `source`; answered by [`Schedule::digested`].
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
    /// Look a key up; answered by [`Schedule::looked_up`].
    LookUp(VertexId, Key),
    /// Run a vertex on these inputs; answered by [`Schedule::ran`].
    Run(VertexId, Vec<ResultId>),
}

/// Which of a reader's selections a digest answers: (input index, position among its selections).
pub type DigestSlot = (usize, usize);

/// Where one vertex is on its way. A vertex moves down this list only.
#[derive(Debug)]
enum State {
    /// Its key is not known yet; so many answers and input keys are missing.
    Keying { missing: usize },
    /// Its key is known (or it has none); nobody asked for its result.
    Keyed,
    /// Its result is being looked up.
    LookingUp,
    /// So many inputs have no result yet.
    Waiting { missing: usize },
    /// It waits for a place, or runs.
    Running,
    /// It is there: one result per output.
    Done(Vec<ResultId>),
}

/// All that is known of one vertex.
#[derive(Debug)]
struct Node {
    state: State,
    /// What its inputs contribute to its key, filled from the bottom up.
    input_keys: Vec<Option<InputKey>>,
    /// Digests asked for and answered, per input.
    selected: HashMap<usize, Vec<Option<ContentDigest>>>,
    /// Its key and what it was made of; `None` for a source without a key.
    key: Option<(Key, Vec<Part>)>,
    /// Whether it is a source without a key.
    keyless: bool,
    /// Vertices that use it, each once.
    users: Vec<VertexId>,
    /// Whether someone needs its result.
    demanded: bool,
    /// Whether it runs whatever is known: because it was asked for, or because something beneath it does, whose new
    /// result no known one stands on.
    anew: bool,
    /// The longest way to a want, counted in vertices: the later everything ends if this one ends late.
    height: usize,
    /// Its place in [`Schedule::order`].
    position: usize,
}

/// How a lookup ended, for those who watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The result is known. Beneath it nothing is needed any more: these vertices, inputs first, count as cached.
    Hit(Vec<VertexId>),
    /// It will have to run.
    Miss,
}

/// The state of one build.
#[derive(Debug)]
pub struct Schedule {
    graph: Arc<Graph>,
    nodes: HashMap<VertexId, Node>,
    /// Inputs before users.
    order: Vec<VertexId>,
    wants: Vec<Edge>,
    /// How many vertices still lack a key; results are demanded when it is zero.
    keys_missing: usize,
    /// Vertices whose inputs have all contributed, but whose key is not made yet. A list and not recursion: chains of
    /// steps may be longer than the stack.
    to_key: Vec<VertexId>,
    /// Processes that are ready: highest first, then in graph order.
    ready: BinaryHeap<(usize, Reverse<usize>)>,
    /// Places for processes.
    free_places: usize,
    /// Vertices already told to be cached.
    told_cached: HashSet<VertexId>,
    /// What is to be done next.
    actions: Vec<Action>,
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
            nodes: HashMap::with_capacity(order.len()),
            keys_missing: order.len(),
            to_key: Vec::new(),
            order,
            wants: wants.to_vec(),
            ready: BinaryHeap::new(),
            free_places: jobs.max(1),
            told_cached: HashSet::new(),
            actions: Vec::new(),
            stopped: false,
            graph,
        };
        schedule.make_nodes();
        schedule.start_keys();
        schedule
    }

    fn make_nodes(&mut self) {
        for (position, id) in self.order.iter().enumerate() {
            let vertex = &self.graph.get(id).expect("order lies in the graph");
            let asked = self.graph.meta(id).is_some_and(|meta| meta.ignore_cache);
            let node = Node {
                anew: asked || vertex.inputs.iter().any(|input| self.nodes[&input.vertex].anew),
                state: State::Keying { missing: inputs_once(vertex).len() },
                input_keys: vec![None; vertex.inputs.len()],
                selected: HashMap::new(),
                key: None,
                keyless: false,
                users: Vec::new(),
                demanded: false,
                height: 0,
                position,
            };
            self.nodes.insert(*id, node);
            for input in inputs_once(vertex) {
                self.nodes.get_mut(&input).expect("inputs come first").users.push(*id);
            }
        }
        for position in (0..self.order.len()).rev() {
            let id = self.order[position];
            let users = &self.nodes[&id].users;
            let height = users.iter().map(|user| self.nodes[user].height + 1).max().unwrap_or(0);
            self.node(id).height = height;
        }
    }

    fn start_keys(&mut self) {
        for id in self.order.clone() {
            let vertex = self.graph.get(&id).expect("order lies in the graph");
            if matches!(vertex.op, Op::Source(_)) {
                self.actions.push(Action::Pin(id));
            } else if vertex.inputs.is_empty() {
                self.to_key.push(id);
            }
        }
        self.make_keys();
    }

    /// What to do now; each action is given out once.
    pub fn take_actions(&mut self) -> Vec<Action> {
        if self.stopped {
            return Vec::new();
        }
        while self.free_places > 0
            && let Some((_, Reverse(position))) = self.ready.pop()
        {
            self.free_places -= 1;
            let id = self.order[position];
            self.give_run(id);
        }
        std::mem::take(&mut self.actions)
    }

    /// Vertices that take part, inputs before users.
    pub fn order(&self) -> &[VertexId] {
        &self.order
    }

    /// The results of all wants, when all are there.
    pub fn results(&self) -> Option<HashMap<Edge, ResultId>> {
        self.wants.iter().map(|want| Some((*want, self.result(want)?.clone()))).collect()
    }

    /// The key of a vertex and what it was made of.
    pub fn key(&self, id: &VertexId) -> Option<&(Key, Vec<Part>)> {
        self.nodes.get(id)?.key.as_ref()
    }

    /// Gives no more actions out.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// A source is `pin`.
    pub fn pinned(&mut self, id: VertexId, pin: &Pin) {
        let vertex = self.graph.get(&id).expect("asked for");
        let key = key::source_key(vertex, pin);
        let node = self.node(id);
        node.keyless = key.is_none();
        node.key = key;
        self.key_known(id);
        self.make_keys();
    }

    /// What `reader` selects from a source has this digest.
    pub fn digested(&mut self, reader: VertexId, (input, position): DigestSlot, digest: ContentDigest) {
        let node = self.node(reader);
        let slots = node.selected.get_mut(&input).expect("asked for");
        slots[position] = Some(digest);
        if let Some(digests) = slots.iter().copied().collect::<Option<Vec<_>>>() {
            node.input_keys[input] = Some(InputKey::Selected(digests));
        }
        self.one_less_to_key(reader);
        self.make_keys();
    }

    /// The lookup of a vertex ended with these results, or none.
    pub fn looked_up(&mut self, id: VertexId, results: Option<Vec<ResultId>>) -> Found {
        match results {
            Some(results) => {
                let cached = self.beneath_not_needed(id);
                self.done(id, results);
                Found::Hit(cached)
            }
            None => {
                let inputs = self.wait_for_inputs(id);
                self.demand(inputs);
                Found::Miss
            }
        }
    }

    /// A vertex ran and gave these results.
    pub fn ran(&mut self, id: VertexId, results: Vec<ResultId>) {
        if self.needs_place(id) {
            self.free_places += 1;
        }
        self.done(id, results);
    }

    fn node(&mut self, id: VertexId) -> &mut Node {
        self.nodes.get_mut(&id).expect("every vertex in play has a node")
    }

    fn result(&self, edge: &Edge) -> Option<&ResultId> {
        match &self.nodes.get(&edge.vertex)?.state {
            State::Done(results) => results.get(edge.output as usize),
            _ => None,
        }
    }

    // Keys, from the bottom up.

    fn one_less_to_key(&mut self, id: VertexId) {
        if let State::Keying { missing } = &mut self.node(id).state {
            *missing -= 1;
            if *missing == 0 {
                self.to_key.push(id);
            }
        }
    }

    /// Makes every key that can be made; when all are there, the wants are demanded.
    fn make_keys(&mut self) {
        while let Some(id) = self.to_key.pop() {
            let vertex = self.graph.get(&id).expect("in play");
            let inputs: Vec<InputKey> = self.nodes[&id].input_keys.iter().flatten().cloned().collect();
            debug_assert_eq!(inputs.len(), vertex.inputs.len(), "a key is made when every input has contributed");
            let key = key::definition_key(vertex, &inputs);
            self.node(id).key = Some(key);
            self.key_known(id);
        }
        if self.keys_missing == 0 {
            self.demand(self.wants.iter().map(|want| want.vertex).collect());
        }
    }

    /// Tells the users of `id` what it contributes to their keys.
    fn key_known(&mut self, id: VertexId) {
        self.node(id).state = State::Keyed;
        self.keys_missing -= 1;
        for user in self.nodes[&id].users.clone() {
            match self.nodes[&id].key.as_ref().map(|(key, _)| *key) {
                Some(key) => {
                    let edges = self.graph.get(&user).expect("in play").inputs.clone();
                    for (i, edge) in edges.iter().enumerate().filter(|(_, edge)| edge.vertex == id) {
                        self.node(user).input_keys[i] = Some(InputKey::Key(key, edge.output));
                    }
                }
                None => self.ask_for_digests(user, id),
            }
            self.one_less_to_key(user);
        }
    }

    fn ask_for_digests(&mut self, reader: VertexId, source: VertexId) {
        let vertex = self.graph.get(&reader).expect("in play");
        let mut asked = Vec::new();
        for (input, _) in vertex.inputs.iter().enumerate().filter(|(_, edge)| edge.vertex == source) {
            asked.push((input, key::selections(vertex, input)));
        }
        for (input, selections) in asked {
            let node = self.node(reader);
            if selections.is_empty() {
                node.input_keys[input] = Some(InputKey::Selected(Vec::new()));
                continue;
            }
            node.selected.insert(input, vec![None; selections.len()]);
            if let State::Keying { missing } = &mut node.state {
                *missing += selections.len();
            }
            for (position, selection) in selections.into_iter().enumerate() {
                self.actions.push(Action::Digest { reader, source, slot: (input, position), selection });
            }
        }
    }

    // Results, from the top down.

    /// Asks for the results of vertices, and of what they stand on as far as it is needed.
    fn demand(&mut self, mut wanted: Vec<VertexId>) {
        while let Some(id) = wanted.pop() {
            if std::mem::replace(&mut self.node(id).demanded, true) {
                continue;
            }
            let known = self.nodes[&id].key.as_ref().map(|(key, _)| *key);
            match known {
                Some(key) if !self.nodes[&id].anew => {
                    self.node(id).state = State::LookingUp;
                    self.actions.push(Action::LookUp(id, key));
                }
                _ => wanted.extend(self.wait_for_inputs(id)),
            }
        }
    }

    /// Makes a vertex wait for its inputs, or ready if all are there; returns the inputs, to be demanded.
    fn wait_for_inputs(&mut self, id: VertexId) -> Vec<VertexId> {
        let inputs = inputs_once(self.graph.get(&id).expect("in play"));
        let missing = inputs.iter().filter(|input| !matches!(self.nodes[input].state, State::Done(_))).count();
        self.node(id).state = State::Waiting { missing };
        if missing == 0 {
            self.ready(id);
        }
        inputs
    }

    fn ready(&mut self, id: VertexId) {
        self.node(id).state = State::Running;
        if self.needs_place(id) {
            let node = &self.nodes[&id];
            self.ready.push((node.height, Reverse(node.position)));
        } else {
            self.give_run(id);
        }
    }

    fn give_run(&mut self, id: VertexId) {
        let vertex = self.graph.get(&id).expect("in play");
        let inputs = vertex.inputs.iter().map(|edge| self.result(edge).expect("inputs are done").clone()).collect();
        self.actions.push(Action::Run(id, inputs));
    }

    /// Only processes are bounded here; rbuild's own work is bounded where it is done.
    fn needs_place(&self, id: VertexId) -> bool {
        matches!(self.graph.get(&id).expect("in play").op, Op::Exec(_))
    }

    fn done(&mut self, id: VertexId, results: Vec<ResultId>) {
        self.node(id).state = State::Done(results);
        for user in self.nodes[&id].users.clone() {
            if let State::Waiting { missing } = &mut self.node(user).state {
                *missing -= 1;
                if *missing == 0 {
                    self.ready(user);
                }
            }
        }
    }

    /// Everything beneath a hit that nobody has demanded: told to be cached, once, inputs first.
    fn beneath_not_needed(&mut self, id: VertexId) -> Vec<VertexId> {
        let mut beneath = HashSet::new();
        let mut stack = inputs_once(self.graph.get(&id).expect("in play"));
        while let Some(below) = stack.pop() {
            let node = &self.nodes[&below];
            if !node.demanded && !node.keyless && !self.told_cached.contains(&below) && beneath.insert(below) {
                stack.extend(inputs_once(self.graph.get(&below).expect("in play")));
            }
        }
        let beneath: Vec<VertexId> = self.order.iter().copied().filter(|id| beneath.contains(id)).collect();
        self.told_cached.extend(&beneath);
        beneath
    }
}

fn inputs_once(vertex: &crate::graph::Vertex) -> Vec<VertexId> {
    let mut seen = HashSet::new();
    vertex.inputs.iter().map(|edge| edge.vertex).filter(|id| seen.insert(*id)).collect()
}
