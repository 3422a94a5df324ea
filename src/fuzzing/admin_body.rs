//! JSON bodies of the admin API, against how Go reads them, which Grafana is written in; and the answers to Checks
//! of a key that such a body describes.

use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value};

use super::check_request::check_header;
use super::read_config;
use crate::actor::{Actor, nests_too_deep};
use crate::admin::body::Members;
use crate::admin::read_bodies;
use crate::answer::Answer;
use crate::attributes::{ClientAddress, Encoding, Headers, Http};
use crate::credential::{Kind, Principal};
use crate::decision::{Decision, DecisionContext, Outcome};
use crate::deny_reason::DenyReason;
use crate::ext_authz::codec::frame;
use crate::ext_authz::codec::response::{self, ResponseEncoder};
use crate::ext_authz::wire::check_response::HttpResponse;
use crate::keys::name::{folded, is_name, is_same};
use crate::policy::Policy;
use crate::snapshot::Snapshot;

/// Headers of all that a key's actor holds, and of what it may hold.
const CONFIG: &str = r#"
tokens: [{token: good-token-alice-1, actor: {id: alice}}]
actor_headers: {x-actor: "*", x-actor-id: id, x-actor-name: name, x-actor-teams: teams, x-actor-deep: a.b}
"#;

static RULES: LazyLock<Arc<Snapshot>> = LazyLock::new(|| Arc::new(read_config(CONFIG)));
static ENCODER: LazyLock<ResponseEncoder> = LazyLock::new(|| ResponseEncoder::new(&RULES));

/// What the calls of the API read.
const BODIES: [&[&str]; 7] = [
    &["name", "role", "secondsToLive", "actor", "policies", "description", "account", "owner"],
    &["name", "description", "role", "policies", "actor", "secondsToLive", "disabled"],
    &["createdBy", "createdSince", "account", "owner", "unusedForSeconds", "namePattern", "dryRun"],
    &[
        "name",
        "sha256",
        "role",
        "description",
        "account",
        "owner",
        "ownerSource",
        "expiration",
        "actor",
        "policies",
        "disabled",
        "created",
        "createdBy",
    ],
    &["sha256"],
    &["overlapSeconds"],
    &["user", "password"],
];

/// The target.
pub fn run(data: &[u8]) {
    read_bodies(data);
    for principal in BODIES {
        let Ok(members) = Members::read(data, principal) else { continue };
        let written: Map<String, Value> = serde_json::from_slice(data).expect("what was read is JSON");
        let as_go: Map<String, Value> = principal
            .iter()
            .filter_map(|field| {
                let mut named = written.iter().filter(|(name, _)| is_same_to_go(name, field));
                Some(((*field).to_owned(), named.next_back()?.1.clone()))
            })
            .collect();
        assert_eq!(sorted(&members), sorted(&as_go));
        // What is understood is understood again.
        let again = serde_json::to_vec(&members).expect("JSON can be written");
        let again = Members::read(&again, principal).expect("what was understood");
        // The last bit of a number that is none of 64 bits may change.
        for (name, value) in members.iter().filter(|(_, value)| value.is_i64() || value.is_string()) {
            assert_eq!(again.get(name), Some(value), "{name}");
        }
        assert_eq!(again.len(), members.len());
        if let Some(Value::String(name)) = members.get("name")
            && is_name(name)
        {
            assert!(is_same(&folded(name), name), "{name:?} is not its own name");
            assert!(!name.contains(char::is_control) && name.trim() == name, "{name:?}");
        }
        if let Some(Value::Object(actor)) = members.get("actor") {
            check_actor(members.get("name").and_then(Value::as_str).unwrap_or("ci"), actor);
        }
    }
}

/// Whatever a key's actor holds, its Checks are answered, and protobuf reads the answers.
fn check_actor(name: &str, members: &Map<String, Value>) {
    let principal =
        Arc::new(Principal::new(Kind::Key, name.into(), Actor::of_key(name, "Viewer", 1, members)));
    let policy = Policy::new("default".into(), None);
    let headers = Headers::new(Encoding::Lines, Vec::new());
    let http =
        Http { method: b"GET", host: b"example.com", path: b"/", headers, client: ClientAddress::UNKNOWN };
    for shadowed in [None, Some(DenyReason::NotAdmitted)] {
        let context = DecisionContext {
            principal: Some(Arc::clone(&principal)),
            shadowed,
            ..DecisionContext::default()
        };
        let verdict = policy.admit(Some(Arc::clone(&principal))).map_err(DenyReason::from);
        let decision = Decision::new(Arc::clone(&RULES), verdict, context);
        let framed = ENCODER.encode(&Answer::new(&decision, Some(&http)));
        // Deeper than 100 levels the generated reader does not go.
        let answer = response::decode(frame::message(&framed)).expect("a CheckResponse");
        match answer.http_response {
            Some(HttpResponse::OkResponse(ok)) => {
                assert!(!nests_too_deep(members), "an actor that nests too deep passes");
                ok.headers.iter().for_each(check_header);
                assert_eq!(ok.headers.len() + ok.headers_to_remove.len(), 5);
            }
            Some(HttpResponse::DeniedResponse(_)) => {
                assert_eq!(decision.outcome(), Outcome::Denied(DenyReason::AnswerTooLarge));
            }
            Some(HttpResponse::ErrorResponse(_)) | None => panic!("an actor makes an error"),
        }
    }
}

fn sorted(members: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by_key(|(name, _)| *name);
    members
}

/// `encoding/json` takes names for the same that are alike under Unicode's simple folding.
fn is_same_to_go(name: &str, field: &str) -> bool {
    let fold = |character: char| match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(field.chars().map(fold))
}
