//! JSON as images carry it, read without doubt.
//!
//! Bytes from elsewhere come in, a typed value goes out, but only when every reader would read the same: no object
//! may hold one key twice, whatever its depth, and in the outermost object not even in two spellings that differ in
//! case alone (some readers fold case). This closes CVE-2021-41190: one digest, two readings. Deliberately absent:
//! sizes, which [`crate::content`] limits before anything is parsed; depth is limited to 128 by serde_json.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Reads one JSON document. Fails on a repeated key, on trailing bytes and on whatever `T` refuses.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Unambiguous { outermost: true }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    serde_json::from_slice(bytes)
}

/// Walks any value and keeps nothing but the keys of the objects it is inside of.
#[derive(Clone, Copy)]
struct Unambiguous {
    outermost: bool,
}

impl<'de> DeserializeSeed<'de> for Unambiguous {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unambiguous {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Unambiguous { outermost: false })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let folded = if self.outermost { key.to_ascii_lowercase() } else { key.clone() };
            if !seen.insert(folded) {
                return Err(A::Error::custom(format_args!(
                    "the key `{}` stands twice in one object",
                    key.escape_debug()
                )));
            }
            map.next_value_seed(Unambiguous { outermost: false })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn check(text: &str, refused_with: Option<&str>) {
        let got = parse::<Value>(text.as_bytes());
        match (got, refused_with) {
            (Ok(value), None) => assert_eq!(value, serde_json::from_str::<Value>(text).unwrap(), "{text}"),
            (Err(error), Some(words)) => assert!(error.to_string().contains(words), "{text}: {error}"),
            (got, want) => panic!("{text}: got {got:?}, wanted refusal {want:?}"),
        }
    }

    #[test]
    fn a_document_has_one_reading_or_is_refused() {
        check(r#"{"a":[1,-2,3.5,null,true,"x",{"b":{}}]}"#, None);
        check(r#"{"config":{"Labels":{"a":"1","A":"2"}}}"#, None);
        check(r#"{"a":1,"a":1}"#, Some("`a` stands twice"));
        check(r#"{"layers":[],"Layers":[]}"#, Some("`Layers` stands twice"));
        check(r#"{"a":[{"b":{"c":1,"c":2}}]}"#, Some("`c` stands twice"));
        check(r#"{"a":1,"\u0061":2}"#, Some("`a` stands twice"));
        check(r#"{"a":1}{"#, Some("trailing"));
        check(&("[".repeat(10_000) + &"]".repeat(10_000)), Some("recursion limit"));
        check("", Some("EOF"));
    }
}
