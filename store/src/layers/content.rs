//! What is known of what layers hold: digests of their content.
//!
//! In: digests that somebody made of trees. Out: for every record the one that follows. What a digest covers is the
//! business of its maker (`executor::content`), who puts a version into it; the times of files are not in it. The
//! record that has the tree keeps it; of others it follows:
//!
//! ```text
//!   pulled, imported or loaded   SHA-256( "rbuild layer content by diff_id 1", diff_id )    with or without a tree
//!   derived                      its origin's
//!   derived, with other times    SHA-256( "rbuild layer content with times 1", its origin's, rule )
//!   empty                        none
//! ```

use oci::model::{DiffId, Digest};
use rusqlite::Transaction;
use solver::key::ContentDigest;
use solver::seam::ResultId;

use crate::derived::{TimeRule, rule_text};
use crate::index::Trouble;
use crate::journal::{self, Line};
use crate::{Store, StoreError};

const BY_DIFF_ID: &[u8] = b"rbuild layer content by diff_id 1";
const WITH_TIMES: &[u8] = b"rbuild layer content with times 1";

impl Store {
    /// Remembers the digest of what a layer holds, times aside. Of a derived layer it is its origin's; a pulled one has
    /// one already, and what is said of it is not remembered. Saying the same again writes nothing, another digest
    /// replaces the one that was known.
    ///
    /// # Errors
    /// [`StoreError::NoSuchLayer`], [`StoreError::EmptyLayer`].
    pub fn set_content(&self, id: &ResultId, content: ContentDigest) -> Result<(), StoreError> {
        let layer = self.layer(id)?.ok_or_else(|| StoreError::NoSuchLayer { id: id.clone() })?;
        if layer.empty {
            return Err(StoreError::EmptyLayer { id: id.clone() });
        }
        if layer.pulled || layer.times.is_some() || layer.content == Some(content) {
            return Ok(());
        }
        let keeper = layer.origin.as_ref().unwrap_or(id);
        self.index().transaction("record a content digest", |transaction| {
            store_content(transaction, keeper, content)?;
            Ok(())
        })?;
        journal::append(self.layout(), keeper, &Line::Content { digest: content.to_string() })?;
        Ok(())
    }
}

pub(crate) fn store_content(
    transaction: &Transaction<'_>,
    id: &ResultId,
    content: ContentDigest,
) -> Result<(), Trouble> {
    let mut update = transaction.prepare_cached("UPDATE layers SET content = ?2 WHERE id = ?1")?;
    update.execute((id.as_str(), content.0))?;
    Ok(())
}

/// The content digest of a record: `noted` is what its own row says, or its origin's.
pub(super) fn content_of(
    empty: bool,
    pulled: bool,
    noted: Option<ContentDigest>,
    diff_id: Option<DiffId>,
    times: Option<&TimeRule>,
) -> Option<ContentDigest> {
    if empty {
        return None;
    }
    if pulled {
        return diff_id.map(|diff_id| joined(BY_DIFF_ID, diff_id.0.as_bytes(), b""));
    }
    match times {
        None => noted,
        Some(rule) => noted.map(|origin| joined(WITH_TIMES, &origin.0, rule_text(rule).as_bytes())),
    }
}

/// `form` differs in its words, `digest` has one length: so the fields cannot run into each other.
fn joined(form: &[u8], digest: &[u8; 32], rest: &[u8]) -> ContentDigest {
    ContentDigest(*Digest::of(&[form, digest, rest].concat()).as_bytes())
}

/// A content digest as record files hold it: 64 hexadecimal digits.
pub(crate) fn parse_content(hex: &str) -> Option<ContentDigest> {
    format!("sha256:{hex}").parse::<Digest>().ok().map(|digest| ContentDigest(*digest.as_bytes()))
}
