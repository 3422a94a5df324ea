//! The section `actor_headers`: the headers that tell the upstream about the actor.

use super::raw::{Entry, Node};
use super::reader::Reader;
use crate::actor::Actor;
use crate::actor::header::{ActorHeader, MAX_BYTES, Selector, folds_onto};
use crate::credential::CredentialLocation;

/// The maximum number of actor headers.
pub const MAX_HEADERS: usize = 32;

/// Headers that have a meaning to Envoy, to HTTP or to us.
const RESERVED: [&str; 10] = [
    "host",
    "connection",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "transfer-encoding",
    "authorization",
    "cookie",
    "x-request-id",
];
const RESERVED_PREFIXES: [&str; 4] = ["proxy-", "content-", "x-forwarded-", "x-envoy-"];

/// Reads the section.
pub fn read<'t>(
    reader: &mut Reader<'t>,
    section: Option<&'t Node>,
    locations: &[CredentialLocation],
) -> Vec<ActorHeader> {
    let what = "a mapping from headers to members of the actor, such as {x-actor-id: id}";
    let Some(entries) = section.and_then(|node| Some((node, reader.entries(node, what)?))) else {
        return default();
    };
    let (node, entries) = entries;
    if entries.len() > MAX_HEADERS {
        reader.error(&node.at, format!("at most {MAX_HEADERS} actor headers, found {}", entries.len()));
    }
    entries.iter().filter_map(|entry| read_header(reader, entry, locations)).collect()
}

fn default() -> Vec<ActorHeader> {
    let member = |name: &str, member: &str| ActorHeader {
        name: name.into(),
        selector: Selector::Member(member.into()),
    };
    vec![
        ActorHeader { name: "x-actor".into(), selector: Selector::Whole },
        member("x-actor-id", "id"),
        member("x-actor-name", "name"),
        member("x-actor-role", "role"),
    ]
}

fn read_header<'t>(
    reader: &mut Reader<'t>,
    entry: &'t Entry,
    locations: &[CredentialLocation],
) -> Option<ActorHeader> {
    let name = &*entry.key;
    if let Some(problem) = problem_with(name, locations) {
        reader.error(&entry.at, problem);
    }
    let text = reader.text(&entry.value, "text: a member of the actor such as id or team.name, or \"*\"")?;
    let selector = match text.as_str() {
        "" => {
            reader.error(&entry.value.at, "a member's name is missing; \"*\" stands for the whole actor");
            return None;
        }
        "*" => Selector::Whole,
        member => Selector::Member(member.into()),
    };
    Some(ActorHeader { name: name.into(), selector })
}

/// The problem of a header's name.
///
/// Two names of legal characters fold onto each other only if they are equal, and then they are duplicate keys.
fn problem_with(name: &str, locations: &[CredentialLocation]) -> Option<String> {
    let is_legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if name.is_empty() || !name.bytes().all(is_legal) {
        return Some("an actor header's name consists of lower-case letters, digits and `-`".to_owned());
    }
    // The names in the messages below are constants, not text of the file.
    if let Some(reserved) = RESERVED.into_iter().find(|reserved| *reserved == name) {
        return Some(format!("the header `{reserved}` is reserved and cannot be an actor header"));
    }
    if let Some(prefix) = RESERVED_PREFIXES.into_iter().find(|prefix| name.starts_with(prefix)) {
        return Some(format!("headers that begin with `{prefix}` are reserved and cannot be actor headers"));
    }
    let is_location = locations
        .iter()
        .filter_map(CredentialLocation::header)
        .any(|location| folds_onto(location.as_bytes(), name));
    is_location
        .then(|| "`credentials` reads a token from this header, so it cannot be an actor header".to_owned())
}

/// The total size of an actor's headers in bytes, if it exceeds [`MAX_BYTES`].
///
/// `members_bytes` is an upper bound of the actor's size as JSON: with it, the headers of 100,000 small actors need not
/// be rendered to know that they fit.
pub fn too_large(headers: &[ActorHeader], actor: &Actor, members_bytes: usize) -> Option<usize> {
    // One byte of the actor takes at most six in a header: \u00ff.
    let names: usize = headers.iter().map(|header| header.name.len()).sum();
    if names + headers.len() * members_bytes * 6 <= MAX_BYTES {
        return None;
    }
    let size = |header: &ActorHeader| header.name.len() + header.value(actor).map_or(0, |value| value.len());
    let total = headers.iter().map(size).sum();
    (total > MAX_BYTES).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_actor_headers() {
        let locations = [CredentialLocation::Bearer, CredentialLocation::Header { name: "x_api_key".into() }];
        for name in [
            "",
            "x_actor",
            "X-Actor",
            "x.actor",
            "x actor",
            "host",
            "connection",
            "te",
            "trailer",
            "upgrade",
            "keep-alive",
            "proxy-authorization",
            "transfer-encoding",
            "content-type",
            "authorization",
            "cookie",
            "x-forwarded-for",
            "x-envoy-original-path",
            "x-request-id",
            "x-api-key",
            ":path",
        ] {
            assert!(problem_with(name, &locations).is_some(), "{name}");
        }
        for name in ["x-actor", "remote-user", "x", "x-forwarded", "contents"] {
            assert_eq!(problem_with(name, &locations), None, "{name}");
        }
    }
}
