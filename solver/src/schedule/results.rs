//! Results, from the top down: what is demanded is looked up, and what is beneath it only if it has to be.

use super::{Action, Schedule, State};
use crate::graph::VertexId;
use crate::op::Op;
use crate::seam::{Event, Hit, ResultId};

impl Schedule {
    /// Asks for results, and for what they stand on as far as it is needed.
    pub(super) fn demand(&mut self, mut wanted: Vec<usize>) {
        while let Some(node) = wanted.pop() {
            self.work += 1;
            if std::mem::replace(&mut self.nodes[node].demanded, true) {
                continue;
            }
            let known = self.nodes[node].key.as_ref().map(|(key, _)| *key);
            match known {
                Some(key) if self.follows(node, key) => {}
                Some(key) if !self.nodes[node].anew => {
                    self.nodes[node].state = State::LookingUp;
                    self.actions.push(Action::LookUp(self.order[node], key));
                }
                _ => wanted.extend(self.wait_for_inputs(node)),
            }
        }
    }

    /// Whether another vertex with that key (the same image under another name, and what stands on it) does the work.
    /// It cannot stand on this one: its key would cover itself.
    fn follows(&mut self, node: usize, key: crate::key::Key) -> bool {
        let leader = *self.leaders.entry((key, self.nodes[node].anew)).or_insert(node);
        if leader == node {
            return false;
        }
        match &self.nodes[leader].state {
            State::Done(results) => {
                let results = results.clone();
                self.follow(node, results);
            }
            _ => {
                self.nodes[node].state = State::Following;
                self.nodes[leader].followers.push(node);
            }
        }
        true
    }

    fn follow(&mut self, node: usize, results: Vec<ResultId>) {
        self.not_needed_beneath(node);
        self.hit(node, results, Hit::Definition);
    }

    /// The lookup of a vertex ended with these results, or none. Results of another number than it has outputs are none.
    pub fn looked_up(&mut self, id: VertexId, results: Option<Vec<ResultId>>) {
        let node = self.position(&id);
        let outputs = self.vertex(node).outputs() as usize;
        let results = results.filter(|results| results.len() == outputs);
        match (&self.nodes[node].state, results) {
            (State::LookingUp, Some(results)) => {
                self.not_needed_beneath(node);
                self.hit(node, results, Hit::Definition);
            }
            (State::LookingUp, None) => {
                let inputs = self.wait_for_inputs(node);
                self.demand(inputs);
            }
            (State::LookingUpContent, Some(results)) => {
                self.record_definition(node, &results);
                self.hit(node, results, Hit::Content);
            }
            (State::LookingUpContent, None) => self.queue(node),
            (State::LookingAgain, Some(results)) => {
                self.leave_place(node);
                self.release(node);
                self.hit(node, results, Hit::Flight);
            }
            (State::LookingAgain, None) if self.nodes[node].has_place => self.start(node),
            (State::LookingAgain, None) => self.queue(node),
            (state, _) => unreachable!("nothing is looked up for a vertex that is {state:?}"),
        }
    }

    fn hit(&mut self, node: usize, results: Vec<ResultId>, by: Hit) {
        self.tell_cached(node, by);
        self.done(node, results);
    }

    pub(super) fn tell_cached(&mut self, node: usize, by: Hit) {
        self.nodes[node].cached = true;
        self.cached += usize::from(!self.is_source(node));
        self.tell(Event::Cached { vertex: self.order[node], by });
    }

    /// Makes a vertex wait for its inputs, or goes on if all are there; returns the inputs, to be demanded.
    fn wait_for_inputs(&mut self, node: usize) -> Vec<usize> {
        let inputs: Vec<usize> = self.nodes[node].inputs.iter().map(|(input, _)| *input).collect();
        self.work += inputs.len() as u64;
        let missing = inputs.iter().filter(|input| !matches!(self.nodes[**input].state, State::Done(_))).count();
        self.nodes[node].state = State::Waiting { missing };
        if missing == 0 {
            self.inputs_there(node);
        }
        inputs
    }

    fn inputs_there(&mut self, node: usize) {
        if matches!(self.vertex(node).op, Op::Source(_)) {
            return self.queue(node);
        }
        self.nodes[node].state = State::Asking;
        let operation = self.operation(node);
        self.actions.push(Action::Known(self.order[node], operation));
    }

    pub(super) fn done(&mut self, node: usize, results: Vec<ResultId>) {
        let followers = std::mem::take(&mut self.nodes[node].followers);
        for follower in followers {
            self.follow(follower, results.clone());
        }
        self.nodes[node].state = State::Done(results);
        let users = std::mem::take(&mut self.nodes[node].users);
        self.work += 1 + users.len() as u64;
        for (user, _) in &users {
            if let State::Waiting { missing } = &mut self.nodes[*user].state {
                *missing -= 1;
                if *missing == 0 {
                    self.inputs_there(*user);
                }
            }
        }
        self.nodes[node].users = users;
    }

    /// A vertex will not demand its inputs. What nobody else can demand any more, down to the sources, counts as cached
    /// and is told so, inputs first.
    fn not_needed_beneath(&mut self, node: usize) {
        let mut unneeded = Vec::new();
        let mut decided = vec![node];
        while let Some(node) = decided.pop() {
            self.work += 1 + self.nodes[node].inputs.len() as u64;
            for i in 0..self.nodes[node].inputs.len() {
                let (below, _) = self.nodes[node].inputs[i];
                let input = &mut self.nodes[below];
                input.undecided -= 1;
                if input.undecided == 0 && !input.demanded {
                    decided.push(below);
                    if !input.keyless {
                        unneeded.push(below);
                    }
                }
            }
        }
        unneeded.sort_unstable();
        for node in unneeded {
            self.tell_cached(node, Hit::Unneeded);
        }
    }
}
