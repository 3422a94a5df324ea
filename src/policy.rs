//! Policies: their allow blocks, their selection for a request, and the permit that only a policy can give.

mod destination;

pub mod allow;
pub mod overrides;
pub mod path;
pub mod route;
mod spelling;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::attributes::{Attributes, Http};
use crate::credential::Principal;

pub use allow::{Allow, AllowError, Requirement};
use overrides::{OverrideError, RoutedParts, overrides_method};
use route::SpellingTolerance;

pub use overrides::{Override, OverrideKind, PermittedOverrides};
pub use path::{AmbiguousPath, DecodedPath, PermittedPaths};
pub use route::{HostPattern, MethodPattern, Mismatch, PathPattern, Route, RouteError, normalize_host};
pub use spelling::Spelling;

/// A named rule of admission.
#[derive(Debug)]
pub struct Policy {
    name: Arc<str>,
    allow: Option<Allow>,
    enforcement: Enforcement,
}

/// How a policy treats the requests that it does not admit (`enforce`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// They are denied.
    Enforced,
    /// They pass without an actor, and the log names the denial.
    Shadow,
}

/// Proof that a request may pass, and as whom.
///
/// Its fields are private to this module, so that only a policy can make one.
#[derive(Debug, Clone)]
pub struct Permit {
    principal: Option<Arc<Principal>>,
}

impl Permit {
    /// The actor's credential; `None` when the request passes as anonymous.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    /// The permit for a CORS preflight (Fetch standard, section 3.2.2), which can carry no credential.  `None` for a
    /// request that is not a preflight.
    pub fn for_preflight(http: &Http<'_>) -> Option<Self> {
        let says = |name| http.headers.first(name).is_some_and(|value| !value.is_empty());
        let is_preflight =
            http.method == b"OPTIONS" && says("origin") && says("access-control-request-method");
        // No browser sends a preflight with another method override.
        (is_preflight && !overrides_method(http)).then_some(Self { principal: None })
    }
}

/// Why a policy does not admit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdmitted {
    /// There is no credential, and the policy needs an actor.
    Anonymous,
    /// The actor is authenticated, and the policy does not admit it.
    Actor,
}

impl Policy {
    /// An enforced policy of this name.  Without an allow block it admits every actor, and no request without one.
    pub fn new(name: Arc<str>, allow: Option<Allow>) -> Self {
        Self { name, allow, enforcement: Enforcement::Enforced }
    }

    /// The same policy, enforced or not.
    pub fn with(self, enforcement: Enforcement) -> Self {
        Self { enforcement, ..self }
    }

    /// Its name: as configured, or `route-1`, `default` and the like.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The allow block; `None` admits any actor.
    pub fn allow(&self) -> Option<&Allow> {
        self.allow.as_ref()
    }

    /// Whether its denials are enforced.
    pub fn enforcement(&self) -> Enforcement {
        self.enforcement
    }

    /// The permit for a request that was denied under this policy and still passes, without an actor.  `None` if the
    /// policy is enforced.
    pub fn shadow_permit(&self) -> Option<Permit> {
        match self.enforcement {
            Enforcement::Enforced => None,
            Enforcement::Shadow => Some(Permit { principal: None }),
        }
    }

    /// Whether a request without a credential passes.
    pub fn admits_anonymous(&self) -> bool {
        self.allow.as_ref().is_some_and(Allow::admits_anonymous)
    }

    /// Turns an actor, or the lack of one, into a permit.
    ///
    /// # Errors
    /// [`NotAdmitted`] says whether a credential was missing or did not suffice.
    pub fn admit(&self, principal: Option<Arc<Principal>>) -> Result<Permit, NotAdmitted> {
        let Some(principal) = principal else {
            return self.admit_anonymous().ok_or(NotAdmitted::Anonymous);
        };
        // A restricted credential counts as absent under other policies.  The client has presented one, so the denial
        // does not ask it to log in.
        if !principal.counts_under(&self.name) {
            return self.admit_anonymous().ok_or(NotAdmitted::Actor);
        }
        let admitted = self.allow.as_ref().is_none_or(|allow| allow.admits(&principal.actor));
        if admitted { Ok(Permit { principal: Some(principal) }) } else { Err(NotAdmitted::Actor) }
    }

    fn admit_anonymous(&self) -> Option<Permit> {
        self.admits_anonymous().then_some(Permit { principal: None })
    }
}

/// All policies, and the routes that choose among them.
#[derive(Debug, Clone)]
pub struct Policies {
    named: HashMap<Arc<str>, Arc<Policy>>,
    routes: Vec<Route>,
    default: Arc<Policy>,
    options: MatchOptions,
    routed_parts: RoutedParts,
    /// The whole paths of routes, without a slash at their ends: only a request for one of them can have
    /// another spelling that a route knows.
    exact_paths: HashSet<Box<str>>,
}

/// How a request is matched against routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MatchOptions {
    /// Ambiguous paths that are let through (`paths.permit`).
    pub paths: PermittedPaths,
    /// Whether upstreams ignore the case of paths (`paths.case: ignore`).
    pub ignore_case: bool,
    /// Override headers that are let through (`overrides.permit`).
    pub overrides: PermittedOverrides,
}

/// The policies that govern a request.
#[derive(Debug, Clone)]
pub struct Selected<'p> {
    /// The request's own.
    pub policy: &'p Arc<Policy>,
    /// Further policies that must admit as well, each once: the policy of another spelling of the path, and those of
    /// the target of COPY and MOVE.
    pub further: Vec<&'p Arc<Policy>>,
}

impl<'p> Selected<'p> {
    fn only(policy: &'p Arc<Policy>) -> Self {
        Self { policy, further: Vec::new() }
    }

    /// Every policy, the request's own first.
    pub fn iter(&self) -> impl Iterator<Item = &'p Arc<Policy>> + '_ {
        std::iter::once(self.policy).chain(self.further.iter().copied())
    }

    fn add(&mut self, policy: &'p Arc<Policy>) {
        if !self.iter().any(|seen| Arc::ptr_eq(seen, policy)) {
            self.further.push(policy);
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.further.len() == other.further.len()
            && self.iter().zip(other.iter()).all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

/// The parts of a request that decide which policy governs it.
enum SelectionInput<'p, 'a> {
    /// Envoy's route names the policy.
    Name(&'p Arc<Policy>),
    /// Each route is compared with these values, and with the method.
    Routes {
        /// The host as routes compare it; empty when none of them does.
        host: Cow<'a, str>,
        /// The decoded path; empty when no route looks at it, or the request has none.
        path: DecodedPath<'a>,
    },
}

/// Records how the request's own policy is selected.
pub trait SelectionTrace {
    /// Envoy's route names this policy.
    fn named(&mut self, _policy: &Policy) {}

    /// Routes are compared with this host and this path, each empty where no route reads it.
    fn compared(&mut self, _host: &str, _path: &str) {}

    /// The next route was compared; the first without a mismatch is the last one.
    fn route(&mut self, _mismatch: Option<Mismatch>) {}
}

impl SelectionTrace for () {}

/// Why no policy could be selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SelectError {
    /// The path can be read in two ways.
    AmbiguousPath(AmbiguousPath),
    /// The host is not valid.
    IllegalHost,
    /// The method is not in upper case.
    IllegalMethod,
    /// A header asks the upstream to use another method.
    MethodOverride,
    /// A header asks the upstream to use another path.
    PathOverride,
    /// A header asks the upstream to use another host.
    HostOverride,
    /// The target of COPY or MOVE cannot be read, or Envoy's route did not match on it.
    Destination,
    /// `context_extensions` names a policy that does not exist: the operator's mistake.
    UnknownPolicy,
}

impl From<OverrideError> for SelectError {
    fn from(overridden: OverrideError) -> Self {
        match overridden {
            OverrideError::Path => Self::PathOverride,
            OverrideError::Host => Self::HostOverride,
            OverrideError::Method => Self::MethodOverride,
        }
    }
}

impl Policies {
    /// Policies by name, routes in their order, and the policy for everything that no route matches.
    pub fn new(
        named: Vec<Arc<Policy>>,
        routes: Vec<Route>,
        default: Arc<Policy>,
        options: MatchOptions,
    ) -> Self {
        let routed_parts = RoutedParts {
            host: routes.iter().any(|route| route.host.is_some()),
            path: routes.iter().any(|route| !route.paths.is_empty()),
            method: routes.iter().any(|route| route.methods.is_some()),
        };
        let exact_paths = routes.iter().flat_map(Route::exact_paths);
        let exact_paths = exact_paths.map(|path| path::without_trailing_slash(path).into()).collect();
        let named = named.into_iter().map(|policy| (Arc::clone(policy.name()), policy)).collect();
        Self { named, routes, default, options, routed_parts, exact_paths }
    }

    /// The policies that govern this request: the one that Envoy's route names, else that of the first route
    /// that matches, else the default; and those that must admit as well.
    ///
    /// # Errors
    /// [`SelectError`]: a part that a rule would read is ambiguous, or a policy does not exist.
    pub fn select(
        &self,
        request: &Attributes<'_>,
        http: &Http<'_>,
        trace: &mut impl SelectionTrace,
    ) -> Result<Selected<'_>, SelectError> {
        match self.selection_input(request, http)? {
            SelectionInput::Name(policy) => {
                trace.named(policy);
                let destination = Override::position("destination");
                let is_permitted = destination.is_some_and(|at| self.options.overrides.contains(at));
                if destination::Operation::of(http.method).is_some() && !is_permitted {
                    return Err(SelectError::Destination);
                }
                Ok(Selected::only(policy))
            }
            SelectionInput::Routes { host, path } => {
                trace.compared(&host, &path.text);
                let mut selected = self.select_unambiguous(&host, &path, http.method, trace)?;
                if let Some(operation) = destination::Operation::of(http.method)
                    && (self.routed_parts.host || self.routed_parts.path || self.routed_parts.method)
                {
                    self.add_destination(&mut selected, operation, http, (&host, &path))?;
                }
                Ok(selected)
            }
        }
    }

    /// COPY writes the target, MOVE deletes the source as well; either may replace what is at the target.
    fn add_destination<'p>(
        &'p self,
        selected: &mut Selected<'p>,
        operation: destination::Operation,
        http: &Http<'_>,
        (host, path): (&str, &DecodedPath<'_>),
    ) -> Result<(), SelectError> {
        let target = destination::target(http).ok_or(SelectError::Destination)?;
        let target_path =
            path::read(target.path, &self.options.paths).map_err(|_| SelectError::Destination)?;
        let target_host = match target.host {
            None => Cow::Borrowed(host),
            Some(named) => {
                let named = route::normalize_host(named).ok_or(SelectError::Destination)?;
                if self.routed_parts.host { named } else { Cow::Borrowed(host) }
            }
        };
        for method in [&b"PUT"[..], b"DELETE"] {
            let further = self.select_unambiguous(&target_host, &target_path, method, &mut ());
            let further = further.map_err(|_| SelectError::Destination)?;
            further.iter().for_each(|policy| selected.add(policy));
        }
        if operation == destination::Operation::Move {
            let source = self.select_unambiguous(host, path, b"DELETE", &mut ())?;
            source.iter().for_each(|policy| selected.add(policy));
        }
        Ok(())
    }

    /// A permitted spelling must select the same policies in every reading by an upstream.
    fn select_unambiguous(
        &self,
        host: &str,
        path: &DecodedPath<'_>,
        method: &[u8],
        trace: &mut impl SelectionTrace,
    ) -> Result<Selected<'_>, SelectError> {
        let selected = self.select_by_routes(host, &path.text, method, trace);
        let differs =
            |other: &String| !self.select_by_routes(host, other, method, &mut ()).is_same(&selected);
        if path.readings.iter().any(differs) {
            return Err(SelectError::AmbiguousPath(path::kind_of(&path.text)));
        }
        Ok(selected)
    }

    /// The first route that matches governs.  If no route names exactly this path, the policy of another spelling must
    /// admit as well: with or without a slash at the end, and in another case where `paths.case` is `ignore`.
    fn select_by_routes(
        &self,
        host: &str,
        path: &str,
        method: &[u8],
        trace: &mut impl SelectionTrace,
    ) -> Selected<'_> {
        let matching = self.routes.iter().find(|route| {
            let mismatch = route.mismatch(host, path, method);
            trace.route(mismatch);
            mismatch.is_none()
        });
        let mut selected = Selected::only(matching.map_or(&self.default, |route| &route.policy));
        if matching.is_some_and(|route| route.is_exactly(path)) || path.is_empty() {
            return selected;
        }
        let tolerance =
            if self.options.ignore_case { SpellingTolerance::SlashAndCase } else { SpellingTolerance::Slash };
        let lower = match tolerance {
            SpellingTolerance::SlashAndCase => path::lower_case(path),
            // Prefixes and expressions match the other spelling where they match this one.
            SpellingTolerance::Slash if !self.exact_paths.contains(path::without_trailing_slash(path)) => {
                return selected;
            }
            SpellingTolerance::Slash => String::new(),
        };
        let near =
            self.routes.iter().find(|route| route.matches_nearly(host, (path, &lower), method, tolerance));
        if let Some(route) = near {
            selected.add(&route.policy);
        }
        selected
    }

    /// The parts of this request that decide which policy governs it.
    ///
    /// # Errors
    /// As [`Policies::select`].
    fn selection_input<'p, 'a>(
        &'p self,
        request: &Attributes<'a>,
        http: &Http<'a>,
    ) -> Result<SelectionInput<'p, 'a>, SelectError> {
        let raw_path = http.path_without_query();
        // CONNECT has no path (RFC 9110 section 9.3.6).
        let has_path = !(http.method == b"CONNECT" && raw_path.is_empty());
        let path = if has_path && (self.routed_parts.path || request.policy.is_some()) {
            path::read(raw_path, &self.options.paths).map_err(SelectError::AmbiguousPath)?
        } else {
            DecodedPath::NONE
        };
        if let Some(name) = request.policy {
            let policy = self.named(name).ok_or(SelectError::UnknownPolicy)?;
            // Envoy may have matched the route by all three.
            let read = RoutedParts { host: true, path: true, method: true };
            overrides::check(http, read, self.options.overrides)?;
            return Ok(SelectionInput::Name(policy));
        }
        let host = if self.routed_parts.host {
            route::normalize_host(http.host).ok_or(SelectError::IllegalHost)?
        } else {
            Cow::Borrowed("")
        };
        if self.routed_parts.method
            && (http.method.is_empty() || !http.method.iter().all(route::is_method_byte))
        {
            return Err(SelectError::IllegalMethod);
        }
        if self.routed_parts != (RoutedParts { host: false, path: false, method: false }) {
            overrides::check(http, self.routed_parts, self.options.overrides)?;
        }
        Ok(SelectionInput::Routes { host, path })
    }

    /// Which overrides are let through.
    pub fn permitted_overrides(&self) -> PermittedOverrides {
        self.options.overrides
    }

    /// Every policy that can govern a request: named ones, those of routes, the default.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Policy>> {
        let inline = self.routes.iter().map(|route| &route.policy);
        self.named.values().chain(inline).chain(std::iter::once(&self.default))
    }

    /// How many of them are not enforced.
    pub fn not_enforced(&self) -> usize {
        let shadows = self.iter().filter(|policy| policy.enforcement == Enforcement::Shadow);
        // Several routes may share one.
        shadows.map(|policy| policy.name()).collect::<HashSet<_>>().len()
    }

    /// The names of policies that have one of their own, in alphabetical order.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.named.keys().map(AsRef::as_ref).collect();
        names.sort_unstable();
        names
    }

    /// Whether a policy has this name of its own.
    pub fn has_named(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// How many policies have a name of their own.
    pub fn named_len(&self) -> usize {
        self.named.len()
    }

    /// The routes in their order.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    fn named(&self, name: &[u8]) -> Option<&Arc<Policy>> {
        self.named.get(std::str::from_utf8(name).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::actor::Actor;
    use crate::attributes::{ClientAddress, Encoding, Header, Headers};
    use crate::credential::Kind;

    fn policy(name: &str, allow: Option<serde_json::Value>) -> Arc<Policy> {
        let allow = allow.map(|allow| Allow::new(&allow).unwrap());
        Arc::new(Policy::new(name.into(), allow))
    }

    fn principal(actor: &serde_json::Value, policies: Option<&[&str]>) -> Arc<Principal> {
        let members = actor.as_object().unwrap().clone();
        let mut principal =
            Principal::new(Kind::Token, "token-1".into(), Actor::configured(members).unwrap());
        principal.policies = policies.map(|names| names.iter().map(|&name| name.into()).collect());
        Arc::new(principal)
    }

    #[test]
    fn without_an_allow_block_any_actor_passes_and_no_anonymous_request() {
        let policy = policy("default", None);
        assert!(policy.admit(Some(principal(&json!({}), None))).unwrap().principal().is_some());
        assert_eq!(policy.admit(None).unwrap_err(), NotAdmitted::Anonymous);
    }

    #[test]
    fn a_restricted_credential_counts_under_its_own_policies_alone() {
        let open = policy("open", Some(json!(true)));
        let read = policy("read", None);
        let restricted = || Some(principal(&json!({"id": "root"}), Some(&["read"])));
        assert!(read.admit(restricted()).unwrap().principal().is_some());
        assert!(open.admit(restricted()).unwrap().principal().is_none(), "passes as anonymous");
        assert_eq!(policy("write", None).admit(restricted()).unwrap_err(), NotAdmitted::Actor);
        let under_none = Some(principal(&json!({"id": "root"}), Some(&[])));
        assert_eq!(read.admit(under_none).unwrap_err(), NotAdmitted::Actor);
    }

    #[test]
    fn a_policy_that_is_not_enforced_lets_denied_requests_pass_without_an_actor() {
        let closed = |enforcement| Policy::new("p".into(), Some(Allow::NoOne)).with(enforcement);
        assert!(closed(Enforcement::Enforced).shadow_permit().is_none());
        let shadow = closed(Enforcement::Shadow);
        assert!(shadow.shadow_permit().unwrap().principal().is_none());
        // `admit` does not depend on enforcement.
        assert_eq!(shadow.admit(Some(principal(&json!({"id": "a"}), None))).unwrap_err(), NotAdmitted::Actor);

        let shadow = Arc::new(shadow);
        let route = || Route { host: None, paths: Box::new([]), methods: None, policy: Arc::clone(&shadow) };
        let routes = vec![route(), route()];
        let default = policy("default", None);
        let policies = Policies::new(vec![Arc::clone(&shadow)], routes, default, MatchOptions::default());
        assert_eq!(policies.not_enforced(), 1);
    }

    fn select(policies: &Policies, method: &str, host: &str, path: &str, extension: Option<&str>) -> String {
        select_with(policies, method, host, path, extension, &[])
    }

    fn select_with(
        policies: &Policies,
        method: &str,
        host: &str,
        path: &str,
        extension: Option<&str>,
        headers: &[(&str, &str)],
    ) -> String {
        let entries =
            headers.iter().map(|(name, value)| Header { name: name.as_bytes(), value: value.as_bytes() });
        let http = Http {
            method: method.as_bytes(),
            host: host.as_bytes(),
            path: path.as_bytes(),
            headers: Headers::new(Encoding::Lines, entries.collect()),
            client: ClientAddress::UNKNOWN,
        };
        let policy = extension.map(str::as_bytes);
        let request = Attributes { http: Some(http.clone()), policy, misspelled_policy: None };
        match policies.select(&request, &http, &mut ()) {
            Ok(selected) => {
                let names: Vec<_> = selected.iter().map(|policy| policy.name().to_string()).collect();
                names.join(" and ")
            }
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn the_first_matching_route_wins_and_context_extensions_win_over_routes() {
        let route = |path: Option<&str>, methods: Option<&str>, policy: &Arc<Policy>| Route {
            host: None,
            paths: path.iter().map(|path| PathPattern::prefix(path).unwrap()).collect(),
            methods: methods.map(|method| Box::from([MethodPattern::parse(method).unwrap()])),
            policy: policy.clone(),
        };
        let named = policy("read", None);
        let (first, second) = (policy("route-1", None), policy("route-2", None));
        let routes = vec![route(Some("/a/b"), None, &first), route(Some("/a"), Some("GET"), &second)];
        let policies = Policies::new(vec![named], routes, policy("default", None), MatchOptions::default());

        assert_eq!(select(&policies, "GET", "h", "/a/b/c?x=/..", None), "route-1");
        assert_eq!(select(&policies, "HEAD", "h", "/a/c", None), "route-2");
        assert_eq!(select(&policies, "POST", "h", "/a/c", None), "default");
        assert_eq!(select(&policies, "POST", "h", "/a/b", Some("read")), "read");
        assert_eq!(select(&policies, "POST", "h", "/a/b", Some("default")), "UnknownPolicy");
        assert_eq!(select(&policies, "POST", "h", "/a/b", Some("")), "UnknownPolicy");
        assert_eq!(select(&policies, "get", "h", "/a/b", None), "IllegalMethod");
        assert_eq!(select(&policies, "", "h", "/a/b", None), "IllegalMethod");
        assert_eq!(select(&policies, "GET", "", "/a//b", None), "AmbiguousPath(EmptySegment)");
        for name in ["x-http-method-override", "X_HTTP_Method", "x.method.override"] {
            let found = select_with(&policies, "GET", "h", "/a", None, &[(name, "DELETE")]);
            assert_eq!(found, "MethodOverride");
        }
    }

    #[test]
    fn what_is_a_preflight() {
        let permit = |method: &str, headers: &[(&str, &str)]| {
            let entries =
                headers.iter().map(|(name, value)| Header { name: name.as_bytes(), value: value.as_bytes() });
            let headers = Headers::new(Encoding::Lines, entries.collect());
            Permit::for_preflight(&Http {
                method: method.as_bytes(),
                host: b"h",
                path: b"/",
                headers,
                client: ClientAddress::UNKNOWN,
            })
            .is_some()
        };
        let (origin, requested) = (("origin", "https://o.example"), ("access-control-request-method", "PUT"));
        assert!(permit("OPTIONS", &[origin, requested]));
        assert!(!permit("PUT", &[origin, requested]));
        assert!(!permit("OPTIONS", &[origin]));
        assert!(!permit("OPTIONS", &[requested]));
        assert!(!permit("OPTIONS", &[("origin", ""), requested]));
        assert!(!permit("OPTIONS", &[origin, requested, ("x-http-method-override", "DELETE")]));
    }

    #[test]
    fn nothing_is_malformed_that_no_rule_reads() {
        let policies =
            Policies::new(vec![policy("p", None)], vec![], policy("default", None), MatchOptions::default());
        assert_eq!(select(&policies, "get", "a@b", "*", None), "default");
        assert_eq!(select(&policies, "get", "a@b", "/a", Some("p")), "p");
        assert_eq!(select(&policies, "get", "a@b", "/a/../b", Some("nobody")), "AmbiguousPath(DotSegment)");
    }

    /// Routes as text: a path (`/x`, `/x/**` for a prefix, `~…` for an expression), methods, a policy's name.
    fn routed(routes: &[(&str, &str, &str)], options: MatchOptions) -> Policies {
        let routes = routes.iter().map(|(pattern, methods, name)| {
            let pattern = match (pattern.strip_prefix('~'), pattern.strip_suffix("/**")) {
                (Some(regex), _) => PathPattern::regex(regex).unwrap().ignoring_case().unwrap(),
                (None, Some(prefix)) => PathPattern::prefix(&format!("{prefix}/")).unwrap(),
                (None, None) => PathPattern::exact(pattern).unwrap(),
            };
            let methods: Box<[_]> =
                methods.split_whitespace().map(|name| MethodPattern::parse(name).unwrap()).collect();
            let methods = (!methods.is_empty()).then_some(methods);
            Route { host: None, paths: [pattern].into(), methods, policy: policy(name, None) }
        });
        Policies::new(vec![policy("named", None)], routes.collect(), policy("default", None), options)
    }

    #[test]
    fn another_spelling_of_a_route_s_path_only_narrows() {
        let routes = [
            ("/admin", "", "admin"),
            ("/b/", "", "slash"),
            ("/b", "", "plain"),
            ("~/r[0-9]", "", "regex"),
            ("/", "", "root"),
            ("/open/**", "", "open"),
            ("/open/secret", "", "late"),
        ];
        let sensitive = routed(&routes, MatchOptions::default());
        let ignoring = routed(&routes, MatchOptions { ignore_case: true, ..MatchOptions::default() });
        for (path, expected, without_case) in [
            ("/admin", "admin", "admin"),
            ("/admin/", "default and admin", "default and admin"),
            ("/Admin", "default", "default and admin"),
            ("/ADMIN/", "default", "default and admin"),
            ("/b/", "slash", "slash"),
            ("/b", "plain", "plain"),
            ("/B", "default", "default and slash"),
            ("/r1", "regex", "regex"),
            ("/r1/", "default", "default"),
            ("/R1", "default", "default and regex"),
            ("/", "root", "root"),
            ("/open/secret/", "open", "open"),
            ("/OPEN/x", "default", "default and open"),
            ("/else", "default", "default"),
        ] {
            assert_eq!(select(&sensitive, "GET", "h", path, None), expected, "{path}");
            assert_eq!(select(&ignoring, "GET", "h", path, None), without_case, "{path}, case ignored");
        }
    }

    #[test]
    fn a_permitted_spelling_selects_the_same_policy_in_every_reading() {
        let paths = PermittedPaths {
            empty_segment: true,
            encoded_slash: true,
            parameters: true,
            encoded_delimiter: true,
        };
        let policies = routed(
            &[("/admin", "", "admin"), ("/api/**", "", "api")],
            MatchOptions { paths, ..MatchOptions::default() },
        );
        for (path, expected) in [
            ("/admin;x=1", "AmbiguousPath(Parameters)"),
            ("/admin/;x", "AmbiguousPath(Parameters)"),
            ("//admin", "AmbiguousPath(EmptySegment)"),
            ("/admin//", "AmbiguousPath(EmptySegment)"),
            ("/%2fadmin", "AmbiguousPath(EmptySegment)"),
            ("/admin%3fx", "AmbiguousPath(EncodedDelimiter)"),
            ("/admin%23x", "AmbiguousPath(EncodedDelimiter)"),
            ("/api%2fx", "AmbiguousPath(EncodedSlash)"),
            ("/x\\..x/admin", "default"),
            ("\\admin", "AmbiguousPath(NotAbsolute)"),
            ("/api/projects/a%2fb", "api"),
            ("/api/x;v=1/y", "api"),
            ("/api//x%3fy", "api"),
            ("/other;x", "default"),
        ] {
            assert_eq!(select(&policies, "GET", "h", path, None), expected, "{path}");
        }
    }

    #[test]
    fn copy_and_move_are_decided_for_their_target_as_well() {
        let routes = [
            ("/admin/**", "", "admin"),
            ("/a/**", "DELETE", "delete"),
            ("/a/**", "PUT", "put"),
            ("/a/**", "", "a"),
        ];
        let policies = routed(&routes, MatchOptions::default());
        let ask = |method: &str, to: &[&str]| {
            let headers: Vec<_> = to.iter().map(|to| ("Destination", *to)).collect();
            select_with(&policies, method, "h", "/a/x", None, &headers)
        };
        for (method, to, expected) in [
            ("COPY", &["/a/y"][..], "a and put and delete"),
            ("MOVE", &["/b/y"], "a and default and delete"),
            ("COPY", &["/admin/y"], "a and admin"),
            ("MOVE", &["/admin/y"], "a and admin and delete"),
            ("COPY", &["http://h/admin/y"], "a and admin"),
            ("COPY", &["HTTPS://other:80/%61dmin/y?x"], "a and admin"),
            ("MOVE", &[], "Destination"),
            ("MOVE", &[""], "Destination"),
            ("MOVE", &["/a/y", "/a/y"], "Destination"),
            ("MOVE", &["a/y"], "Destination"),
            ("MOVE", &["//h/a/y"], "Destination"),
            ("MOVE", &["http:/a/y"], "Destination"),
            ("MOVE", &["http://h"], "Destination"),
            ("MOVE", &["http://u@h/a/y"], "Destination"),
            ("MOVE", &["ftp://h/a/y"], "Destination"),
            ("MOVE", &["/a/../admin"], "Destination"),
            ("MOVE", &["/a/%2e%2e/admin"], "Destination"),
            ("MOVE", &["/a/y#z"], "Destination"),
            ("GET", &["/admin/y"], "a"),
        ] {
            assert_eq!(ask(method, to), expected, "{method} {to:?}");
        }
        // Envoy's route has not looked at the target.
        let named = |policies: &Policies| {
            select_with(policies, "MOVE", "h", "/a", Some("named"), &[("destination", "/a/y")])
        };
        assert_eq!(named(&policies), "Destination");
        let mut overrides = PermittedOverrides::default();
        overrides.insert(Override::position("destination").unwrap());
        assert_eq!(named(&routed(&routes, MatchOptions { overrides, ..MatchOptions::default() })), "named");
    }

    #[test]
    fn connect_has_no_path_and_matches_no_path_rule() {
        let policies = routed(&[("/**", "", "all"), ("~.*", "", "regex")], MatchOptions::default());
        assert_eq!(select(&policies, "CONNECT", "h:443", "", None), "default");
        assert_eq!(select(&policies, "CONNECT", "h:443", "", Some("named")), "named");
        assert_eq!(select(&policies, "GET", "h", "", None), "AmbiguousPath(NotAbsolute)");
        assert_eq!(select(&policies, "CONNECT", "h", "/x", None), "all");
    }

    #[test]
    fn a_policy_that_envoy_names_counts_as_one_that_reads_everything() {
        let policies =
            Policies::new(vec![policy("p", None)], vec![], policy("d", None), MatchOptions::default());
        for (name, value, expected) in [
            ("x-script-name", "/x", "PathOverride"),
            ("x-forwarded-host", "evil", "HostOverride"),
            ("x-forwarded-host", "h", "p"),
            ("x-http-method", "PUT", "MethodOverride"),
        ] {
            assert_eq!(select_with(&policies, "GET", "h", "/", Some("p"), &[(name, value)]), expected);
            assert_eq!(select_with(&policies, "GET", "h", "/", None, &[(name, value)]), "d");
        }
        assert_eq!(select(&policies, "POST", "h", "/?_method=PUT", Some("p")), "MethodOverride");
    }
}
