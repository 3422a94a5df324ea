//! Policies: who may do what, which of them governs a request, and the permit that only they can give.

pub mod allow;
pub mod path;
pub mod route;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::actor::header::folds_onto;
use crate::attributes::{Attributes, Http, Lengths};
use crate::credential::Known;

pub use allow::{Allow, AllowError};
pub use path::{AmbiguousPath, PermittedPaths};
pub use route::{HostPattern, MethodPattern, Mismatch, PathPattern, Route, RouteError};

/// A named rule of admission.
#[derive(Debug)]
pub struct Policy {
    name: Arc<str>,
    allow: Option<Allow>,
    enforcement: Enforcement,
}

/// What becomes of the requests that a policy does not admit (`enforce`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// They are refused.
    Enforced,
    /// They pass without an actor, and the refusal that would have been is told.
    Shadow,
}

/// Proof that a request may pass, and as whom.
///
/// Its fields are private here, so that nobody but a policy can make one.
#[derive(Debug, Clone)]
pub struct Permit {
    known: Option<Arc<Known>>,
}

impl Permit {
    /// The actor's credential; `None` when the request passes as anonymous.
    pub fn known(&self) -> Option<&Arc<Known>> {
        self.known.as_ref()
    }

    /// The permit for a CORS preflight (Fetch standard, section 3.2.2), which can carry no credential.
    /// `None` for a request that is none.
    pub fn for_preflight(http: &Http<'_>) -> Option<Self> {
        let says = |name| http.headers.first(name).is_some_and(|value| !value.is_empty());
        let is_preflight =
            http.method == b"OPTIONS" && says("origin") && says("access-control-request-method");
        // No browser sends a preflight that asks for another method than its own.
        (is_preflight && !overrides_method(http)).then_some(Self { known: None })
    }
}

/// Why a policy does not admit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdmitted {
    /// There is no credential, and the policy needs an actor.
    Anonymous,
    /// The actor is known and may not.
    Actor,
}

impl Policy {
    /// An enforced policy of this name.  Without an allow block it admits any actor and nobody anonymous.
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

    /// Whether its refusals are enforced.
    pub fn enforcement(&self) -> Enforcement {
        self.enforcement
    }

    /// The permit for a request that was refused under this policy and passes all the same, without an actor.
    /// `None` where the policy is enforced.
    pub fn shadow(&self) -> Option<Permit> {
        match self.enforcement {
            Enforcement::Enforced => None,
            Enforcement::Shadow => Some(Permit { known: None }),
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
    pub fn admit(&self, known: Option<Arc<Known>>) -> Result<Permit, NotAdmitted> {
        let Some(known) = known else {
            return self.admit_anonymous().ok_or(NotAdmitted::Anonymous);
        };
        // "Under any other policy its actor does not count": a restricted credential
        // is no more than none at all, but whoever showed it need not be told to log in.
        if !known.counts_under(&self.name) {
            return self.admit_anonymous().ok_or(NotAdmitted::Actor);
        }
        let admitted = self.allow.as_ref().is_none_or(|allow| allow.admits(&known.actor));
        if admitted { Ok(Permit { known: Some(known) }) } else { Err(NotAdmitted::Actor) }
    }

    fn admit_anonymous(&self) -> Option<Permit> {
        self.admits_anonymous().then_some(Permit { known: None })
    }
}

/// All policies, and the routes that choose among them.
#[derive(Debug, Clone)]
pub struct Policies {
    named: HashMap<Arc<str>, Arc<Policy>>,
    routes: Vec<Route>,
    default: Arc<Policy>,
    permitted_paths: PermittedPaths,
    routes_read: RoutesRead,
}

/// What of a request the routes look at: only that can be refused as malformed.
#[derive(Debug, Clone, Copy)]
struct RoutesRead {
    host: bool,
    path: bool,
    method: bool,
}

/// What of a request decides which policy governs it.
#[derive(Debug)]
pub enum Question<'p, 'a> {
    /// Envoy's route names the policy.
    Named(&'p Arc<Policy>),
    /// Each route is asked about these, and about the method.
    Routed {
        /// The host as routes compare it; empty when none of them does.
        host: Cow<'a, str>,
        /// The decoded path; empty when no route looks at it.
        path: Cow<'a, str>,
    },
}

/// Why no policy could be selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectError {
    /// The path can be read in two ways.
    AmbiguousPath(AmbiguousPath),
    /// The host is not one.
    IllegalHost,
    /// The method is not in upper case.
    IllegalMethod,
    /// A header asks the upstream to take another method for the request's.
    MethodOverride,
    /// `context_extensions` names a policy that does not exist: the operator's mistake.
    UnknownPolicy,
}

/// Headers by which frameworks let a request claim another method.  Names that fold onto them count as well.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

fn overrides_method(http: &Http<'_>) -> bool {
    let lengths = Lengths::of(METHOD_OVERRIDES.map(str::as_bytes));
    let overrides = |name: &[u8]| METHOD_OVERRIDES.iter().any(|header| folds_onto(name, header));
    http.headers.of_lengths(lengths).any(|header| overrides(header.name))
}

impl Policies {
    /// Policies by name, routes in their order, and the policy for everything that no route matches.
    pub fn new(
        named: Vec<Arc<Policy>>,
        routes: Vec<Route>,
        default: Arc<Policy>,
        permitted_paths: PermittedPaths,
    ) -> Self {
        let routes_read = RoutesRead {
            host: routes.iter().any(|route| route.host.is_some()),
            path: routes.iter().any(|route| !route.paths.is_empty()),
            method: routes.iter().any(|route| route.methods.is_some()),
        };
        let named = named.into_iter().map(|policy| (Arc::clone(policy.name()), policy)).collect();
        Self { named, routes, default, permitted_paths, routes_read }
    }

    /// The policy that governs this request: the one that Envoy's route names,
    /// else that of the first route that matches, else the default.
    ///
    /// # Errors
    /// [`SelectError`]: what a rule would read can be read in two ways, or names what does not exist.
    pub fn select(&self, request: &Attributes<'_>, http: &Http<'_>) -> Result<&Arc<Policy>, SelectError> {
        match self.question(request, http)? {
            Question::Named(policy) => Ok(policy),
            Question::Routed { host, path } => {
                let matching = self.routes.iter().find(|route| route.matches(&host, &path, http.method));
                Ok(matching.map_or(&self.default, |route| &route.policy))
            }
        }
    }

    /// What of this request decides which policy governs it.
    ///
    /// # Errors
    /// As [`Policies::select`].
    pub fn question<'p, 'a>(
        &'p self,
        request: &Attributes<'a>,
        http: &Http<'a>,
    ) -> Result<Question<'p, 'a>, SelectError> {
        let raw_path = http.path_without_query();
        let path = if self.routes_read.path || request.policy.is_some() {
            path::decode(raw_path, &self.permitted_paths).map_err(SelectError::AmbiguousPath)?
        } else {
            Cow::Borrowed("")
        };
        if let Some(name) = request.policy {
            return self.named(name).map(Question::Named).ok_or(SelectError::UnknownPolicy);
        }
        let host = if self.routes_read.host {
            route::normalize_host(http.host).ok_or(SelectError::IllegalHost)?
        } else {
            Cow::Borrowed("")
        };
        if self.routes_read.method {
            if http.method.is_empty() || !http.method.iter().all(route::is_method_byte) {
                return Err(SelectError::IllegalMethod);
            }
            if overrides_method(http) {
                return Err(SelectError::MethodOverride);
            }
        }
        Ok(Question::Routed { host, path })
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
    use crate::attributes::{Encoding, Header, Headers};
    use crate::credential::Kind;

    fn policy(name: &str, allow: Option<serde_json::Value>) -> Arc<Policy> {
        let allow = allow.map(|allow| Allow::new(&allow).unwrap());
        Arc::new(Policy::new(name.into(), allow))
    }

    fn known(actor: &serde_json::Value, policies: Option<&[&str]>) -> Arc<Known> {
        let members = actor.as_object().unwrap().clone();
        let mut known = Known::new(Kind::Token, "token-1".into(), Actor::configured(members).unwrap());
        known.policies = policies.map(|names| names.iter().map(|&name| name.into()).collect());
        Arc::new(known)
    }

    #[test]
    fn without_an_allow_block_any_actor_passes_and_nobody_anonymous() {
        let policy = policy("default", None);
        assert!(policy.admit(Some(known(&json!({}), None))).unwrap().known().is_some());
        assert_eq!(policy.admit(None).unwrap_err(), NotAdmitted::Anonymous);
    }

    #[test]
    fn a_restricted_credential_counts_under_its_own_policies_alone() {
        let open = policy("open", Some(json!(true)));
        let read = policy("read", None);
        let restricted = || Some(known(&json!({"id": "root"}), Some(&["read"])));
        assert!(read.admit(restricted()).unwrap().known().is_some());
        assert!(open.admit(restricted()).unwrap().known().is_none(), "passes as anonymous");
        assert_eq!(policy("write", None).admit(restricted()).unwrap_err(), NotAdmitted::Actor);
        let under_none = Some(known(&json!({"id": "root"}), Some(&[])));
        assert_eq!(read.admit(under_none).unwrap_err(), NotAdmitted::Actor);
    }

    #[test]
    fn only_a_policy_that_is_not_enforced_lets_pass_what_it_does_not_admit_and_nobody_is_its_actor() {
        let closed = |enforcement| Policy::new("p".into(), Some(Allow::NoOne)).with(enforcement);
        assert!(closed(Enforcement::Enforced).shadow().is_none());
        let shadow = closed(Enforcement::Shadow);
        assert!(shadow.shadow().unwrap().known().is_none());
        // What it does not admit it does not admit: passing all the same is another question.
        assert_eq!(shadow.admit(Some(known(&json!({"id": "a"}), None))).unwrap_err(), NotAdmitted::Actor);

        let shadow = Arc::new(shadow);
        let route = || Route { host: None, paths: Box::new([]), methods: None, policy: Arc::clone(&shadow) };
        let routes = vec![route(), route()];
        let default = policy("default", None);
        let policies = Policies::new(vec![Arc::clone(&shadow)], routes, default, PermittedPaths::default());
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
        };
        let policy = extension.map(str::as_bytes);
        let request = Attributes { http: Some(http.clone()), policy, misspelled_policy: None };
        match policies.select(&request, &http) {
            Ok(policy) => policy.name().to_string(),
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
        let policies = Policies::new(vec![named], routes, policy("default", None), PermittedPaths::default());

        assert_eq!(select(&policies, "GET", "h", "/a/b/c?x=/..", None), "route-1");
        assert_eq!(select(&policies, "HEAD", "h", "/a/c", None), "route-2");
        assert_eq!(select(&policies, "POST", "h", "/a/c", None), "default");
        assert_eq!(select(&policies, "POST", "h", "/a/b", Some("read")), "read");
        assert_eq!(select(&policies, "POST", "h", "/a/b", Some("default")), "UnknownPolicy");
        assert_eq!(select(&policies, "POST", "h", "/a/b", Some("")), "UnknownPolicy");
        assert_eq!(select(&policies, "get", "h", "/a/b", None), "IllegalMethod");
        assert_eq!(select(&policies, "", "h", "/a/b", None), "IllegalMethod");
        assert_eq!(select(&policies, "GET", "", "/a//b", None), "AmbiguousPath(EmptySegment)");
        for name in METHOD_OVERRIDES.into_iter().chain(["X_HTTP_Method", "x.method.override"]) {
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
            Permit::for_preflight(&Http { method: method.as_bytes(), host: b"h", path: b"/", headers })
                .is_some()
        };
        let (origin, asked) = (("origin", "https://o.example"), ("access-control-request-method", "PUT"));
        assert!(permit("OPTIONS", &[origin, asked]));
        assert!(!permit("PUT", &[origin, asked]));
        assert!(!permit("OPTIONS", &[origin]));
        assert!(!permit("OPTIONS", &[asked]));
        assert!(!permit("OPTIONS", &[("origin", ""), asked]));
        assert!(!permit("OPTIONS", &[origin, asked, ("x-http-method-override", "DELETE")]));
    }

    #[test]
    fn nothing_is_malformed_that_no_rule_reads() {
        let policies = Policies::new(
            vec![policy("p", None)],
            vec![],
            policy("default", None),
            PermittedPaths::default(),
        );
        assert_eq!(select(&policies, "get", "a@b", "*", None), "default");
        assert_eq!(select(&policies, "get", "a@b", "/a", Some("p")), "p");
        assert_eq!(select(&policies, "get", "a@b", "/a/../b", Some("nobody")), "AmbiguousPath(DotSegment)");
    }
}
