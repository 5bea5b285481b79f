//! Findings mended in the text.

use std::collections::BTreeMap;

use crate::error::{Diagnostic, Edit};

/// Applies the fixes of findings: the new text, and how many findings were mended. The edits of a finding are applied
/// all or not at all; of two findings whose edits overlap the first wins, unless their common edits are equal. Edits
/// that do not lie in the text are not applied.
pub fn fix(text: &str, findings: &[Diagnostic]) -> (String, usize) {
    let mut taken = Taken::default();
    let mended = findings.iter().filter(|finding| !finding.fix.is_empty() && taken.take(text, &finding.fix)).count();
    let mut fixed = String::with_capacity(text.len());
    let mut at = 0;
    for (&(start, end), replacement) in &taken.edits {
        fixed.push_str(&text[at..start]);
        fixed.push_str(replacement);
        at = end;
    }
    fixed.push_str(&text[at..]);
    (fixed, mended)
}

/// Edits that go together, by their places.
#[derive(Default)]
struct Taken<'a> {
    edits: BTreeMap<(usize, usize), &'a str>,
}

impl<'a> Taken<'a> {
    fn take(&mut self, text: &str, edits: &'a [Edit]) -> bool {
        let mut new: Vec<(usize, usize)> = Vec::with_capacity(edits.len());
        for edit in edits {
            match self.place(text, edit) {
                Some(true) => {
                    self.edits.insert(edit.span, &edit.replacement);
                    new.push(edit.span);
                }
                Some(false) => {}
                None => {
                    for span in new {
                        self.edits.remove(&span);
                    }
                    return false;
                }
            }
        }
        true
    }

    /// Whether an edit is new; `None` when it does not go with the others.
    fn place(&self, text: &str, edit: &Edit) -> Option<bool> {
        let (start, end) = edit.span;
        text.get(start..end)?;
        if let Some(known) = self.edits.get(&edit.span) {
            return (*known == edit.replacement).then_some(false);
        }
        // Taken edits do not overlap each other, so their neighbours are enough. Those that only touch are fine, but
        // two at one point have no order.
        let before =
            self.edits.range(..edit.span).next_back().is_none_or(|(known, _)| known.1 <= start && known.0 < start);
        let after = self.edits.range(edit.span..).next().is_none_or(|(known, _)| end <= known.0 && start < known.0);
        (before && after).then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::Span;

    #[test]
    fn edits_of_a_finding_are_applied_all_or_not_at_all() {
        let check = |findings: &[&[(usize, usize, &str)]], expected: &str, count: usize| {
            let findings: Vec<Diagnostic> = findings
                .iter()
                .map(|edits| {
                    let edits = edits
                        .iter()
                        .map(|(start, end, with)| Edit { span: (*start, *end), replacement: (*with).to_owned() });
                    Diagnostic::warning(Span::new(0, 0), "x", "").fix(edits.collect())
                })
                .collect();
            assert_eq!(fix("0123456789", &findings), (expected.to_owned(), count), "{findings:?}");
        };
        check(&[], "0123456789", 0);
        check(&[&[]], "0123456789", 0);
        check(&[&[(0, 1, "a")]], "a123456789", 1);
        check(&[&[(9, 10, "")]], "012345678", 1);
        check(&[&[(5, 5, "x")]], "01234x56789", 1);
        check(&[&[(10, 10, "x")]], "0123456789x", 1);
        check(&[&[(7, 8, "b"), (1, 2, "a")]], "0a23456b89", 1);
        check(&[&[(1, 3, "a")], &[(2, 4, "b")]], "0a3456789", 1);
        check(&[&[(2, 4, "b")], &[(1, 3, "a")]], "01b456789", 1);
        check(&[&[(1, 3, "a")], &[(3, 4, "b")]], "0ab456789", 2);
        check(&[&[(1, 3, "a")], &[(1, 3, "a")]], "0a3456789", 2);
        check(&[&[(1, 3, "a")], &[(1, 3, "b")]], "0a3456789", 1);
        check(&[&[(1, 3, "a")], &[(5, 6, "c"), (1, 3, "b")]], "0a3456789", 1);
        check(&[&[(1, 3, "a")], &[(5, 6, "c"), (1, 3, "a")]], "0a34c6789", 2);
        check(&[&[(2, 5, "a")], &[(3, 3, "b")]], "01a56789", 1);
        check(&[&[(3, 3, "b")], &[(2, 5, "a")]], "012b3456789", 1);
        check(&[&[(3, 3, "b")], &[(3, 5, "a")]], "012b3456789", 1);
        check(&[&[(8, 12, "a")], &[(5, 4, "a")]], "0123456789", 0);
    }
}
