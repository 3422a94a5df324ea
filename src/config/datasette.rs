//! A Datasette configuration: `{"plugins": {"datasette-auth-tokens": …}}`.
//!
//! Only the plugin's tokens are read.  Everything else is Datasette's and ignored, but for allow blocks: to ignore one
//! would give access to everyone.

use super::credentials::check_query;
use super::raw::{Entry, Node, Text, Value};
use super::reader::Reader;
use super::schema::{DATASETTE_PLUGIN, SECTIONS, SECTIONS_BESIDE_PLUGINS};

const PLUGIN: &str = "datasette-auth-tokens";

/// The configuration of the plugin.
pub struct PluginConfig<'t> {
    /// The list of tokens.
    pub tokens: Option<&'t Node>,
    /// `param`: the query parameter that may carry a token.
    pub query: Option<&'t Text>,
}

/// The plugin's configuration, if this is a Datasette configuration.
pub fn find(root: &Node) -> Option<&Node> {
    get(get(root, "plugins")?, PLUGIN)
}

fn get<'t>(node: &'t Node, key: &str) -> Option<&'t Node> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    entries.iter().find(|entry| &*entry.key == key).map(|entry| &entry.value)
}

/// Reads the plugin's configuration: the bare list of its version 0.1.1, or the later `{tokens: […], param: NAME}`.
pub fn read<'t>(reader: &mut Reader<'t>, root: &'t Node, plugin: &'t Node) -> Option<PluginConfig<'t>> {
    check_the_rest(reader, root, plugin);
    if matches!(plugin.value, Value::List(_)) {
        return Some(PluginConfig { tokens: Some(plugin), query: None });
    }
    let what = "a list of tokens, or a mapping such as {tokens: [], param: _auth_token}";
    let fields = reader.fields(plugin, what, &DATASETTE_PLUGIN)?;
    let query = fields.get("param").and_then(|node| {
        let text = reader.text(node, "text: the name of a query parameter")?;
        check_query(reader, node, text).then_some(text)
    });
    Some(PluginConfig { tokens: fields.get("tokens"), query })
}

fn check_the_rest<'t>(reader: &mut Reader<'t>, root: &'t Node, plugin: &'t Node) {
    let Value::Map(sections) = &root.value else {
        return;
    };
    for section in sections {
        if SECTIONS_BESIDE_PLUGINS.contains(&&*section.key) {
            // It is read as in a configuration of our own.
        } else if SECTIONS.has_key(&section.key) {
            let message = format!(
                "a file with `plugins` is a Datasette configuration, which cannot have the section `{}`: only \
                 `ext_authz`, `probes`, `admin` and `keys` are allowed next to `plugins`; move the tokens to \
                 `tokens` to use \
                 all sections",
                section.key
            );
            reader.error(&section.at, message);
        } else {
            check_entry(reader, section, plugin);
        }
    }
}

fn check_entry<'t>(reader: &mut Reader<'t>, entry: &'t Entry, plugin: &'t Node) {
    // Allow blocks are `allow`, `allow_sql` and the like; in Datasette 1.0 also those under `permissions`.
    if entry.key.starts_with("allow") || &*entry.key == "permissions" {
        reader.error(
            &entry.at,
            "this server does not enforce Datasette's permissions, and to ignore them would let requests pass; \
             `envoy-auth-tokens import datasette FILE` converts this file into a configuration with routes",
        );
    } else {
        check_node(reader, &entry.value, plugin);
    }
}

fn check_node<'t>(reader: &mut Reader<'t>, node: &'t Node, plugin: &'t Node) {
    match &node.value {
        // An actor in it may have a member of such a name.
        _ if std::ptr::eq(node, plugin) => {}
        Value::List(list) => list.iter().for_each(|element| check_node(reader, element, plugin)),
        Value::Map(entries) => entries.iter().for_each(|entry| check_entry(reader, entry, plugin)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Unresolved { .. } => {}
    }
}
