//! The sections `routes`, `default` and `paths`: which policy governs which request.

use std::sync::Arc;

use super::one_of;
use super::policies::{self, NamedPolicies, read_allow, read_enforcement, read_policy};
use super::raw::{Node, Text, Value};
use super::reader::{Fields, Reader, alternatives};
use super::schema;
use crate::keys::Role;
use crate::policy::allow::Requirement;
use crate::policy::{
    Allow, HostPattern, MatchOptions, MethodPattern, Override, PathPattern, PermittedOverrides,
    PermittedPaths, Policies, Policy, Route, RouteError, Spelling,
};

/// The policies of a configuration.
pub struct PolicySections {
    /// All policies, with the routes that select them.
    pub policies: Policies,
    /// Those of the section `policies`: a restriction may name only these.
    pub named: NamedPolicies,
}

/// Reads the sections, `policies` among them.
pub fn read<'t>(reader: &mut Reader<'t>, sections: Fields<'t>) -> PolicySections {
    let named = policies::read(reader, sections.get("policies"));
    let (permitted, ignore_case) = read_paths(reader, sections.get("paths"));
    let overrides = read_overrides(reader, sections.get("overrides"));
    let reading = MatchOptions { paths: permitted, ignore_case, overrides };
    let section = sections.get("routes");
    let list = section.and_then(|node| reader.list(node, "a list of routes")).unwrap_or_default();
    let routes: Vec<Option<Route>> = list
        .iter()
        .enumerate()
        .map(|(index, node)| read_route(reader, node, index + 1, &named, ignore_case))
        .collect();
    // Without all routes no warning about their order is certain.
    let routes: Option<Vec<Route>> = routes.into_iter().collect();

    let default = sections.get("default");
    if let (Some(routes), None, false) = (sections.entry("routes"), default, list.is_empty()) {
        reader.error(
            &routes.at,
            "`routes` need a `default` for requests that match none: \
             {} admits any actor, {allow: false} denies every request",
        );
    }
    let name = Arc::from("default");
    let default = match default {
        Some(node) => read_policy(reader, node, name),
        None => Policy::new(name, None),
    };
    if let Some(routes) = &routes {
        warn_of_unreachable(reader, list, routes, &permitted);
        warn_of_falling_through(reader, list, routes, &default);
    }
    let policies = Policies::new(named.to_vec(), routes.unwrap_or_default(), Arc::new(default), reading);
    warn_of_other_spellings(reader, list, &policies);
    PolicySections { policies, named }
}

/// The ambiguous paths that `paths` permits, and whether case is ignored.
fn read_paths<'t>(reader: &mut Reader<'t>, section: Option<&'t Node>) -> (PermittedPaths, bool) {
    let mut permitted = PermittedPaths::default();
    let what = "a mapping such as {permit: [], case: sensitive}";
    let fields = section.and_then(|node| reader.fields(node, what, &schema::PATHS));
    let kinds = ["empty_segment", "encoded_slash", "parameters", "encoded_delimiter"];
    let what = format!("a list of {}", alternatives(&kinds));
    let permit = fields.and_then(|fields| fields.get("permit")).and_then(|node| reader.list(node, &what));
    for node in permit.unwrap_or_default() {
        let Some(text) = reader.text(node, &alternatives(&kinds)) else {
            continue;
        };
        match text.as_str() {
            "empty_segment" => permitted.empty_segment = true,
            "encoded_slash" => permitted.encoded_slash = true,
            "parameters" => permitted.parameters = true,
            "encoded_delimiter" => permitted.encoded_delimiter = true,
            other => reader.error(&node.at, format!("expected {}", one_of(other, &kinds))),
        }
    }
    let cases = ["sensitive", "ignore"];
    let case = fields.and_then(|fields| fields.get("case"));
    let text = case.and_then(|node| Some((node, reader.text(node, &alternatives(&cases))?)));
    let ignore_case = text.is_some_and(|(node, text)| match text.as_str() {
        "sensitive" => false,
        "ignore" => true,
        other => {
            reader.error(&node.at, format!("expected {}", one_of(other, &cases)));
            false
        }
    });
    (permitted, ignore_case)
}

/// The override headers that a trusted proxy before Envoy sets.
fn read_overrides<'t>(reader: &mut Reader<'t>, section: Option<&'t Node>) -> PermittedOverrides {
    let mut permitted = PermittedOverrides::default();
    let fields =
        section.and_then(|node| reader.fields(node, "a mapping such as {permit: []}", &schema::OVERRIDES));
    let names = Override::ALL.map(|known| known.name);
    let what = "a list of headers such as x-forwarded-host";
    let permit = fields.and_then(|fields| fields.get("permit")).and_then(|node| reader.list(node, what));
    for node in permit.unwrap_or_default() {
        let Some(text) = reader.text(node, &alternatives(&names)) else {
            continue;
        };
        match Override::position(text.as_str()) {
            Some(position) => permitted.insert(position),
            None => reader.error(&node.at, format!("expected {}", one_of(text.as_str(), &names))),
        }
    }
    permitted
}

fn read_route<'t>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    number: usize,
    named: &NamedPolicies,
    ignore_case: bool,
) -> Option<Route> {
    let fields =
        reader.fields(node, "a route such as {path_prefix: /public, allow: true}", &schema::ROUTE)?;
    // All are read before any error returns, so that every problem is reported.
    let host = optional(fields.get("host"), |node| {
        pattern(reader, node, "text: a host such as api.example or *.example", HostPattern::parse)
    });
    let paths = read_paths_of_route(reader, fields, ignore_case);
    let methods = optional(fields.get("methods"), |node| read_methods(reader, node));
    let policy = read_route_policy(reader, fields, number, named);
    Some(Route { host: host?, paths: paths?, methods: methods?, policy: policy? })
}

/// The value of an optional key: `Some(None)` without it, `None` when it is not valid.
fn optional<'t, T>(node: Option<&'t Node>, read: impl FnOnce(&'t Node) -> Option<T>) -> Option<Option<T>> {
    match node {
        None => Some(None),
        Some(node) => read(node).map(Some),
    }
}

fn pattern<'t, T>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, RouteError>,
) -> Option<T> {
    let text = reader.text(node, what)?;
    match parse(text.as_str()) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            reader.error(&node.at, route_error(&error, text));
            None
        }
    }
}

fn route_error(error: &RouteError, text: &Text) -> String {
    match error {
        // The parser's message may quote the expression.
        RouteError::Regex(_) if text.reference().is_some() => {
            "the regular expression does not compile".to_owned()
        }
        RouteError::Regex(_)
        | RouteError::Host
        | RouteError::Path
        | RouteError::Escape
        | RouteError::Method => error.to_string(),
    }
}

fn read_paths_of_route<'t>(
    reader: &mut Reader<'t>,
    fields: Fields<'t>,
    ignore_case: bool,
) -> Option<Box<[PathPattern]>> {
    let a_path = "text: a path such as /api";
    // All are read before any error returns, so that every problem is reported.
    let exact = optional(fields.get("path"), |node| pattern(reader, node, a_path, PathPattern::exact));
    let prefix =
        optional(fields.get("path_prefix"), |node| pattern(reader, node, a_path, PathPattern::prefix));
    for node in [fields.get("path"), fields.get("path_prefix")].into_iter().flatten() {
        warn_of_glob(reader, node);
    }
    let regex = optional(fields.get("path_regex"), |node| {
        let parse = |text: &str| {
            let regex = PathPattern::regex(text)?;
            if ignore_case { regex.ignoring_case() } else { Ok(regex) }
        };
        pattern(reader, node, "text: a regular expression for the whole path", parse)
    });
    Some([exact?, prefix?, regex?].into_iter().flatten().collect())
}

/// Warns of a `*` in a path: it stands for itself, which is rarely intended.
fn warn_of_glob<'t>(reader: &mut Reader<'t>, node: &'t Node) {
    if matches!(&node.value, Value::Text(text) if text.as_str().contains('*')) {
        reader.warn(
            &node.at,
            "`*` is not a wildcard here: `path_prefix: /public` matches everything below /public, and \
             `path_regex` takes patterns; write %2A for a `*` in a path",
        );
    }
}

fn read_methods<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Box<[MethodPattern]>> {
    let list = reader.list(node, "a list of methods such as [GET, POST]")?;
    if list.is_empty() {
        reader
            .error(&node.at, "an empty list of methods matches no request; leave `methods` out to match all");
        return None;
    }
    let methods: Vec<_> = list
        .iter()
        .map(|node| pattern(reader, node, "text: a method such as GET", MethodPattern::parse))
        .collect();
    methods.into_iter().collect()
}

fn read_route_policy<'t>(
    reader: &mut Reader<'t>,
    fields: Fields<'t>,
    number: usize,
    named: &NamedPolicies,
) -> Option<Arc<Policy>> {
    match (fields.get("policy"), fields.get("allow")) {
        (Some(node), None) => {
            if let Some(entry) = fields.entry("enforce") {
                reader.error(
                    &entry.at,
                    "`enforce` belongs to the policy that this route names: write it in `policies`, next to \
                     `allow`",
                );
            }
            named.find(reader, node)
        }
        (None, Some(node)) => {
            let allow = read_allow(reader, node);
            let name: Arc<str> = format!("route-{number}").into();
            let enforcement = read_enforcement(reader, fields.get("enforce"), &name);
            Some(Arc::new(Policy::new(name, Some(allow)).with(enforcement)))
        }
        (None, None) => {
            reader.error(fields.at, "a route needs a `policy` (a name) or an `allow` block");
            None
        }
        (Some(_), Some(_)) => {
            reader.error(fields.at, "a route has a `policy` or an `allow` block, not both");
            None
        }
    }
}

/// How many routes are compared with those before them: the time grows with the square of their number.
const MAX_COMPARED_ROUTES: usize = 2000;

fn warn_of_unreachable<'t>(
    reader: &mut Reader<'t>,
    nodes: &'t [Node],
    routes: &[Route],
    permitted: &PermittedPaths,
) {
    for (index, (node, route)) in nodes.iter().zip(routes).take(MAX_COMPARED_ROUTES).enumerate() {
        if let Some(earlier) = routes[..index].iter().position(|earlier| earlier.covers(route)) {
            reader.warn(
                &node.at,
                format!("no request reaches this route: routes[{earlier}] matches all of them"),
            );
        } else if route.paths.iter().any(|path| path.is_unreachable(permitted)) {
            reader.warn(
                &node.at,
                "no request reaches this route: such a path is denied as ambiguous (see `paths.permit`)",
            );
        }
    }
}

/// Warns of a route with `methods` whose path is governed by a policy that admits more when the method is another one:
/// that of a later route, or the default.
///
/// It warns only where this is certain: the later route matches every host and path of this one and all methods, and the
/// two policies differ in their [`AdmittedActors`].
fn warn_of_falling_through<'t>(
    reader: &mut Reader<'t>,
    nodes: &'t [Node],
    routes: &[Route],
    default: &Policy,
) {
    for (index, (node, route)) in nodes.iter().zip(routes).take(MAX_COMPARED_ROUTES).enumerate() {
        if route.methods.is_none() {
            continue;
        }
        let takes_the_rest =
            |later: &&Route| later.methods.is_none() && later.covers_host(route) && later.covers_path(route);
        let later = routes[index + 1..].iter().find(takes_the_rest);
        let fallback = later.map_or(default, |later| &later.policy);
        if admitted_actors(fallback) > admitted_actors(&route.policy) {
            let name = reader.quote_name(fallback.name());
            reader.warn(
                &node.at,
                format!(
                    "with another method this path falls to policy {name}, which admits more; \
                     add a route for the path without `methods`"
                ),
            );
        }
    }
}

/// How often routes are matched against other spellings of a path, in all.
const MAX_SPELLING_MATCHES: usize = 2_000_000;

/// Warns of a route that can be bypassed by another spelling of its path, which the upstream reads as the same: all
/// policies to which that spelling falls admit more.
fn warn_of_other_spellings<'t>(reader: &mut Reader<'t>, nodes: &'t [Node], policies: &Policies) {
    let routes = policies.routes();
    let limit = (MAX_SPELLING_MATCHES / routes.len().max(1)).min(MAX_COMPARED_ROUTES);
    for (node, route) in nodes.iter().zip(routes).take(limit) {
        let mut open = policies.other_spellings(route);
        open.retain(|(_, fallbacks)| fallbacks.iter().all(|fallback| admits_more(fallback, &route.policy)));
        while let Some((_, fallbacks)) = open.first() {
            let fallback =
                fallbacks.first().map_or("default", |fallback| fallback.name().as_ref()).to_owned();
            let same = |(_, others): &(Spelling, Vec<&Arc<Policy>>)| {
                others.first().is_none_or(|other| other.name().as_ref() == fallback)
            };
            let words: Vec<_> =
                open.iter().filter(|one| same(one)).map(|(spelling, _)| spelling.as_words()).collect();
            let name = reader.quote_name(&fallback);
            reader.warn(
                &node.at,
                format!(
                    "{}, this path falls to policy {name}, which admits more; deny the rest (`default: {{allow: \
                     false}}`), or add a route for that spelling",
                    one_or_other(&words)
                ),
            );
            open.retain(|one| !same(one));
        }
    }
}

/// "a, b or c"
fn one_or_other(words: &[&str]) -> String {
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// Whether a policy certainly admits all actors that the other one admits, and more.
fn admits_more(one: &Policy, other: &Policy) -> bool {
    let (
        Some(Allow::Members { members, anonymous }),
        Some(Allow::Members { members: others, anonymous: open }),
    ) = (one.allow(), other.allow())
    else {
        return admitted_actors(one) > admitted_actors(other);
    };
    if anonymous != open {
        return *anonymous;
    }
    let lowest = |members: &[Member]| match members {
        [(name, Requirement::AnyOf(roles))] if name.as_ref() == "role" => {
            roles.iter().filter_map(|role| Role::parse(role.as_str()?)).min()
        }
        _ => None,
    };
    let has_lower_role = matches!((lowest(members), lowest(others)), (Some(one), Some(other)) if one < other);
    has_lower_role || (includes(members, others) && !includes(others, members))
}

type Member = (Box<str>, Requirement);

/// Whether these alternatives include each of the others.
fn includes(members: &[Member], others: &[Member]) -> bool {
    let is_within = |wanted: &Requirement, other: &Requirement| match (wanted, other) {
        (Requirement::Present, _) => true,
        (Requirement::AnyOf(_), Requirement::Present) => false,
        (Requirement::AnyOf(values), Requirement::AnyOf(others)) => {
            others.iter().all(|other| values.contains(other))
        }
    };
    others.iter().all(|(name, other)| {
        members.iter().any(|(candidate, wanted)| candidate == name && is_within(wanted, other))
    })
}

/// How many actors a policy admits, as far as it can be compared without knowing the actors.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum AdmittedActors {
    None,
    SomeActors,
    AnyActor,
    Everyone,
}

fn admitted_actors(policy: &Policy) -> AdmittedActors {
    match policy.allow() {
        None => AdmittedActors::AnyActor,
        Some(Allow::Everyone) => AdmittedActors::Everyone,
        Some(Allow::NoOne) => AdmittedActors::None,
        Some(Allow::Members { anonymous: true, .. }) => AdmittedActors::Everyone,
        Some(Allow::Members { members, anonymous: false }) if members.is_empty() => AdmittedActors::None,
        Some(Allow::Members { anonymous: false, .. }) => AdmittedActors::SomeActors,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn which_of_two_policies_admits_more() {
        let policy = |allow: serde_json::Value| {
            let allow = (!allow.is_null()).then(|| Allow::new(&allow).unwrap());
            Policy::new("p".into(), allow)
        };
        let (admin, viewer) = (json!({"role": "Admin"}), json!({"role": "Viewer"}));
        for (one, other, expected) in [
            (json!(true), json!(null), true),
            (json!(null), admin.clone(), true),
            (json!(true), json!(true), false),
            (json!(false), admin.clone(), false),
            (admin.clone(), json!(false), true),
            (admin.clone(), json!({}), true),
            (json!({"role": ["Viewer", "Admin"]}), admin.clone(), true),
            (json!({"role": "*"}), admin.clone(), true),
            (json!({"role": "Admin", "id": "bot"}), admin.clone(), true),
            (viewer.clone(), admin.clone(), true),
            (json!({"role": ["Editor"]}), admin.clone(), true),
            (admin.clone(), viewer.clone(), false),
            (admin.clone(), admin.clone(), false),
            (json!({"role": ["Admin", "Admin"]}), admin.clone(), false),
            (json!({"team": "a"}), json!({"team": "b"}), false),
            (json!({"role": "Admin", "unauthenticated": true}), admin.clone(), true),
            (admin.clone(), json!({"role": "Admin", "unauthenticated": true}), false),
        ] {
            assert_eq!(admits_more(&policy(one.clone()), &policy(other.clone())), expected, "{one} {other}");
        }
    }
}
