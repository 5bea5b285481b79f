//! Source policies of a request, as messages of the control API.
//!
//! In: [`sourcepolicy::Policy`](api::sourcepolicy::Policy). Out: the rules of the engine, which are those of the variable that
//! the command line reads: what is written there stands in [`crate::options::policy`]. Deliberately absent: what they do.

use api::control::SolveRequest;
use api::sourcepolicy;
use tonic::Status;

use crate::engine::Policy;
use crate::options::policy::{self, Selector, Update, Word, Written, WrittenConstraint, WrittenRule};

/// The rules about sources of a request.
///
/// # Errors
/// When they are wrong, or stand elsewhere.
pub fn of_request(request: &SolveRequest) -> Result<Policy, Status> {
    if !request.source_policy_session.is_empty() {
        return Err(Status::unimplemented(
            "asking a session about every source is not supported by this version of rbuild; a source policy with rules is",
        ));
    }
    match &request.source_policy {
        Some(told) => policy(told).map_err(|error| Status::invalid_argument(format!("source policy: {error}"))),
        None => Ok(Policy::default()),
    }
}

fn policy(told: &sourcepolicy::Policy) -> Result<Policy, String> {
    let rules = told.rules.iter().map(|rule| WrittenRule {
        action: Word::Number(rule.action),
        selector: rule.selector.as_ref().map(selector),
        updates: rule.updates.as_ref().map(|update| Update {
            identifier: update.identifier.clone(),
            attrs: update.attrs.clone().into_iter().collect(),
        }),
    });
    policy::policy(Written { version: told.version, rules: rules.collect() })
}

fn selector(told: &sourcepolicy::Selector) -> Selector {
    let constraints = told.constraints.iter().map(|constraint| WrittenConstraint {
        key: constraint.key.clone(),
        value: constraint.value.clone(),
        condition: Word::Number(constraint.condition),
    });
    Selector {
        identifier: told.identifier.clone(),
        kind: Word::Number(told.match_type),
        constraints: constraints.collect(),
    }
}
