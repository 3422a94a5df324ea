//! The allow block: which actors a policy admits.
//!
//! The rules are datasette's `actor_matches_allow`, made strict where JSON's types matter.

use serde_json::{Number, Value};

use crate::actor::Actor;

/// The admitted actors: everyone, no one, or the actors that a block of members describes.
#[derive(Debug, Clone, PartialEq)]
pub enum Allow {
    /// `true`: everyone, including anonymous requests.
    Everyone,
    /// `false`: no one.
    NoOne,
    /// An object: its members are alternatives.  An empty one admits no one.
    Members {
        /// The alternatives: the name of an actor's member and its condition.
        members: Vec<(Box<str>, Requirement)>,
        /// `unauthenticated` is exactly `true`.
        anonymous: bool,
    },
}

/// The condition of a member of the actor.
#[derive(Debug, Clone, PartialEq)]
pub enum Requirement {
    /// The bare string `"*"`: it must exist, even as null.
    Present,
    /// One of these scalars, or a list that holds one of them.
    AnyOf(Vec<Value>),
}

/// Why a value is not an allow block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct AllowError {
    /// The member at fault; `None` for the block itself.
    pub member: Option<String>,
    /// The element at fault, when the member is a list.
    pub index: Option<usize>,
    /// The problem.
    pub problem: AllowProblem,
}

/// A problem of an allow block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AllowProblem {
    /// `allow:` with nothing after it: it could mean either.
    #[error("an allow block cannot be null: write true (everyone) or false (no one)")]
    Null,
    /// A number, a text or a list.
    #[error("an allow block is true, false, or an object such as {{role: [Editor, Admin]}}")]
    NotABlock,
    /// An object as a member's value, or another value than a scalar in a list.
    #[error("a member of an allow block is a text, a number, true, false, or a list of these")]
    NotAScalar,
}

impl Allow {
    /// Reads an allow block.
    ///
    /// # Errors
    /// [`AllowError`] names the member and the element at fault.
    pub fn new(value: &Value) -> Result<Self, AllowError> {
        let of_block = |problem| AllowError { member: None, index: None, problem };
        let members = match value {
            Value::Bool(true) => return Ok(Self::Everyone),
            Value::Bool(false) => return Ok(Self::NoOne),
            Value::Null => return Err(of_block(AllowProblem::Null)),
            Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(of_block(AllowProblem::NotABlock));
            }
            Value::Object(members) => members,
        };
        let anonymous = members.get("unauthenticated") == Some(&Value::Bool(true));
        let members = members
            .iter()
            .map(|(name, value)| Ok((name.as_str().into(), Requirement::new(name, value)?)))
            .collect::<Result<_, AllowError>>()?;
        Ok(Self::Members { members, anonymous })
    }

    /// The block as it may be written, its members in their order.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Everyone => Value::Bool(true),
            Self::NoOne => Value::Bool(false),
            Self::Members { members, .. } => {
                let requirement = |requirement: &Requirement| match requirement {
                    Requirement::Present => Value::from("*"),
                    Requirement::AnyOf(values) => Value::from(values.clone()),
                };
                members.iter().map(|(name, value)| (name.to_string(), requirement(value))).collect()
            }
        }
    }

    /// Whether this actor passes.
    pub fn admits(&self, actor: &Actor) -> bool {
        match self {
            Self::Everyone => true,
            Self::NoOne => false,
            Self::Members { .. } => self.admitting_member(actor).is_some(),
        }
    }

    /// The first member of the block that this actor shares; `None` when there is none.
    pub fn admitting_member(&self, actor: &Actor) -> Option<&str> {
        let members = match self {
            Self::Everyone | Self::NoOne => return None,
            Self::Members { members, .. } => members,
        };
        let admits = |(name, requirement): &&(Box<str>, Requirement)| {
            actor.member(name).is_some_and(|value| requirement.matches(value))
        };
        members.iter().find(admits).map(|(name, _)| name.as_ref())
    }

    /// Whether a request without an actor passes.
    pub fn admits_anonymous(&self) -> bool {
        match self {
            Self::Everyone => true,
            Self::NoOne => false,
            Self::Members { anonymous, .. } => *anonymous,
        }
    }
}

impl Requirement {
    /// Reads the condition of a member.
    ///
    /// # Errors
    /// [`AllowProblem::NotAScalar`].
    pub fn new(member: &str, value: &Value) -> Result<Self, AllowError> {
        let not_a_scalar =
            |index| AllowError { member: Some(member.to_owned()), index, problem: AllowProblem::NotAScalar };
        match value {
            Value::String(text) if text == "*" => Ok(Self::Present),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                Ok(Self::AnyOf(vec![value.clone()]))
            }
            Value::Array(list) => match list.iter().position(|element| !is_scalar(element)) {
                Some(index) => Err(not_a_scalar(Some(index))),
                None => Ok(Self::AnyOf(list.clone())),
            },
            Value::Object(_) => Err(not_a_scalar(None)),
        }
    }

    /// Whether a member's value meets the condition.
    pub fn matches(&self, value: &Value) -> bool {
        match self {
            Self::Present => true,
            Self::AnyOf(requirement) => match value {
                Value::Array(elements) => elements
                    .iter()
                    .any(|element| requirement.iter().any(|requirement| same(requirement, element))),
                scalar => requirement.iter().any(|requirement| same(requirement, scalar)),
            },
        }
    }
}

fn is_scalar(value: &Value) -> bool {
    !matches!(value, Value::Array(_) | Value::Object(_))
}

/// Equality of scalars: numbers by value, whatever their spelling; a null, an object or a list equals nothing.
fn same(requirement: &Value, found: &Value) -> bool {
    match (requirement, found) {
        (Value::String(requirement), Value::String(found)) => requirement == found,
        (Value::Bool(requirement), Value::Bool(found)) => requirement == found,
        (Value::Number(requirement), Value::Number(found)) => same_number(requirement, found),
        _ => false,
    }
}

fn same_number(requirement: &Number, found: &Number) -> bool {
    match (integer(requirement), integer(found)) {
        (Some(requirement), Some(found)) => requirement == found,
        (None, None) => requirement.as_f64() == found.as_f64(),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The number as an integer when it is one, `1.0` included.
fn integer(number: &Number) -> Option<i128> {
    if let Some(small) = number.as_i64() {
        return Some(small.into());
    }
    if let Some(large) = number.as_u64() {
        return Some(large.into());
    }
    let float = number.as_f64()?;
    // Beyond 2^100 a float is compared as a float.
    (float.fract() == 0.0 && float.abs() < 2_f64.powi(100)).then_some(float as i128)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decide(actor: &Value, allow: &Value) -> bool {
        let allow = Allow::new(allow).unwrap();
        match actor {
            Value::Null => allow.admits_anonymous(),
            actor => allow.admits(&Actor::configured(actor.as_object().unwrap().clone()).unwrap()),
        }
    }

    #[test]
    fn who_is_admitted() {
        let cases = [
            (json!(null), json!(true), true),
            (json!(null), json!(false), false),
            (json!(null), json!({}), false),
            (json!(null), json!({"unauthenticated": true}), true),
            (json!(null), json!({"unauthenticated": false}), false),
            (json!(null), json!({"unauthenticated": 1}), false),
            (json!(null), json!({"unauthenticated": "true"}), false),
            (json!(null), json!({"unauthenticated": [true]}), false),
            (json!(null), json!({"unauthenticated": "*"}), false),
            (json!(null), json!({"id": "*"}), false),
            (json!(null), json!({"id": "root", "unauthenticated": true}), true),
            (json!({}), json!(true), true),
            (json!({}), json!(false), false),
            (json!({}), json!({}), false),
            (json!({}), json!({"id": "*"}), false),
            (json!({"id": "root"}), json!({}), false),
            (json!({"id": "root"}), json!({"unauthenticated": true}), false),
            (json!({"id": "root"}), json!({"id": "*"}), true),
            (json!({"id": null}), json!({"id": "*"}), true),
            (json!({"id": null}), json!({"id": null}), false),
            (json!({"id": [null]}), json!({"id": [null]}), false),
            (json!({"name": "root"}), json!({"id": "*"}), false),
            (json!({"id": "root"}), json!({"id": "bob"}), false),
            (json!({"id": "root"}), json!({"id": ["bob", "root"]}), true),
            (json!({"id": "root"}), json!({"id": []}), false),
            (json!({"id": "root"}), json!({"ID": "root"}), false),
            (json!({"id": "Root"}), json!({"id": "root"}), false),
            (json!({"id": "root"}), json!({"bot_id": "my-bot", "id": ["root"]}), true),
            (json!({"roles": ["staff", "dev"]}), json!({"roles": "dev"}), true),
            (json!({"roles": ["staff", "dev"]}), json!({"roles": ["dev", "otter"]}), true),
            (json!({"roles": ["staff", "dev"]}), json!({"roles": ["otter"]}), false),
            (json!({"roles": []}), json!({"roles": ["staff"]}), false),
            (json!({"roles": []}), json!({"roles": "*"}), true),
            (json!({"id": "*"}), json!({"id": ["*"]}), true),
            (json!({"id": "root"}), json!({"id": ["*"]}), false),
            (json!({"n": 1}), json!({"n": 1.0}), true),
            (json!({"n": 1.0}), json!({"n": [1]}), true),
            (json!({"n": 1.5}), json!({"n": 1.5}), true),
            (json!({"n": 1}), json!({"n": "1"}), false),
            (json!({"n": "1"}), json!({"n": 1}), false),
            (json!({"n": 1}), json!({"n": true}), false),
            (json!({"n": true}), json!({"n": 1}), false),
            (json!({"n": 0}), json!({"n": false}), false),
            (json!({"n": true}), json!({"n": true}), true),
            (json!({"n": true}), json!({"n": "true"}), false),
            (json!({"n": 9_007_199_254_740_993_u64}), json!({"n": 9_007_199_254_740_992.0}), false),
            (json!({"n": u64::MAX}), json!({"n": u64::MAX}), true),
            (json!({"n": u64::MAX}), json!({"n": -1}), false),
            (json!({"o": {"a": 1}}), json!({"o": "*"}), true),
            (json!({"o": [["a"]]}), json!({"o": "a"}), false),
            (json!({"o": [{"a": 1}, "b"]}), json!({"o": "b"}), true),
        ];
        for (actor, allow, expected) in cases {
            assert_eq!(decide(&actor, &allow), expected, "actor {actor}, allow {allow}");
        }
    }

    #[test]
    fn what_is_no_allow_block() {
        let error = |value: Value| {
            let AllowError { member, index, problem } = Allow::new(&value).unwrap_err();
            (member, index, problem)
        };
        assert_eq!(error(json!(null)), (None, None, AllowProblem::Null));
        for value in [json!(1), json!("true"), json!([]), json!(["id"])] {
            assert_eq!(error(value), (None, None, AllowProblem::NotABlock));
        }
        let member = |index| (Some("id".to_owned()), index, AllowProblem::NotAScalar);
        assert_eq!(error(json!({"id": {}})), member(None));
        assert_eq!(error(json!({"id": ["a", ["b"]]})), member(Some(1)));
        assert_eq!(error(json!({"id": [{}]})), member(Some(0)));
    }
}
