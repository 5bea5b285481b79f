//! Turns: who waits for a place, who has the claim to its key, who runs, and what becomes of what it made.

use std::cmp::Reverse;

use super::{Action, Queue, Schedule, State};
use crate::graph::VertexId;
use crate::op::Op;
use crate::seam::{Event, Hit, ResultId};

impl Schedule {
    /// Waits for a place.
    pub(super) fn queue(&mut self, node: usize) {
        self.nodes[node].state = State::Ready;
        let entry = (self.nodes[node].height, Reverse(node));
        self.queue_of(node).ready.push(entry);
    }

    /// Places are for processes; the rest is bounded by itself.
    fn queue_of(&mut self, node: usize) -> &mut Queue {
        if matches!(self.vertex(node).op, Op::Exec(_)) { &mut self.processes } else { &mut self.own_work }
    }

    /// There is a place for a vertex. Whoever runs whatever is known asks nobody.
    pub(super) fn turn(&mut self, node: usize) {
        self.nodes[node].has_place = true;
        if matches!(self.nodes[node].state, State::Running) {
            return self.actions.push(Action::GoOn(self.order[node]));
        }
        match self.nodes[node].key.as_ref().map(|(key, _)| *key) {
            Some(key) if !self.nodes[node].anew && !self.nodes[node].claims => {
                self.nodes[node].state = State::Claiming;
                self.actions.push(Action::TryClaim(self.order[node], key));
            }
            _ => self.start(node),
        }
    }

    /// Whether the claim to the key of a vertex was free.
    pub fn claimed(&mut self, id: VertexId, free: bool) {
        let node = self.position(&id);
        let key = self.nodes[node].key.as_ref().map(|(key, _)| *key).expect("who claims has a key");
        if free {
            self.look_again(node);
        } else {
            self.leave_place(node);
            self.nodes[node].state = State::Behind;
            self.actions.push(Action::Claim(id, key));
        }
    }

    /// The claim that a vertex waited for is there.
    pub fn granted(&mut self, id: VertexId) {
        self.look_again(self.position(&id));
    }

    /// Between the lookup and the claim another build may have made it.
    fn look_again(&mut self, node: usize) {
        let key = self.nodes[node].key.as_ref().map(|(key, _)| *key).expect("who claims has a key");
        self.nodes[node].claims = true;
        self.nodes[node].state = State::LookingAgain;
        self.actions.push(Action::LookUp(self.order[node], key));
    }

    pub(super) fn start(&mut self, node: usize) {
        let id = self.order[node];
        self.nodes[node].state = State::Running;
        self.nodes[node].quiet = self.nodes[node].keyless || self.only_stacks_what_is_cached(node);
        if !self.nodes[node].quiet {
            if self.nodes[node].key.is_some() && !self.nodes[node].anew {
                self.tell(Event::Missed(id));
            }
            self.tell(Event::Started(id));
        }
        let input = |(input, output): &(usize, u32)| self.result(*input, *output).expect("inputs are there").clone();
        let inputs = self.nodes[node].inputs.iter().map(input).collect();
        self.actions.push(Action::Run(id, inputs));
        self.ask_for_contents(node);
    }

    /// A linked copy that was known is put on another base: nothing is done that is worth telling.
    fn only_stacks_what_is_cached(&self, node: usize) -> bool {
        let inputs = &self.nodes[node].inputs;
        let is_merge = matches!(self.vertex(node).op, Op::Merge(_)) && inputs.len() > 1;
        is_merge && !self.nodes[node].anew && inputs[1..].iter().all(|(input, _)| self.nodes[*input].cached)
    }

    /// A vertex that runs leaves its place to others, and does nothing until it [`Self::returns`].
    pub fn left(&mut self, id: VertexId) {
        let node = self.position(&id);
        // Its end may have been told before.
        if matches!(self.nodes[node].state, State::Running) {
            self.leave_place(node);
        }
    }

    /// A vertex that left its place wants one again.
    pub fn returns(&mut self, id: VertexId) {
        let node = self.position(&id);
        if matches!(self.nodes[node].state, State::Running) && !self.nodes[node].has_place {
            self.queue_of(node).returning.push_back(node);
        }
    }

    /// A vertex ran and gave these results, one per output.
    pub fn ran(&mut self, id: VertexId, results: Vec<ResultId>) {
        let node = self.position(&id);
        self.leave_place(node);
        // It may have ended without waiting for its place.
        self.queue_of(node).returning.retain(|returning| *returning != node);
        if self.settles(node) {
            let known = std::mem::take(&mut self.nodes[node].known);
            self.nodes[node].state = State::Settling(results.clone());
            self.actions.push(Action::Settle { vertex: id, fresh: results, known });
        } else {
            self.end(node, results);
        }
    }

    /// What a vertex made was compared with what is known; these are its results. `None`: it could not be compared.
    pub fn settled(&mut self, id: VertexId, results: Option<Vec<ResultId>>) {
        let node = self.position(&id);
        let State::Settling(fresh) = &mut self.nodes[node].state else {
            unreachable!("an answer follows a question, once");
        };
        let fresh = std::mem::take(fresh);
        match results.filter(|results| results.len() == fresh.len() && *results != fresh) {
            Some(results) => {
                self.tell(Event::Unchanged(id));
                self.end(node, results);
            }
            None => self.end(node, fresh),
        }
    }

    fn end(&mut self, node: usize, results: Vec<ResultId>) {
        self.record_definition(node, &results);
        self.release(node);
        if !self.nodes[node].quiet {
            self.ran += usize::from(!self.is_source(node));
            self.tell(Event::Done(self.order[node]));
        } else if !self.nodes[node].keyless {
            self.tell_cached(node, Hit::Content);
        }
        self.done(node, results);
        self.record_content(node);
    }

    pub(super) fn leave_place(&mut self, node: usize) {
        if std::mem::take(&mut self.nodes[node].has_place) {
            self.queue_of(node).taken -= 1;
        }
    }

    pub(super) fn release(&mut self, node: usize) {
        if std::mem::take(&mut self.nodes[node].claims) {
            self.actions.push(Action::Release(self.order[node]));
        }
    }

    /// What is to be told and remembered of a vertex that ended well, with these results, while the build was stopped.
    /// `None`: it was being compared with what is known, and that came to nothing.
    pub fn keep(&mut self, id: VertexId, results: Option<Vec<ResultId>>) -> Vec<Action> {
        let node = self.position(&id);
        let fresh = match &mut self.nodes[node].state {
            State::Settling(fresh) => std::mem::take(fresh),
            _ => Vec::new(),
        };
        let results = results.unwrap_or(fresh);
        if results.len() == self.vertex(node).outputs() as usize {
            self.record_definition(node, &results);
            self.record_under_content(node, results);
        }
        if !self.nodes[node].quiet {
            self.tell(Event::Done(id));
        }
        std::mem::take(&mut self.actions)
    }
}
