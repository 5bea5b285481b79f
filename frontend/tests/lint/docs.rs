//! `docs/rules.md`: a section for each rule, whose bad example is bad and whose good one is good.

use rbuild_frontend::call::check;
use rbuild_frontend::lint::Rule;
use rbuild_frontend::{Answers, PlanOptions};

use super::options;

const PAGE: &str = include_str!("../../../docs/rules.md");

/// The section of a rule.
fn section(rule: Rule) -> &'static str {
    let title = format!("\n## {}\n", rule.name());
    let start = PAGE.find(&title).unwrap_or_else(|| panic!("{} has no section", rule.name())) + title.len();
    let end = PAGE[start..].find("\n## ").map_or(PAGE.len(), |length| start + length);
    &PAGE[start..end]
}

/// The examples of a section: the bad one, then the good one.
fn examples(section: &'static str) -> Vec<&'static str> {
    let blocks = section.split("```dockerfile\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap_or_default()).collect()
}

#[test]
fn every_rule_has_its_section_and_no_other_has() {
    let titles: Vec<&str> = PAGE.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let names: Vec<&str> = Rule::ALL.map(Rule::name).to_vec();
    assert_eq!(titles, names);
}

#[test]
fn examples_are_bad_and_good() {
    for rule in Rule::ALL {
        let (bad, good) = match examples(section(rule))[..] {
            [bad, good] => (bad, good),
            ref other => panic!("{}: a bad and a good example, not {other:?}", rule.name()),
        };
        let options = PlanOptions {
            ignore_patterns: vec!["node_modules".into()],
            build_args: [("TAG".to_owned(), "12".to_owned())].into(),
            ..options()
        };
        let found = |text: &str| {
            // Some rules speak of images.
            let asked = check(text, &options, &Answers::new()).unknown;
            let answers: Answers = asked
                .into_iter()
                .filter_map(|asked| Some((asked.question.clone(), super::image(&asked.question)?)))
                .collect();
            let found = check(text, &options, &answers).findings;
            found.into_iter().filter(|finding| finding.rule == Some(rule)).collect::<Vec<_>>()
        };
        let bad_found = found(bad);
        assert_eq!(bad_found.len(), 1, "{}: {bad_found:?}", rule.name());
        assert!(found(good).is_empty(), "{}: {:?}", rule.name(), found(good));
        let mends = section(rule).contains("`--fix` mends it");
        assert_eq!(mends, !bad_found[0].fix.is_empty(), "{}: does `--fix` mend it?", rule.name());
    }
}
