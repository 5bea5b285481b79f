//! Definition keys, from the bottom up: answers about sources go in, questions come out, and when every key is there
//! the wants are demanded.

use super::{Action, DigestSlot, Schedule, State};
use crate::canon::Part;
use crate::graph::VertexId;
use crate::key::{self, ContentDigest, InputKey, Key};
use crate::seam::{Event, Pin};

impl Schedule {
    pub(super) fn start_keys(&mut self) {
        for node in 0..self.nodes.len() {
            if self.is_source(node) {
                self.actions.push(Action::Pin(self.order[node]));
            } else if self.nodes[node].inputs.is_empty() {
                self.to_key.push(node);
            }
        }
        self.make_keys();
    }

    /// A source is `pin`.
    pub fn pinned(&mut self, id: VertexId, pin: &Pin) {
        let node = self.position(&id);
        match key::source_key(self.vertex(node), pin) {
            Some(key) => self.set_key(node, key),
            None => self.nodes[node].keyless = true,
        }
        self.key_known(node);
        self.make_keys();
    }

    /// What `reader` selects from the source `source` has this digest.
    pub fn digested(
        &mut self,
        reader: VertexId,
        source: VertexId,
        (input, position): DigestSlot,
        digest: ContentDigest,
    ) {
        let (reader, source_node) = (self.position(&reader), self.position(&source));
        let asked = &mut self.nodes[source_node].digesting;
        *asked -= 1;
        if *asked == 0 {
            self.tell(Event::Done(source));
        }
        let node = &mut self.nodes[reader];
        let (missing, digests) = node.selected.get_mut(&input).expect("asked for");
        digests[position] = Some(digest);
        *missing -= 1;
        if *missing == 0 {
            let digests = node.selected.remove(&input).into_iter().flat_map(|(_, digests)| digests).flatten().collect();
            node.input_keys[input] = Some(InputKey::Selected(digests));
            self.one_less_to_key(reader);
        }
        self.make_keys();
    }

    fn set_key(&mut self, node: usize, (key, parts): (Key, Vec<Part>)) {
        let parts: std::sync::Arc<[Part]> = parts.into();
        self.tell(Event::Keyed { vertex: self.order[node], key, parts: parts.clone() });
        self.nodes[node].key = Some((key, parts));
    }

    fn one_less_to_key(&mut self, node: usize) {
        if let State::Keying { missing } = &mut self.nodes[node].state {
            *missing -= 1;
            if *missing == 0 {
                self.to_key.push(node);
            }
        }
    }

    /// Makes every key that can be made; when all are there, the wants are demanded.
    fn make_keys(&mut self) {
        while let Some(node) = self.to_key.pop() {
            self.work += 1 + self.nodes[node].inputs.len() as u64;
            let inputs: Vec<InputKey> = self.nodes[node].input_keys.iter().flatten().cloned().collect();
            debug_assert_eq!(
                inputs.len(),
                self.nodes[node].inputs.len(),
                "a key is made when every input has contributed"
            );
            let made = key::Definition::of(self.vertex(node), &inputs);
            self.nodes[node].operation = Some(made.operation);
            self.set_key(node, (made.key, made.parts));
            self.key_known(node);
        }
        if self.keys_missing == 0 {
            self.demand(self.wants.iter().map(|want| self.position(&want.vertex)).collect());
        }
    }

    /// Tells the users of `node` what it contributes to their keys.
    fn key_known(&mut self, node: usize) {
        self.nodes[node].state = State::Keyed;
        self.keys_missing -= 1;
        let key = self.nodes[node].key.as_ref().map(|(key, _)| *key);
        let users = std::mem::take(&mut self.nodes[node].users);
        self.work += 1 + users.len() as u64;
        for (user, input) in &users {
            match key {
                Some(key) => {
                    let user = &mut self.nodes[*user];
                    user.input_keys[*input] = Some(InputKey::Key(key, user.inputs[*input].1));
                }
                None => self.ask_for_digests(*user, *input),
            }
            if self.nodes[*user].input_keys[*input].is_some() {
                self.one_less_to_key(*user);
            }
        }
        self.nodes[node].users = users;
    }

    /// Asks for what `reader` selects from its input, which has no key.
    fn ask_for_digests(&mut self, reader: usize, input: usize) {
        let selections = key::selections(self.vertex(reader), input);
        self.work += selections.len() as u64;
        if selections.is_empty() {
            self.nodes[reader].input_keys[input] = Some(InputKey::Selected(Vec::new()));
            return;
        }
        let source = self.nodes[reader].inputs[input].0;
        self.nodes[reader].selected.insert(input, (selections.len(), vec![None; selections.len()]));
        // A source without a key is shown while it is read for keys; opening it later is no news.
        if self.nodes[source].digesting == 0 {
            self.tell(Event::Started(self.order[source]));
        }
        self.nodes[source].digesting += selections.len();
        let (reader, source) = (self.order[reader], self.order[source]);
        for (position, selection) in selections.into_iter().enumerate() {
            self.actions.push(Action::Digest { reader, source, slot: (input, position), selection });
        }
    }
}
