//! What people call an operation that has no description: clients of other builders expect these words.
//!
//! A name is bounded: that of a merge is made of its inputs' names, which would double with every storey.

use api::pb;
use api::pb::file_action::Action;

/// Longer names are cut.
const NAME_MAX_BYTES: usize = 256;

/// The name of an operation; `input` gives those of its inputs.
pub(super) fn of<'a>(op: &pb::Op, input: impl Fn(usize) -> &'a str) -> String {
    let named = |index: Option<i64>| match index.and_then(|index| usize::try_from(index).ok()) {
        Some(index) if index < op.inputs.len() => format!("({})", input(index)),
        _ => "scratch".to_owned(),
    };
    let mut name = Name::default();
    match &op.op {
        None => {}
        Some(pb::op::Op::Source(source)) => {
            name.push(&solver::redact::addresses(&source.identifier));
        }
        Some(pb::op::Op::Exec(exec)) => {
            let args = exec.meta.as_ref().map_or(&[] as &[String], |meta| &meta.args);
            name.join(" ", args.iter().map(String::as_str));
        }
        Some(pb::op::Op::File(file)) => {
            name.join(", ", file.actions.iter().filter_map(|of| action(of.action.as_ref()?)))
        }
        Some(pb::op::Op::Build(_)) => name.push("build"),
        Some(pb::op::Op::Merge(_)) => {
            name.push("merge (");
            name.join(", ", (0..op.inputs.len()).map(input));
            name.push(")");
        }
        Some(pb::op::Op::Diff(diff)) => {
            let lower = named(diff.lower.as_ref().map(|lower| lower.input));
            let upper = named(diff.upper.as_ref().map(|upper| upper.input));
            name.push(&format!("diff {lower} -> {upper}"));
        }
    }
    name.0
}

fn action(action: &Action) -> Option<String> {
    Some(match action {
        Action::Mkdir(dir) => format!("mkdir {}", cut(&dir.path)),
        Action::Mkfile(file) => format!("mkfile {}", cut(&file.path)),
        Action::Rm(rm) => format!("rm {}", cut(&rm.path)),
        Action::Copy(copy) => format!("copy {} {}", cut(&copy.src), cut(&copy.dest)),
        Action::Symlink(link) => format!("symlink {} -> {}", cut(&link.newpath), cut(&link.oldpath)),
    })
}

/// A text that stops growing.
#[derive(Default)]
struct Name(String);

impl Name {
    fn is_full(&self) -> bool {
        self.0.len() >= NAME_MAX_BYTES
    }

    fn push(&mut self, text: &str) {
        if self.is_full() {
            return;
        }
        self.0.push_str(cut(text));
        if self.0.len() > NAME_MAX_BYTES {
            self.0.truncate(cut(&self.0).len());
            self.0.push('…');
        }
    }

    fn join<T: AsRef<str>>(&mut self, between: &str, texts: impl Iterator<Item = T>) {
        for (i, text) in texts.enumerate() {
            if self.is_full() {
                return;
            }
            if i > 0 {
                self.push(between);
            }
            self.push(text.as_ref());
        }
    }
}

/// As much of a text as a name may have.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(NAME_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_names_stays_short() {
        let merge = pb::Op {
            inputs: vec![pb::Input::default(); 2],
            op: Some(pb::op::Op::Merge(pb::MergeOp::default())),
            ..pb::Op::default()
        };
        let mut name = "copy /a /b".to_owned();
        for _ in 0..64 {
            name = of(&merge, |_| &name);
        }
        assert!(name.starts_with("merge (merge (") && name.ends_with('…'), "{name}");
        assert!(name.len() < 2 * NAME_MAX_BYTES, "{}", name.len());
        assert_eq!(cut(&"ä".repeat(200)).len(), NAME_MAX_BYTES);
    }
}
