//! The pages of docs/ that are made of what the program itself says: all keys, all commands, all reasons.
//!
//! `UPDATE_FIXTURES=1 cargo test --test it -- reference::` writes them anew.

use std::fmt::Write;
use std::process::Command;

use serde_json::Value;

use crate::harness::server::{BINARY, run};
use crate::harness::tools;

/// What stands below this line of a page is made here.
const MARK: &str =
    "<!-- Made by tests/it/reference.rs: UPDATE_FIXTURES=1 cargo test --test it -- reference:: -->";

fn printed(arguments: &[&str]) -> String {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_remove("COLUMNS").env_remove("ENVOY_AUTH_TOKENS_CONFIG");
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    ran.stdout
}

/// Holds the part of a page below the mark against what it should be, or writes it.
#[track_caller]
fn hold(page: &str, expected: &str) {
    let path = tools::root().join(page);
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, found) = text.split_once(MARK).unwrap_or_else(|| panic!("{page} has no line {MARK}"));
    let expected = format!("\n\n{}\n", expected.trim());
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, format!("{head}{MARK}{expected}")).unwrap();
    } else {
        assert!(found == expected, "{page} is not what the program says: write it anew, as {MARK}");
    }
}

/// A value as YAML writes it on one line.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| format!("{}: {}", scalar(name), flow(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// A text, in quotes where YAML would read it as something else, alone or inside of brackets.
fn scalar(text: &str) -> String {
    let safe = |char: char| char.is_alphanumeric() || "-_./%=@+()$\\".contains(char);
    let inner = |char: char| safe(char) || char == ' ';
    let reads_as_text =
        text.parse::<f64>().is_err() && !["true", "false", "null", "off", "on"].contains(&text);
    // A colon is a mapping only before a blank or at the end.
    let colons = text.split(':').skip(1).all(|after| !after.is_empty() && !after.starts_with(' '));
    let plain = text.starts_with(|char: char| safe(char) && !"-%@".contains(char))
        && !text.ends_with(' ')
        && text.chars().all(|char| inner(char) || char == ':')
        && colons
        && reads_as_text;
    if plain { text.to_owned() } else { format!("{text:?}") }
}

/// The form of a value in words.
fn form(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
        return match name {
            "text" => "text",
            "actor" => "an object",
            "allow" => "an allow block",
            "scalar" => "text, number, boolean or null",
            "reference" => "a secret reference",
            other => panic!("no words for {other}"),
        }
        .to_owned();
    }
    if let Some(words) = schema["enum"].as_array() {
        return words
            .iter()
            .map(|word| format!("`{}`", word.as_str().unwrap()))
            .collect::<Vec<_>>()
            .join(", ");
    }
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    if let Some(forms) = schema["anyOf"].as_array() {
        // Any text can be a reference: the page says so once.
        let forms = forms.iter().filter(|one| one["$ref"] != "#/$defs/reference");
        return forms.map(form).collect::<Vec<_>>().join(", or ");
    }
    match schema["type"].as_str() {
        Some("boolean") => "`true`, `false`".to_owned(),
        Some("integer") => "whole number".to_owned(),
        Some("array") => match form(&schema["items"]) {
            items if items.starts_with("an object") || items.contains(", or an object") => {
                "a list".to_owned()
            }
            items => format!("a list of {items}"),
        },
        Some("object") => "an object".to_owned(),
        other => panic!("no words for {other:?} in {schema}"),
    }
}

/// The keys of a mapping, and those below them.
fn write_keys(schema: &Value, path: &str, page: &mut String) {
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().collect();
    let either: Vec<_> =
        schema["oneOf"].as_array().into_iter().flatten().map(|one| &one["required"][0]).collect();
    for (name, value) in schema["properties"].as_object().into_iter().flatten() {
        let whole = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let level = if path.is_empty() { "##" } else { "###" };
        let about = value["description"].as_str().unwrap();
        // The default has a line of its own.
        let about = about.split("  By default ").next().unwrap().replace("  ", " ");
        let described =
            value["description"].as_str().unwrap().split_once("  By default ").map(|(_, text)| text);
        writeln!(page, "{level} `{whole}`\n\n{about}\n").unwrap();
        writeln!(page, "- Type: {}", form(value)).unwrap();
        let must = if required.iter().any(|one| one.as_str() == Some(name)) {
            Some("required".to_owned())
        } else if either.iter().any(|one| one.as_str() == Some(name)) {
            let all: Vec<_> = either.iter().map(|one| format!("`{}`", one.as_str().unwrap())).collect();
            Some(format!("exactly one of {} is required", all.join(", ")))
        } else {
            None
        };
        let default = match (&value["default"], described, must) {
            (Value::Null, _, Some(must)) => format!("none; {must}"),
            (Value::Null, Some(text), None) => text.trim_end_matches('.').replace('<', "&lt;"),
            (Value::Null, None, None) => "absent".to_owned(),
            (default, _, _) => format!("`{}`", flow(default)),
        };
        writeln!(page, "- Default: {default}").unwrap();
        let change = match (value["x-needs-restart"].as_bool(), name.as_str()) {
            (Some(true), "tls") => "adding or removing it needs a restart; new files are reloaded",
            (Some(true), "store") => {
                "another database needs a restart; another user, password or option is reloaded"
            }
            (Some(true), _) => "needs a restart",
            (None, "admin" | "keys") if path.is_empty() => "adding or removing it needs a restart",
            _ => "reloaded",
        };
        writeln!(page, "- Change: {change}").unwrap();
        if let Some(example) = value["examples"].get(0) {
            writeln!(page, "- Example: `{name}: {}`", flow(example)).unwrap();
        }
        page.push('\n');
        write_keys(value, &whole, page);
        for (inner, suffix) in [("items", "[]"), ("additionalProperties", ".*")] {
            let forms = value[inner]["anyOf"].as_array().into_iter().flatten().chain([&value[inner]]);
            for inner in forms.filter(|inner| inner["properties"].is_object()) {
                write_keys(inner, &format!("{whole}{suffix}"), page);
            }
        }
    }
}

#[test]
fn the_page_of_all_keys_is_what_the_schema_says() {
    let schema: Value = serde_json::from_str(&printed(&["schema"])).unwrap();
    let mut page = String::new();
    write_keys(&schema["else"], "", &mut page);
    let plugins = &schema["then"]["properties"]["plugins"];
    writeln!(page, "## `plugins`\n\n{}", plugins["description"].as_str().unwrap().replace("  ", " "))
        .unwrap();
    writeln!(page, "\n- Type: an object with `datasette-auth-tokens`: {}", {
        let inner = &plugins["properties"]["datasette-auth-tokens"];
        inner["description"].as_str().unwrap()
    })
    .unwrap();
    hold("docs/configuration-reference.md", &page);
}

/// The words of a help text that begin a line below this heading.
fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let words = lines.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    let words = words.map(|line| line.split_whitespace().next().unwrap().to_owned());
    words.filter(|word| word != "help").collect()
}

#[test]
fn the_page_of_all_commands_is_what_their_help_says() {
    let mut page = String::new();
    for command in listed(&printed(&["--help"])) {
        let inner = listed(&printed(&[&command, "--help"]));
        let names: Vec<Vec<&str>> = match inner.is_empty() {
            true => vec![vec![&command]],
            false => inner.iter().map(|inner| vec![command.as_str(), inner]).collect(),
        };
        for name in names {
            let help = printed(&[&name[..], &["--help"]].concat());
            let help: Vec<_> = help.lines().map(str::trim_end).collect();
            writeln!(page, "## `{}`\n\n```text\n{}\n```\n", name.join(" "), help.join("\n").trim()).unwrap();
        }
    }
    hold("docs/cli.md", &page);
}

/// Every reason of a denial, in the order of the table.
pub fn reasons() -> Vec<String> {
    let mut command = Command::new(BINARY);
    command.args(["explain", "--reason", "no such reason"]);
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(2), "{ran:?}");
    let (_, listed) = ran.stderr.split_once("[possible values: ").unwrap_or_else(|| panic!("{ran:?}"));
    let (listed, _) = listed.split_once(']').unwrap();
    listed.split(',').map(|reason| reason.trim().to_owned()).collect()
}

#[test]
fn the_table_of_reasons_is_what_explain_says() {
    let reasons = reasons();
    assert!(reasons.len() > 35, "{reasons:?}");
    let mut page = String::from(
        "| reason | status | meaning | who acts | what to do |\n| --- | --- | --- | --- | --- |\n",
    );
    for reason in &reasons {
        let explained: Value =
            serde_json::from_str(&printed(&["explain", "--reason", reason, "--json"])).unwrap();
        let text = |member: &str| explained[member].as_str().unwrap().replace('|', "\\|");
        writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            text("reason"),
            explained["status"],
            text("meaning"),
            text("actor"),
            text("remedy")
        )
        .unwrap();
        // For people the same stands on lines.
        let shown = printed(&["explain", "--reason", reason]);
        for member in ["reason", "error", "message", "meaning", "actor", "remedy"] {
            assert!(shown.contains(explained[member].as_str().unwrap()), "{member} in {shown}");
        }
    }
    hold("docs/troubleshooting.md", &page);
}

#[test]
fn every_example_of_the_page_of_all_keys_is_yaml_of_that_value() {
    let schema: Value = serde_json::from_str(&printed(&["schema"])).unwrap();
    let mut found = 0;
    let mut to_visit = vec![&schema["else"]];
    while let Some(value) = to_visit.pop() {
        for example in value["examples"].as_array().into_iter().flatten().chain(value.get("default")) {
            let text = flow(example);
            let read: Value = serde_saphyr::from_str(&format!("a: {text}")).unwrap();
            let nested: Value = serde_saphyr::from_str(&format!("{{a: {text}}}")).unwrap();
            assert_eq!((&read["a"], &nested["a"]), (example, example), "{text}");
            found += 1;
        }
        match value {
            Value::Object(members) => {
                let inner =
                    members.iter().filter(|(name, _)| !["examples", "default"].contains(&name.as_str()));
                to_visit.extend(inner.map(|(_, value)| value));
                // A key that is called `default`.
                to_visit.extend(value["properties"].get("default"));
            }
            Value::Array(items) => to_visit.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    assert!(found > 120, "{found}");
}
