//! YAML scalars.

/// A text as YAML in quotes.  JSON is YAML, and its escapes fit every text.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
