//! Directories' nodes: those that no cache key's parts lead to explain nothing any more.

use std::collections::HashSet;

use rusqlite::Transaction;

use super::remove::bytes_of;
use crate::Node;
use crate::index::Trouble;

/// Deletes the nodes that no digest in the parts of a key leads to.
pub(crate) fn sweep(transaction: &Transaction<'_>) -> Result<(), Trouble> {
    let mut known: HashSet<[u8; 32]> = HashSet::new();
    let mut query = transaction.prepare("SELECT digest FROM nodes")?;
    for digest in query.query_map([], |row| row.get(0))? {
        known.insert(digest?);
    }
    let mut todo = Vec::new();
    let mut query = transaction.prepare("SELECT parts FROM keys")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        todo.extend(digests(row.get_ref(0)?.as_str().unwrap_or_default()).filter(|digest| known.contains(digest)));
    }
    let mut body = transaction.prepare("SELECT body FROM nodes WHERE digest = ?1")?;
    while let Some(digest) = todo.pop() {
        if !known.remove(&digest) {
            continue;
        }
        let bytes: Vec<u8> = body.query_row([&digest], |row| row.get(0))?;
        todo.extend(Node::children(&bytes).into_iter().map(|child| child.0).filter(|child| known.contains(child)));
    }
    let mut delete = transaction.prepare("DELETE FROM nodes WHERE digest = ?1")?;
    for digest in known {
        delete.execute([digest])?;
    }
    Ok(())
}

/// Whatever in a text may be a digest: exactly 64 hexadecimal digits.
fn digests(text: &str) -> impl Iterator<Item = [u8; 32]> {
    let words = text.split(|c: char| !matches!(c, '0'..='9' | 'a'..='f'));
    words.filter(|word| word.len() == 64).filter_map(bytes_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_wherever_they_stand() {
        let hex = "ab".repeat(32);
        let check = |text: String, count: usize| assert_eq!(digests(&text).count(), count, "{text}");
        check(format!("[{{\"value\":\"sha256:{hex}\"}}]"), 1);
        check(format!("{hex}:x {hex}"), 2);
        check(format!("{hex}0"), 0);
        check("nothing".into(), 0);
    }
}
