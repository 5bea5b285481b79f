//! What operations read of their inputs, and content keys made of it.

use std::sync::Arc;

use super::{Action, Schedule, State};
use crate::canon::Part;
use crate::graph::VertexId;
use crate::key::{self, ContentDigest, InputContent, InputKey, Key};
use crate::op::Op;
use crate::seam::{KeyKind, Read, ResultId};

/// What is known of one read of one result. Asked once per build, whoever reads it.
#[derive(Debug)]
pub(super) enum Content {
    /// It is being digested; for these: vertex, input, position among what the vertex reads there.
    Asked(Vec<(usize, usize, usize)>),
    /// `None`: it cannot be told.
    Known(Option<ContentDigest>),
}

/// The content of a vertex's inputs, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Per input and read; inputs without a key have none here.
    digests: Vec<Vec<Option<ContentDigest>>>,
    missing: usize,
    /// The content key and what it covers beside the operation, once everything is known, unless something cannot be told.
    key: Option<(Key, Vec<InputContent>)>,
}

impl Schedule {
    /// The operation of a vertex has given these results before.
    pub fn known(&mut self, id: VertexId, mut results: Vec<Vec<ResultId>>) {
        let node = self.position(&id);
        let outputs = self.vertex(node).outputs() as usize;
        results.retain(|results| results.len() == outputs);
        let ever_ran = !results.is_empty();
        self.nodes[node].known = results;
        if self.nodes[node].anew || !ever_ran || !self.has_content_key(node) {
            return self.queue(node);
        }
        self.nodes[node].state = State::Comparing;
        self.ask_for_contents(node);
        self.compared(node);
    }

    /// Without an input that has a definition key, the content key says what the definition key says. And who wants none
    /// has none.
    fn has_content_key(&self, node: usize) -> bool {
        let is_key = |input: &Option<InputKey>| matches!(input, Some(InputKey::Key(..)));
        !self.is_source(node)
            && self.nodes[node].input_keys.iter().any(is_key)
            && key::may_go_by_content(self.vertex(node))
    }

    /// Has everything digested that the content key of a vertex needs, unless it was asked for before or has no use.
    pub(super) fn ask_for_contents(&mut self, node: usize) {
        if self.nodes[node].contents.is_some() || !self.has_content_key(node) {
            return;
        }
        let mut contents = Contents::default();
        for (input, reads) in key::all_reads(self.vertex(node)).into_iter().enumerate() {
            if matches!(self.nodes[node].input_keys[input], Some(InputKey::Selected(_))) {
                contents.digests.push(Vec::new());
                continue;
            }
            let (below, output) = self.nodes[node].inputs[input];
            let result = self.result(below, output).expect("inputs are there").clone();
            contents.digests.push(vec![None; reads.len()]);
            contents.missing += reads.len();
            self.work += 1 + reads.len() as u64;
            for (position, read) in reads.into_iter().enumerate() {
                let slot = (node, input, position);
                match self.contents.get_mut(&(result.clone(), read.clone())) {
                    Some(Content::Known(digest)) => {
                        contents.digests[input][position] = *digest;
                        contents.missing -= 1;
                    }
                    Some(Content::Asked(waiting)) => waiting.push(slot),
                    None => {
                        self.contents.insert((result.clone(), read.clone()), Content::Asked(vec![slot]));
                        self.actions.push(Action::Content(result.clone(), read));
                    }
                }
            }
        }
        self.nodes[node].contents = Some(contents);
        self.make_content_key(node);
    }

    /// What is read of a result has this digest; `None`: it cannot be told.
    pub fn content(&mut self, result: ResultId, read: Read, digest: Option<ContentDigest>) {
        let known = self.contents.insert((result, read), Content::Known(digest));
        let Some(Content::Asked(waiting)) = known else { unreachable!("an answer follows a question, once") };
        self.work += waiting.len() as u64;
        for (node, input, position) in waiting {
            let contents = self.nodes[node].contents.as_mut().expect("who waits has asked");
            contents.digests[input][position] = digest;
            contents.missing -= 1;
            self.make_content_key(node);
            match self.nodes[node].state {
                State::Comparing => self.compared(node),
                State::Done(_) => self.record_content(node),
                _ => {}
            }
        }
    }

    fn make_content_key(&mut self, node: usize) {
        let contents = self.nodes[node].contents.as_ref().expect("asked for");
        if contents.missing > 0 {
            return;
        }
        let input = |(key, digests): (&Option<InputKey>, &Vec<Option<ContentDigest>>)| match key {
            Some(InputKey::Selected(digests)) => Some(InputContent::Selected(digests.clone())),
            _ => digests.iter().copied().collect::<Option<_>>().map(InputContent::Read),
        };
        self.work += contents.digests.len() as u64;
        let inputs: Option<Vec<InputContent>> =
            self.nodes[node].input_keys.iter().zip(&contents.digests).map(input).collect();
        let operation = self.operation(node);
        let contents = self.nodes[node].contents.as_mut().expect("asked for");
        contents.key = inputs.map(|inputs| (key::content_key_of(&operation, &inputs), inputs));
    }

    /// Looks the content key up, once it is known; goes on without it if it cannot be.
    fn compared(&mut self, node: usize) {
        let contents = self.nodes[node].contents.as_ref().expect("asked for");
        if contents.missing > 0 {
            return;
        }
        match &contents.key {
            Some((key, _)) => {
                self.actions.push(Action::LookUp(self.order[node], *key));
                self.nodes[node].state = State::LookingUpContent;
            }
            None => self.queue(node),
        }
    }

    pub(super) fn operation(&mut self, node: usize) -> Key {
        if let Some(known) = self.nodes[node].operation {
            return known;
        }
        let operation = key::operation_key(self.vertex(node));
        self.nodes[node].operation = Some(operation);
        operation
    }

    /// Whether a process may have made what one made before. Rbuild's own work makes of other inputs something else, so
    /// it is only compared when it was done again on purpose.
    pub(super) fn settles(&self, node: usize) -> bool {
        let may_repeat = matches!(self.vertex(node).op, Op::Exec(_)) || self.nodes[node].anew;
        may_repeat && !self.nodes[node].known.is_empty()
    }

    pub(super) fn record_definition(&mut self, node: usize, results: &[ResultId]) {
        if let Some((key, parts)) = self.nodes[node].key.clone() {
            self.record(node, KeyKind::Definition, key, parts, results.to_vec());
        }
    }

    /// Remembers the result of a vertex under its content key, if both are known.
    pub(super) fn record_content(&mut self, node: usize) {
        if let State::Done(results) = &self.nodes[node].state {
            let results = results.clone();
            self.record_under_content(node, results);
        }
    }

    pub(super) fn record_under_content(&mut self, node: usize, results: Vec<ResultId>) {
        let Some((key, inputs)) = self.nodes[node].contents.as_ref().and_then(|contents| contents.key.as_ref()) else {
            return;
        };
        let definition = self.nodes[node].key.as_ref().map_or(&[] as &[Part], |(_, parts)| parts);
        let (key, parts) = (*key, key::parts_of_content_key(definition, inputs));
        self.record(node, KeyKind::Content, key, parts.into(), results);
    }

    fn record(&mut self, node: usize, kind: KeyKind, key: Key, parts: Arc<[Part]>, results: Vec<ResultId>) {
        let (vertex, operation) = (self.order[node], self.operation(node));
        self.actions.push(Action::Record { vertex, key, kind, operation, parts, results });
    }
}
