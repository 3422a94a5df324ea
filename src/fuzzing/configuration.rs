//! The reader of configurations, and of YAML that is another program's.

use std::path::Path;

use serde_json::Value;

use super::{Empty, authorizer, snapshot, try_config, wait_for};
use crate::answer::Answer;
use crate::attributes::{Attributes, ClientAddress, Encoding, Header, Headers, Http};
use crate::config::{Diagnostic, parse_foreign};
use crate::ext_authz::codec::response::ResponseEncoder;
use crate::policy::Allow;

/// The target.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    check_foreign(text);
    match try_config(text, &Empty) {
        Err(errors) => {
            assert!(errors.iter().count() > 0, "denied without a word");
            errors.iter().for_each(|diagnostic| check_diagnostic(diagnostic, text));
            assert!(!errors.to_string().is_empty());
        }
        Ok(config) => {
            config.warnings.iter().for_each(|diagnostic| check_diagnostic(diagnostic, text));
            // Without a token, a user and a key there is no actor, and nothing is open unless the text says so.
            let is_open = config.rules.policies.iter().any(|policy| {
                policy.allow().is_some_and(Allow::admits_anonymous) || policy.shadow_permit().is_some()
            });
            let snapshot = snapshot(&config);
            let encoder = ResponseEncoder::new(&snapshot);
            let authorizer = authorizer(snapshot);
            let headers = Headers::new(
                Encoding::Lines,
                vec![
                    Header { name: b"authorization", value: b"Bearer nobody-has-this-token" },
                    Header { name: b"cookie", value: b"a=1; b=2" },
                ],
            );
            for headers in [headers, Headers::new(Encoding::Lines, Vec::new())] {
                let http = Http {
                    method: b"GET",
                    host: b"example.com",
                    path: b"/a/b?c=d",
                    headers,
                    client: ClientAddress::UNKNOWN,
                };
                let request = Attributes { http: Some(http), policy: None, misspelled_policy: None };
                let decision = wait_for(authorizer.authorize(&request, None));
                let _ = encoder.encode(&Answer::new(&decision, request.http.as_ref()));
                assert!(decision.verdict.is_err() || is_open, "a request without a known credential passes");
            }
        }
    }
}

/// What is said of a place is about a place in the file.
fn check_diagnostic(diagnostic: &Diagnostic, text: &str) {
    assert!(!diagnostic.message.is_empty());
    if let Some(position) = diagnostic.position {
        let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
        assert!((1..=lines + 1).contains(&(position.line as usize)), "line {} of {lines}", position.line);
    }
    // A terminal takes control characters for orders.
    let said = diagnostic.to_string();
    assert!(!said.contains(|character: char| character.is_control() && character != '\n'), "{said:?}");
}

/// JSON is YAML, and means the same.
fn check_foreign(text: &str) {
    let Ok(value) = parse_foreign(text, Path::new("foreign.yaml")) else { return };
    if let Ok(json) = serde_json::from_str::<Value>(text) {
        assert!(is_same(&value, &json), "{value} and {json}");
    }
}

fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, one)| other.get(name).is_some_and(|other| is_same(one, other)))
        }
        (one, other) => one == other,
    }
}
