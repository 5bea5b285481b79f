//! Step names: `[build 2/4] RUN make`.

use std::borrow::Cow;

use crate::instr::Instruction;

/// Numbers the steps of one stage.
#[derive(Clone, Debug)]
pub struct Steps {
    /// For which machine the next step is, with a blank, when its name says so.
    pub machine: String,
    stage: String,
    index: usize,
    total: usize,
    /// Digits of `total`.
    width: usize,
}

impl Steps {
    /// `stage` is empty when the file has only one stage. FROM counts when it brings an image; of the rest only what
    /// makes a layer counts.
    pub fn new<'a>(stage: String, from_image: bool, commands: impl Iterator<Item = &'a Instruction>) -> Self {
        let layers = commands.filter(|command| command.kind.makes_layer()).count();
        let total = usize::from(from_image) + layers;
        Self { machine: String::new(), stage, index: 0, total, width: total.to_string().len() }
    }

    /// The name of the next step.
    pub fn next(&mut self, trigger: bool, text: &str) -> String {
        self.index += 1;
        self.again(trigger, &capitals(text))
    }

    /// Another name for the same step.
    pub fn again(&self, trigger: bool, text: &str) -> String {
        let blank = if self.stage.is_empty() { "" } else { " " };
        let trigger = if trigger { "ONBUILD " } else { "" };
        let Self { machine, stage, index, total, width } = self;
        format!("[{machine}{stage}{blank}{index:width$}/{total}] {trigger}{text}")
    }

    /// A step that turned out to make no layer (`WORKDIR /`) still takes its number, so that the last one is the total.
    pub fn skip(&mut self) {
        self.index += 1;
    }
}

/// The text with its first word in capitals.
pub fn capitals(text: &str) -> Cow<'_, str> {
    let end = text.find(' ').unwrap_or(text.len());
    if text[..end].bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_lowercase()) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}{}", text[..end].to_uppercase(), &text[end..]))
}

/// A here-document in a step's name: its first line.
pub fn summary(body: &str) -> String {
    let mut lines = body.trim().lines();
    let first = lines.next().unwrap_or_default();
    let more = if lines.next().is_some() { "..." } else { "" };
    format!("{first}{more}")
}
