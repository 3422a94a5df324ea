//! The section `tokens`: static tokens and their actors.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::plain;
use super::raw::{Node, Text, Value};
use super::reader::{Fields, Reader};
use super::schema;
use super::{Context, actors, is_label};
use crate::actor::Actor;
use crate::credential::{Kind, Principal};
use crate::token::{PlainToken, TokenDigest};

/// One entry of the section.  No two have the same digest.
#[derive(Debug, Clone)]
pub struct ConfiguredToken {
    /// The digest: no plain token is kept.
    pub digest: TokenDigest,
    /// The principal behind it.
    pub principal: Arc<Principal>,
}

/// The digests so far, each with the index of its token; `None` for an entry that is not valid for another reason.
type Digests = HashMap<TokenDigest, Option<usize>>;

/// A shorter token can be guessed.
const MIN_CHARACTERS: usize = 16;

/// A token of fewer different characters can be guessed.
const MIN_DISTINCT_CHARACTERS: usize = 6;

/// A token that expires within this time is a warning.
const EXPIRY_WARNING: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Reads the section.
pub fn read<'t>(
    reader: &mut Reader<'t>,
    section: Option<&'t Node>,
    context: &Context<'_>,
) -> Vec<ConfiguredToken> {
    let mut tokens = Vec::new();
    let what = "a list of tokens such as [{token: {$env: BOT_TOKEN}, actor: {id: my-bot}}]";
    let Some(list) = section.and_then(|node| reader.list(node, what)) else {
        return tokens;
    };
    tokens.reserve_exact(list.len());
    let mut names = HashSet::with_capacity(list.len());
    let mut digests = Digests::with_capacity(list.len());
    for (index, node) in list.iter().enumerate() {
        let what = "a token such as {token: {$env: BOT_TOKEN}, actor: {id: my-bot}}";
        let Some(fields) = reader.fields(node, what, &schema::TOKEN) else {
            continue;
        };
        let name = read_name(reader, fields, index + 1, &mut names);
        // Both are read before an error returns, so that every problem is reported.
        let digest = read_digest(reader, fields);
        if let Some((_, digest)) = digest {
            digests.entry(digest).or_default();
        }
        let principal = read_known(reader, fields, name, context);
        if let (Some((node, digest)), Some(principal)) = (digest, principal) {
            add(
                reader,
                &mut tokens,
                &mut digests,
                node,
                ConfiguredToken { digest, principal: Arc::new(principal) },
            );
        }
    }
    reject_tokens_as_names(reader, list, &digests);
    tokens
}

/// Rejects a name that is a token of any entry: names are in logs and metrics.
fn reject_tokens_as_names<'t>(reader: &mut Reader<'t>, list: &'t [Node], tokens: &Digests) {
    for entry in list {
        let Value::Map(members) = &entry.value else {
            continue;
        };
        for member in members.iter().filter(|member| &*member.key == "name") {
            let Value::Text(text) = &member.value.value else {
                continue;
            };
            let is_token = PlainToken::new(text.as_str().as_bytes())
                .is_ok_and(|token| tokens.contains_key(&token.digest()));
            if is_token {
                let message = "the name of a token appears in logs and metrics: it cannot be a token itself";
                reader.error(&member.value.at, message);
            }
        }
    }
}

fn read_name<'t>(
    reader: &mut Reader<'t>,
    fields: Fields<'t>,
    number: usize,
    names: &mut HashSet<Arc<str>>,
) -> Arc<str> {
    let written = fields
        .get("name")
        .and_then(|node| Some((node, reader.text(node, "text: a name for logs and metrics")?)));
    let name: Arc<str> = match written {
        Some((node, text)) => {
            if !is_label(text.as_str()) {
                reader.error(&node.at, "a name has 1 to 190 printable characters without blanks at the ends");
            }
            text.as_str().into()
        }
        None => format!("token-{number}").into(),
    };
    if !names.insert(Arc::clone(&name)) {
        match written {
            Some((node, _)) => reader.error(&node.at, "an earlier token has this name; names are unique"),
            None => reader.error(
                fields.at,
                format!(
                    "this token has no `name`, so its name is `{name}`, which an earlier token has: give it a \
                     `name`"
                ),
            ),
        }
    }
    name
}

fn read_digest<'t>(reader: &mut Reader<'t>, fields: Fields<'t>) -> Option<(&'t Node, TokenDigest)> {
    match (fields.get("token"), fields.get("sha256")) {
        (Some(node), None) => Some((node, read_plain(reader, node)?)),
        (None, Some(node)) => {
            let text = reader.text(node, "text: the SHA-256 of a token, 64 hexadecimal digits")?;
            let digest = TokenDigest::from_hex(text.as_str());
            if digest.is_none() {
                let message = "expected the SHA-256 of a token: 64 hexadecimal digits";
                reader.error(
                    &node.at,
                    format!("{message}, found {} characters", text.as_str().chars().count()),
                );
            }
            Some((node, digest?))
        }
        (None, None) => {
            reader.error(
                fields.at,
                "a token needs a `token` (best by {$env: NAME} or {$file: PATH}) or its `sha256`",
            );
            None
        }
        (Some(_), Some(_)) => {
            reader.error(fields.at, "a token has a `token` or its `sha256`, not both");
            None
        }
    }
}

fn read_plain<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<TokenDigest> {
    let text: &Text = reader.text(node, "text: a token, best by {$env: NAME} or {$file: PATH}")?;
    if plain::rejects_reference(reader, node, text) {
        return None;
    }
    plain::warn_of_placeholder(reader, node, text, &[]);
    let token = match PlainToken::new(text.as_str().as_bytes()) {
        Ok(token) => token,
        Err(error) => {
            let line_ending =
                if text.as_str().ends_with(['\n', '\r']) { "; it ends with a line ending" } else { "" };
            reader.error(&node.at, format!("{error}{line_ending}"));
            return None;
        }
    };
    warn_of_weakness(reader, node, text.as_str());
    Some(token.digest())
}

fn warn_of_weakness<'t>(reader: &mut Reader<'t>, node: &'t Node, token: &str) {
    if token.len() < MIN_CHARACTERS {
        reader.warn(
            &node.at,
            format!("a token of fewer than {MIN_CHARACTERS} characters can be guessed; `envoy-auth-tokens token new` makes a better one"),
        );
    } else if is_monotonous(token) {
        reader.warn(
            &node.at,
            format!("a token of fewer than {MIN_DISTINCT_CHARACTERS} different characters can be guessed; `envoy-auth-tokens token new` makes a better one"),
        );
    }
}

fn is_monotonous(token: &str) -> bool {
    // One bit for each character of ASCII.
    let seen = token.bytes().fold(0_u128, |seen, byte| seen | 1 << (byte & 0x7f));
    (seen.count_ones() as usize) < MIN_DISTINCT_CHARACTERS
}

fn read_known<'t>(
    reader: &mut Reader<'t>,
    fields: Fields<'t>,
    name: Arc<str>,
    context: &Context<'_>,
) -> Option<Principal> {
    let expires_at = fields.get("expires").and_then(|node| read_expiry(reader, node));
    let policies = actors::read_restriction(reader, fields.get("policies"), context);
    let Some(node) = fields.get("actor") else {
        reader.error(fields.at, "a token needs an `actor`, such as {id: my-bot}");
        return None;
    };
    let actor: Actor = actors::read(reader, node, context)?;
    let mut principal = Principal::new(Kind::Token, name, actor);
    principal.policies = policies;
    principal.expires_at = expires_at;
    Some(principal)
}

fn read_expiry<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Timestamp> {
    let what = "text: a time such as 2027-06-30T00:00:00Z (RFC 3339)";
    let text = reader.text(node, what)?;
    let Some(expiry) = parse_time(text.as_str()) else {
        reader.error(&node.at, "expected a time such as 2027-06-30T00:00:00Z (RFC 3339), found other text");
        return None;
    };
    if expiry <= reader.now {
        reader.warn(&node.at, "this token has expired: every request with it is denied");
    } else if expiry.duration_since(reader.now) <= EXPIRY_WARNING {
        reader.warn(&node.at, "this token expires within 30 days");
    }
    Some(expiry)
}

/// Parses RFC 3339 section 5.6 strictly: a date, `T`, a time with seconds, `Z` or an offset.
fn parse_time(text: &str) -> Option<Timestamp> {
    let shape: String = text
        .chars()
        .map(|character| if character.is_ascii_digit() { '0' } else { character.to_ascii_uppercase() })
        .collect();
    let rest = shape.strip_prefix("0000-00-00T00:00:00")?;
    let zone = match rest.strip_prefix('.') {
        Some(fraction) if fraction.starts_with('0') => fraction.trim_start_matches('0'),
        Some(_) => return None,
        None => rest,
    };
    if !matches!(zone, "Z" | "+00:00" | "-00:00") {
        return None;
    }
    text.parse().ok()
}

fn add<'t>(
    reader: &mut Reader<'t>,
    tokens: &mut Vec<ConfiguredToken>,
    digests: &mut Digests,
    node: &'t Node,
    token: ConfiguredToken,
) {
    let index = digests.entry(token.digest).or_default();
    match index.and_then(|index| tokens.get(index)) {
        None => {
            *index = Some(tokens.len());
            tokens.push(token);
        }
        Some(earlier) => {
            let earlier = reader.quote_name(&earlier.principal.name);
            reader.error(
                &node.at,
                format!(
                    "an earlier entry with the name {earlier} has the same token; a token can have one entry \
                     only"
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_rfc_3339_and_no_others() {
        for text in [
            "2027-06-30T00:00:00Z",
            "2027-06-30t00:00:00z",
            "2027-06-30T00:00:00.123Z",
            "2027-06-30T00:00:00+02:00",
        ] {
            assert!(parse_time(text).is_some(), "{text}");
        }
        for text in [
            "2027-06-30",
            "2027-06-30T00:00:00",
            "2027-06-30T00:00Z",
            "2027-06-30 00:00:00Z",
            "2027-13-30T00:00:00Z",
            "2027-06-30T00:00:00.Z",
            "2027-06-30T00:00:00Z[UTC]",
            "20270630T000000Z",
            "tomorrow",
            "",
        ] {
            assert!(parse_time(text).is_none(), "{text}");
        }
    }

    #[test]
    fn tokens_of_low_variety() {
        assert!(is_monotonous("aaaaaaaaaaaaaaaa"));
        assert!(is_monotonous("abcdeabcdeabcdeabcde"));
        assert!(!is_monotonous("abcdefabcdef"));
    }
}
