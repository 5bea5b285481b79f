//! Two JSON documents, value by value.
//!
//! In: manifests, indexes or configs as values. Out: the fields that differ, by their paths, in the order of the names.
//! Bounded: so many fields, so many characters of each, and the documents have been read with limits already.

use serde_json::Value;

use super::difference::Field;
use super::hints;

/// Nobody reads more.
const FIELDS_MAX: usize = 50;
/// Characters of a value that are shown.
const VALUE_MAX_CHARS: usize = 200;

/// What differs; `skip` says which paths are told elsewhere.
pub fn compare(first: &Value, second: &Value, skip: &dyn Fn(&str) -> bool) -> Vec<Field> {
    let mut fields = Vec::new();
    walk(String::new(), Some(first), Some(second), skip, &mut fields);
    fields
}

fn walk(
    path: String,
    first: Option<&Value>,
    second: Option<&Value>,
    skip: &dyn Fn(&str) -> bool,
    out: &mut Vec<Field>,
) {
    if first == second || out.len() >= FIELDS_MAX || skip(&path) {
        return;
    }
    match (first, second) {
        (Some(Value::Object(one)), Some(Value::Object(two))) => {
            let mut names: Vec<&String> = one.keys().chain(two.keys()).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                let beneath = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                walk(beneath, one.get(name), two.get(name), skip, out);
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(two))) => {
            for at in 0..one.len().max(two.len()) {
                walk(format!("{path}[{at}]"), one.get(at), two.get(at), skip, out);
            }
        }
        _ => {
            let (one, two) = (first.map(text), second.map(text));
            let hints = hints::of_field(&path, one.as_deref(), two.as_deref());
            out.push(Field { path, first: one.map(cut), second: two.map(cut), hints });
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The beginning of a text.
pub fn cut(text: String) -> String {
    match text.char_indices().nth(VALUE_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_differ_are_named_by_their_paths() {
        let check = |first: Value, second: Value, expected: &[&str]| {
            let found = compare(&first, &second, &|path| path == "skipped");
            let shown: Vec<String> =
                found.iter().map(|field| format!("{} {:?} {:?}", field.path, field.first, field.second)).collect();
            assert_eq!(shown, expected);
        };
        check(json!({"a": 1}), json!({"a": 1}), &[]);
        check(json!({"a": {"b": "x"}}), json!({"a": {"b": "y"}}), &[r#"a.b Some("x") Some("y")"#]);
        check(
            json!({"l": [1, {"x": 2}], "gone": null}),
            json!({"l": [1, {"x": 3}, "new"]}),
            &[r#"gone Some("null") None"#, r#"l[1].x Some("2") Some("3")"#, r#"l[2] None Some("new")"#],
        );
        check(json!({"skipped": 1}), json!({"skipped": 2}), &[]);
        check(json!({"a": [1]}), json!({"a": {"b": 1}}), &[r#"a Some("[1]") Some("{\"b\":1}")"#]);
        let many = |value: u32| Value::Array((0..500).map(|_| json!(value)).collect());
        assert_eq!(compare(&many(1), &many(2), &|_| false).len(), FIELDS_MAX);
        let long = compare(&json!("ü".repeat(900)), &json!(""), &|_| false);
        assert_eq!(long[0].first.as_ref().map(|text| text.chars().count()), Some(VALUE_MAX_CHARS + 1));
    }
}
