//! The changes of an answer: copied, because Envoy's memory of the request is only valid until the first change.

use envoy_auth_tokens::answer::{
    ActorAnswer, AllowAnswer, Answer, Denial, DenyAnswer, MetadataValue, Shadow,
};
use envoy_auth_tokens::attributes::Http;
use envoy_auth_tokens::decision::Decision;

use crate::abi;
use crate::metadata;
use crate::query::without_parameters;

/// The verdict about a request.
pub enum Changes {
    /// It passes, with these changes.
    Allow(AllowChanges),
    /// It is denied.
    Deny(Box<DenyChanges>),
}

/// The changes to a request that passes, in this order.
pub struct AllowChanges {
    /// Headers that replace those of their names.
    pub set: Headers,
    /// Headers that are removed.
    pub remove: Vec<String>,
    /// The new path.
    pub path: Option<Vec<u8>>,
    /// Headers that replace those of their names in the response.
    pub response: Vec<(&'static str, String)>,
    /// What is said of it.
    pub metadata: Metadata,
}

/// The response of a denial.
pub struct DenyChanges {
    /// The answer.
    pub denial: Denial,
    /// Whether Envoy treats the client as a gRPC client, so that the status is only in the gRPC trailers.
    pub is_grpc: bool,
    /// Whether the answer has no body, and a gRPC client no message.
    pub is_head: bool,
    /// What is said of it.
    pub metadata: Metadata,
}

/// Dynamic metadata, in the form that this Envoy accepts.
pub enum Metadata {
    /// An encoded `google.protobuf.Struct`.
    Struct(Vec<u8>),
    /// Flat members.
    Flat(Vec<(String, String)>),
}

impl Changes {
    /// The changes of the answer to this request.
    pub fn new(decision: &Decision, http: Option<&Http<'_>>) -> Self {
        match Answer::new(decision, http) {
            Answer::Allow(allow) => Self::Allow(AllowChanges::new(&allow, http)),
            Answer::Deny(deny) => Self::Deny(Box::new(DenyChanges::new(&deny, http, decision))),
        }
    }
}

impl AllowChanges {
    fn new(allow: &AllowAnswer<'_>, http: Option<&Http<'_>>) -> Self {
        // The part that depends only on the actor is encoded once for each principal.
        let encode = || ActorPart::encode(&allow.actor);
        let anonymous;
        let part = ActorPart(match allow.actor.cache() {
            Some(cache) => cache.encoded(encode),
            None => {
                anonymous = encode();
                &anonymous
            }
        });
        let (mut set, removed, actor_metadata) = part.split();
        // A header that the request does not have need not be removed.
        let is_there = |name: &str| http.is_some_and(|http| http.headers.has(name));
        let mut remove: Vec<_> = removed.filter(|name| is_there(name)).map(str::to_owned).collect();
        remove.extend(allow.request.remove_headers().map(str::to_owned));
        for (name, value) in allow.request.set_headers() {
            set.push(name, value);
        }
        let names: Vec<_> = allow.remove_query_parameters().map(str::as_bytes).collect();
        let path = match http {
            Some(http) if !names.is_empty() => Some(without_parameters(http.path, &names)),
            Some(_) | None => None,
        };
        let metadata = if abi::takes_metadata_structs() {
            let mut message = actor_metadata.to_vec();
            metadata::put_fields(&mut message, allow.shadow.map(Shadow::metadata));
            let policy = allow.policy.map(|policy| ("policy", metadata_text(policy)));
            metadata::put_fields(&mut message, policy);
            Metadata::Struct(message)
        } else {
            let fields = allow.actor.metadata().into_iter().flatten();
            let fields = fields.chain(allow.shadow.map(Shadow::metadata));
            Metadata::Flat(metadata::flat(
                fields.chain(allow.policy.map(|policy| ("policy", metadata_text(policy)))),
            ))
        };
        Self { set, remove, path, response: allow.response_headers().collect(), metadata }
    }
}

impl DenyChanges {
    fn new(deny: &DenyAnswer<'_>, http: Option<&Http<'_>>, decision: &Decision) -> Self {
        let denial = match deny.redirect {
            Some(location) => Denial::redirect(deny.reason, location),
            None => Denial::new(deny.reason, deny.form, &decision.snapshot),
        };
        let fields = [("reason", metadata_text(deny.reason.as_str()))];
        let fields = fields.into_iter().chain(deny.policy.map(|policy| ("policy", metadata_text(policy))));
        let metadata = if abi::takes_metadata_structs() {
            let mut message = Vec::new();
            metadata::put_fields(&mut message, fields);
            Metadata::Struct(message)
        } else {
            Metadata::Flat(metadata::flat(fields))
        };
        let is_head = http.is_some_and(|http| http.method == b"HEAD");
        Self { denial, is_grpc: http.is_some_and(is_grpc_to_envoy), is_head, metadata }
    }
}

/// Whether Envoy's own answers to this request are gRPC's (`Grpc::Common::hasGrpcContentType`).  It is stricter than
/// [`Http::is_grpc`], by which the denial is written.
fn is_grpc_to_envoy(http: &Http<'_>) -> bool {
    let rest = http.headers.first("content-type").and_then(|value| value.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

fn metadata_text(text: &str) -> MetadataValue<'_> {
    MetadataValue::Text(text)
}

/// Names and values of headers in one buffer, each after its length.
#[derive(Default)]
pub struct Headers(Vec<u8>);

impl Headers {
    fn push(&mut self, name: &str, value: &str) {
        put_text(&mut self.0, name);
        put_text(&mut self.0, value);
    }

    /// The headers, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut texts = Texts(&self.0);
        std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }
}

/// The part of an answer that depends only on the actor: the lengths of three parts, and the parts.
struct ActorPart<'e>(&'e [u8]);

impl<'e> ActorPart<'e> {
    fn encode(actor: &ActorAnswer<'_>) -> Box<[u8]> {
        let (mut set, mut remove, mut message) = (Headers::default(), Vec::new(), Vec::new());
        for (name, value) in actor.headers() {
            match value {
                Some(value) => set.push(name, &value),
                None => put_text(&mut remove, name),
            }
        }
        metadata::put_fields(&mut message, actor.metadata().into_iter().flatten());
        let lengths = [set.0.len(), remove.len()].map(usize::to_le_bytes).concat();
        [lengths, set.0, remove, message].concat().into()
    }

    /// Headers to set, names of headers to remove, and the encoded metadata.
    fn split(&self) -> (Headers, Texts<'e>, &'e [u8]) {
        let (set, rest) = split_length(self.0);
        let (remove, rest) = split_length(rest);
        let (set, rest) = rest.split_at(set);
        let (remove, message) = rest.split_at(remove);
        (Headers(set.to_vec()), Texts(remove), message)
    }
}

fn put_text(buffer: &mut Vec<u8>, text: &str) {
    buffer.extend(text.len().to_le_bytes());
    buffer.extend_from_slice(text.as_bytes());
}

fn split_length(bytes: &[u8]) -> (usize, &[u8]) {
    let (length, rest) = bytes.split_first_chunk().expect("a length stands in front of each part");
    (usize::from_le_bytes(*length), rest)
}

/// Texts, each after its length.
struct Texts<'e>(&'e [u8]);

impl<'e> Iterator for Texts<'e> {
    type Item = &'e str;

    fn next(&mut self) -> Option<&'e str> {
        if self.0.is_empty() {
            return None;
        }
        let (length, rest) = split_length(self.0);
        let (text, rest) = rest.split_at(length);
        self.0 = rest;
        Some(std::str::from_utf8(text).expect("it was text when it was put in"))
    }
}
