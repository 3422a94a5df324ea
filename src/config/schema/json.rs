//! The table of keys as a JSON Schema (draft 2020-12), so that editors complete and check a configuration.
//!
//! It describes the form of each value.  What depends on several values (equal tokens, a policy that does not exist) is
//! left to `check`.

use serde_json::{Map, Value, json};

use super::reference::reference as reference_of;
use super::{DATASETTE_PLUGIN, KeySchema, REFERENCE, SCHEMA, SECTIONS_BESIDE_PLUGINS, Schema};
use crate::credential::CredentialLocation;

/// The form of a key's value.
pub enum Form {
    /// The form that its [`Schema`] gives: a mapping with keys of its own, a list of such, or names with values.
    Nested,
    /// A text, or a secret reference.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer,
    /// A number of bytes, or a text such as 16MiB.
    Size,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A duration such as 5m, or 0.
    Duration,
    /// A text, or a list of at least one.
    OneOrMore,
    /// A list of texts.
    Texts,
    /// A text, a number, true or false, or a list of these.
    Scalars,
    /// A list of these words.
    Words(&'static [&'static str]),
    /// An actor: a mapping with any members.
    Actor,
    /// An allow block.
    AllowBlock,
    /// The key is required.
    Required(&'static Form),
    /// Exactly one key of this form is required in a mapping.
    Either(&'static Form),
}

/// The JSON Schema of a configuration.
pub fn json_schema() -> Value {
    let (plugins, sections): (Vec<&'static KeySchema>, Vec<&'static KeySchema>) =
        keys(&SCHEMA).iter().partition(|(name, ..)| *name == "plugins");
    let is_beside = |key: &&&KeySchema| SECTIONS_BESIDE_PLUGINS.contains(&key.0);
    let denied: Vec<_> = sections.iter().filter(|key| !is_beside(key)).map(|(name, ..)| *name).collect();
    let beside: Vec<_> = plugins.iter().chain(sections.iter().filter(is_beside)).copied().collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A configuration of envoy-auth-tokens",
        "type": "object",
        "if": {"required": ["plugins"]},
        "then": {
            "properties": properties(&beside, ""),
            // Everything else is Datasette's.
            "propertyNames": {"not": {"enum": denied}},
        },
        "else": mapping(&sections, ""),
        "$defs": {
            "reference": reference(),
            "text": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/reference"}]},
            "actor": {
                "type": "object",
                // A mapping with one of these keys is a reference, which is a text.
                "propertyNames": {"not": {"enum": ["$env", "$file"]}},
            },
            "scalar": {"anyOf": [{"type": ["string", "number", "boolean", "null"]}, {"$ref": "#/$defs/reference"}]},
            "allow": {
                "anyOf": [
                    {"type": "boolean"},
                    {
                        "type": "object",
                        "propertyNames": {"not": {"enum": ["$env", "$file"]}},
                        "additionalProperties": {
                            "anyOf": [
                                {"$ref": "#/$defs/scalar"},
                                {"type": "array", "items": {"$ref": "#/$defs/scalar"}},
                            ],
                        },
                    },
                ],
            },
        },
    })
}

fn keys(schema: &'static Schema) -> &'static [KeySchema] {
    match schema {
        Schema::Fields(keys) => keys,
        Schema::Secret
        | Schema::Unknown
        | Schema::Shown
        | Schema::Url
        | Schema::Named(_)
        | Schema::Each(_)
        | Schema::Locations(_)
        | Schema::DatasettePlugin => &[],
    }
}

fn mapping(keys: &[&'static KeySchema], path: &str) -> Value {
    let mut mapping = json!({
        "type": "object",
        "properties": properties(keys, path),
        "additionalProperties": false,
    });
    let required = keys.iter().filter(|(_, _, form, _)| matches!(form, Form::Required(_)));
    let required: Vec<_> = required.map(|(name, ..)| *name).collect();
    if !required.is_empty() {
        mapping["required"] = json!(required);
    }
    let either = keys.iter().filter(|(_, _, form, _)| matches!(form, Form::Either(_)));
    let either: Vec<_> = either.map(|(name, ..)| json!({"required": [name]})).collect();
    if !either.is_empty() {
        mapping["oneOf"] = json!(either);
    }
    mapping
}

/// The keys of the mapping at this path of the document.
fn properties(keys: &[&'static KeySchema], path: &str) -> Value {
    let described = keys.iter().map(|(name, schema, form, about)| {
        let path = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
        let mut value = value(schema, form, &path);
        value["description"] = json!(about);
        let reference = reference_of(&path);
        if let Some(default) = reference.default {
            value["default"] = default;
        }
        if let Some(example) = reference.example {
            value["examples"] = json!([example]);
        }
        if reference.needs_restart {
            // No keyword of JSON Schema, which ignores it: docs/configuration-reference.md is made of it.
            value["x-needs-restart"] = json!(true);
        }
        ((*name).to_owned(), value)
    });
    Value::Object(described.collect::<Map<_, _>>())
}

fn value(schema: &'static Schema, form: &Form, path: &str) -> Value {
    match form {
        Form::Nested => nested(schema, path),
        Form::Text => text(),
        Form::Bool => json!({"type": "boolean"}),
        Form::Integer => json!({"type": "integer"}),
        Form::Size => json!({"anyOf": [{"type": "integer"}, text()]}),
        Form::Duration => json!({"anyOf": [{"const": 0}, text()]}),
        Form::OneOrMore => {
            json!({"anyOf": [text(), {"type": "array", "minItems": 1, "items": text()}]})
        }
        Form::Word(words) => word(words),
        Form::Texts => json!({"type": "array", "items": text()}),
        Form::Scalars => {
            let scalar = json!({"$ref": "#/$defs/scalar"});
            json!({"anyOf": [scalar, {"type": "array", "items": scalar}]})
        }
        Form::Words(words) => json!({"type": "array", "items": word(words)}),
        Form::Actor => json!({"$ref": "#/$defs/actor"}),
        Form::AllowBlock => json!({"$ref": "#/$defs/allow"}),
        Form::Required(form) | Form::Either(form) => value(schema, form, path),
    }
}

fn nested(schema: &'static Schema, path: &str) -> Value {
    match schema {
        Schema::Fields(keys) => mapping(&keys.iter().collect::<Vec<_>>(), path),
        Schema::Named(schema) => {
            json!({"type": "object", "additionalProperties": nested(schema, &format!("{path}.*"))})
        }
        Schema::Each(schema) => json!({"type": "array", "items": nested(schema, &format!("{path}[]"))}),
        Schema::Locations(schema) => {
            let words = word(&CredentialLocation::UNNAMED);
            json!({"type": "array", "minItems": 1, "items": {"anyOf": [words, nested(schema, &format!("{path}[]"))]}})
        }
        Schema::DatasettePlugin => {
            // Its tokens are as ours.
            let list = nested(&super::DATASETTE_TOKENS, "tokens");
            json!({"anyOf": [list, nested(&DATASETTE_PLUGIN, path)]})
        }
        Schema::Secret | Schema::Unknown | Schema::Shown | Schema::Url => text(),
    }
}

fn text() -> Value {
    json!({"$ref": "#/$defs/text"})
}

fn word(words: &[&str]) -> Value {
    json!({"anyOf": [{"enum": words}, {"$ref": "#/$defs/reference"}]})
}

/// `{$env: NAME}` or `{$file: PATH}`, whose name and path are written out.
fn reference() -> Value {
    let one = |(name, _, _, about): &KeySchema| {
        let property = json!({"type": "string", "minLength": 1, "description": about});
        let properties: Map<String, Value> = std::iter::once(((*name).to_owned(), property)).collect();
        json!({"type": "object", "properties": properties, "required": [name], "additionalProperties": false})
    };
    let both: Vec<_> = keys(&REFERENCE).iter().map(one).collect();
    json!({"anyOf": both})
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::{Errors, Source, fixtures, raw};
    use super::*;

    fn validator() -> jsonschema::Validator {
        let schema = json_schema();
        jsonschema::meta::validate(&schema).unwrap_or_else(|error| panic!("{error}"));
        jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The violations of the schema in a configuration; `None` where the text is not YAML.
    fn violations(validator: &jsonschema::Validator, text: &str) -> Option<Vec<String>> {
        let document = raw::from_yaml(text).ok()?.to_json();
        Some(validator.iter_errors(&document).map(|error| error.to_string()).collect())
    }

    #[test]
    fn every_good_configuration_is_valid() {
        let validator = validator();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/config.yaml");
        let example = (example.clone(), std::fs::read_to_string(example).unwrap());
        for (path, text) in fixtures::fixtures("good").into_iter().chain([example]) {
            let violations = violations(&validator, &text).unwrap();
            assert!(violations.is_empty(), "{}\n{}", path.display(), violations.join("\n"));
        }
    }

    #[test]
    fn what_is_structurally_wrong_is_invalid() {
        let validator = validator();
        let wrong_in_form = [
            "a_text",
            "admin_forms",
            "credentials",
            "credentials_empty",
            "datasette_form",
            "keys_as_text",
            "keys_forms",
            "keys_without_store",
            "listeners_forms",
            "many_at_once",
            "not_a_mapping",
            "oauth_empty",
            "oauth_forms",
            "oauth_incomplete",
            "references",
            "sections_without_content",
            "session_as_text",
            "session_forms",
            "switches",
            "token_forms",
            "unknown_sections",
            "users",
        ];
        let mut found = Vec::new();
        for (path, text) in fixtures::fixtures("bad") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if violations(&validator, &text).is_some_and(|violations| !violations.is_empty()) {
                found.push(name);
            }
        }
        let missing: Vec<_> =
            wrong_in_form.iter().filter(|name| !found.iter().any(|found| found == *name)).collect();
        assert!(missing.is_empty(), "{missing:?} are valid; {found:?} are not");
    }

    #[test]
    fn forms_that_the_reader_rejects_are_rejected() {
        let validator = validator();
        for text in [
            "tokens: [{token: a, sha256: b, actor: {}}]",
            "tokens: [{actor: {}}]",
            "tokens: [{token: a}]",
            "tokens: [{token: 5, actor: {}}]",
            "tokens: [{token: {$env: A, x: b}, actor: {}}]",
            "tokens: [{token: a, actor: {$env: ACTOR}}]",
            "default: {allow: null}",
            "default: {allow: {role: {a: b}}}",
            "routes: [{path: /, policy: a, allow: true}]",
            "routes: [{path: /}]",
            "credentials: [{header: a, query: b}]",
            "credentials: [barer]",
            "forward_credentials: {$env: YES}",
            "keys: {}",
            "ldap: {url: [], search_base: a, search_filter: b, roles: []}",
            "ldap: {url: a, search_base: b, search_filter: c, roles: [{group: d, role: Owner}]}",
            "ldap: {url: a, search_base: b, search_filter: c}",
            "oauth: {name: a, issuer: b, client_id: c, roles: []}",
            "oauth: [{name: a, issuer: b, client_id: c}]",
            "oauth: [{name: a, issuer: b, client_id: c, roles: [{claim: d, value: {e: f}, role: Admin}]}]",
            "oauth: [{name: a, issuer: b, client_id: c, roles: [{claim: d, value: e, role: Owner}]}]",
            "session: [example.com]",
            "plugins: {other: {}}",
            "{plugins: {datasette-auth-tokens: []}, tokens: []}",
        ] {
            assert!(!violations(&validator, text).unwrap().is_empty(), "{text}");
        }
        for text in [
            "tokens: [{token: {$file: a}, actor: {id: {$env: ID}}}]",
            "{title: ours to ignore, plugins: {datasette-auth-tokens: {tokens: [], param: a}}}",
            "credentials: [bearer, {$env: PLACE}, {basic: {allow_cross_site: true}}]",
            "ext_authz: {max_request_bytes: 65536}",
            "oauth: [{name: a, issuer: b, client_id: c, roles: [{claim: d, value: [true, 5, e, {$env: F}], role: Admin}]}]",
        ] {
            assert_eq!(violations(&validator, text).unwrap(), [] as [String; 0], "{text}");
        }
    }

    /// The keys that the reader accepts at one place, from its message about an unknown key.
    fn accepted(document: &Value) -> Vec<String> {
        let source = Source {
            file: Path::new("config.yaml"),
            environment: &super::super::super::ProcessEnvironment,
            now: "2026-11-21T00:00:00Z".parse().unwrap(),
        };
        let errors: Errors = match super::super::super::Config::parse(&document.to_string(), &source) {
            Ok(_) => panic!("{document} is accepted"),
            Err(errors) => errors,
        };
        let listed = errors.iter().find_map(|diagnostic| diagnostic.message.split_once("; expected "));
        let (_, listed) = listed.unwrap_or_else(|| panic!("{document}: {errors}"));
        let mut keys: Vec<_> = listed.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        keys.sort_unstable();
        keys
    }

    /// No key resembles it, so the reader suggests none.
    const NO_KEY: &str = "zzzzzzzzzzzzzzzzzzzzzzzz";

    /// Compares the keys of each mapping below this place with those that the reader accepts there.
    fn compare(
        schema: &'static Schema,
        form: &'static Form,
        document: &dyn Fn(Value) -> Value,
        seen: &mut Vec<String>,
    ) {
        match (form, schema) {
            (Form::Required(form) | Form::Either(form), _) => compare(schema, form, document, seen),
            (Form::Nested, Schema::Fields(keys)) => {
                let mut names: Vec<_> = keys.iter().map(|(name, ..)| (*name).to_owned()).collect();
                names.retain(|name| name != "plugins");
                names.sort_unstable();
                let found = document(json!({NO_KEY: 1}));
                assert_eq!(accepted(&found), names, "{found}");
                seen.extend(names);
                for (name, schema, form, _) in keys.iter().filter(|(name, ..)| *name != "plugins") {
                    compare(schema, form, &|inner| document(json!({*name: inner})), seen);
                }
            }
            (Form::Nested, Schema::Named(schema)) => {
                compare(schema, &Form::Nested, &|inner| document(json!({"x": inner})), seen);
            }
            (Form::Nested, Schema::Each(schema) | Schema::Locations(schema)) => {
                compare(schema, &Form::Nested, &|inner| document(json!([inner])), seen);
            }
            (Form::Nested, Schema::DatasettePlugin) => {
                compare(&DATASETTE_PLUGIN, &Form::Nested, document, seen);
            }
            // These have no keys of their own.
            (_, _) => {}
        }
    }

    #[test]
    fn the_schema_and_the_reader_know_the_same_keys() {
        let mut seen = Vec::new();
        compare(&SCHEMA, &Form::Nested, &|inner| inner, &mut seen);
        let plugin = |inner: Value| json!({"plugins": {"datasette-auth-tokens": inner}});
        compare(&Schema::DatasettePlugin, &Form::Nested, &plugin, &mut seen);
        assert!(seen.len() > 60, "{}", seen.len());
    }
}
