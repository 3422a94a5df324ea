//! JSON bodies of the admin API, against how Go reads them, which Grafana is written in.

use serde_json::{Map, Value};

use crate::admin::body::JsonBody;

/// What the calls of the API read.
const BODIES: [&[&str]; 3] =
    [&["name", "role", "secondsToLive", "actor", "policies"], &["overlapSeconds"], &["user", "password"]];

/// The target.
pub fn run(data: &[u8]) {
    for known in BODIES {
        let Ok(members) = JsonBody::members(data, known) else { continue };
        let written: Map<String, Value> = serde_json::from_slice(data).expect("what was read is JSON");
        let as_go: Map<String, Value> = known
            .iter()
            .filter_map(|field| {
                let mut named = written.iter().filter(|(name, _)| is_same_to_go(name, field));
                Some(((*field).to_owned(), named.next_back()?.1.clone()))
            })
            .collect();
        assert_eq!(sorted(&members), sorted(&as_go));
        // What is understood is understood again.
        let again = serde_json::to_vec(&members).expect("JSON can be written");
        let again = JsonBody::members(&again, known).expect("what was understood");
        // The last bit of a number that is none of 64 bits may change.
        for (name, value) in members.iter().filter(|(_, value)| value.is_i64() || value.is_string()) {
            assert_eq!(again.get(name), Some(value), "{name}");
        }
        assert_eq!(again.len(), members.len());
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
