//! Other spellings of a route's path, and the policies that govern them.
//!
//! An upstream may take `/admin/`, `/ADMIN` or `/admin.json` for `/admin`.  A path that a route closes must not be open
//! under a spelling that falls through to another policy: `check` warns of it.

use std::sync::Arc;

use super::{Policies, Policy, Route, path};

/// How another spelling differs from a route's own path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// `/admin/` for `/admin`, or the other way round.
    Slash,
    /// `/ADMIN` for `/admin`.
    Case,
    /// `/admin.json` for `/admin`.
    Suffix,
    /// `//admin`, where `paths.permit` has `empty_segment`.
    EmptySegment,
    /// `/%2fadmin`, where `paths.permit` has `encoded_slash`.
    EncodedSlash,
    /// `/admin;x`, where `paths.permit` has `parameters`.
    Parameters,
    /// `/admin%3fx`, where `paths.permit` has `encoded_delimiter`.
    EncodedDelimiter,
}

impl Spelling {
    const ALL: [Self; 7] = [
        Self::Slash,
        Self::Case,
        Self::Suffix,
        Self::EmptySegment,
        Self::EncodedSlash,
        Self::Parameters,
        Self::EncodedDelimiter,
    ];

    /// In words, for "…, this path falls to …".
    pub fn as_words(self) -> &'static str {
        match self {
            Self::Slash => "with a slash at its end more or less",
            Self::Case => "in another case",
            Self::Suffix => "with a file suffix",
            Self::EmptySegment => "with an empty segment",
            Self::EncodedSlash => "with an encoded slash",
            Self::Parameters => "with a parameter",
            Self::EncodedDelimiter => "with an encoded delimiter",
        }
    }

    /// The undecoded path in this spelling; `None` if the path does not have it.
    fn of(self, path: &str) -> Option<String> {
        let shorter = path::without_trailing_slash(path);
        let is_root = path == "/";
        match self {
            Self::Slash if is_root => None,
            Self::Slash if shorter.len() < path.len() => Some(shorter.to_owned()),
            Self::Slash => Some(format!("{path}/")),
            Self::Case => {
                let upper = path.to_ascii_uppercase();
                Some(if upper == path { path.to_ascii_lowercase() } else { upper })
            }
            Self::Suffix => {
                let name = shorter.rsplit('/').next().unwrap_or_default();
                (!is_root && !name.contains('.')).then(|| format!("{shorter}.json"))
            }
            Self::EmptySegment => Some(format!("/{path}")),
            Self::EncodedSlash => Some(format!("/%2f{}", path.trim_start_matches('/'))),
            Self::Parameters => Some(format!("{path};x")),
            Self::EncodedDelimiter => Some(format!("{path}%3fx")),
        }
    }
}

impl Policies {
    /// The other spellings of the route's path that the route does not govern and no route names, each with the
    /// policies that must all admit a request for it.  Spellings that are denied as ambiguous are left out.
    pub fn other_spellings(&self, route: &Route) -> Vec<(Spelling, Vec<&Arc<Policy>>)> {
        let Some(example) = route.example() else {
            return Vec::new();
        };
        let (host, method) = (example.host.as_str(), example.method.as_bytes());
        let Ok(own) = path::read(example.path.as_bytes(), &self.options.paths) else {
            return Vec::new();
        };
        let is_governed =
            |policies: &super::Selected<'_>| policies.iter().any(|policy| Arc::ptr_eq(policy, &route.policy));
        if !self.select_unambiguous(host, &own, method, &mut ()).is_ok_and(|selected| is_governed(&selected))
        {
            return Vec::new();
        }
        let falls_through = |spelling: Spelling| {
            let other = spelling.of(&example.path)?;
            let other = path::read(other.as_bytes(), &self.options.paths).ok()?;
            if other.text == own.text {
                return None;
            }
            let matching = self.routes.iter().find(|route| route.matches(host, &other.text, method));
            if matching.is_some_and(|route| route.is_exactly(&other.text)) {
                return None;
            }
            let selected = self.select_unambiguous(host, &other, method, &mut ()).ok()?;
            (!is_governed(&selected)).then(|| (spelling, selected.iter().collect()))
        };
        Spelling::ALL.into_iter().filter_map(falls_through).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Allow, HostPattern, MatchOptions, MethodPattern, PathPattern, PermittedPaths};
    use Spelling::*;

    fn route(pattern: &str) -> Route {
        let (kind, text) = pattern.split_once(' ').unwrap();
        let path = match kind {
            "path" => PathPattern::exact(text),
            "prefix" => PathPattern::prefix(text),
            _ => PathPattern::regex(text),
        };
        let policy = Policy::new(pattern.into(), Some(Allow::NoOne));
        Route { host: None, paths: [path.unwrap()].into(), methods: None, policy: Arc::new(policy) }
    }

    fn others(routes: &[Route], options: MatchOptions) -> Vec<Spelling> {
        let default = Arc::new(Policy::new("default".into(), None));
        let policies = Policies::new(vec![], routes.to_vec(), default, options);
        policies.other_spellings(&routes[0]).into_iter().map(|(spelling, _)| spelling).collect()
    }

    #[test]
    fn spellings_that_fall_through() {
        let cases: &[(&[&str], &[Spelling])] = &[
            (&["path /admin"], &[Case, Suffix]),
            (&["path /admin/"], &[Case, Suffix]),
            (&["path /ADMIN"], &[Case, Suffix]),
            (&["path /2026"], &[Suffix]),
            (&["path /admin.json"], &[Case]),
            (&["path /a.b/admin"], &[Case, Suffix]),
            (&["path /%61"], &[Case, Suffix]),
            (&["path /"], &[]),
            (&["prefix /"], &[]),
            (&["prefix /admin"], &[Case, Suffix]),
            (&["prefix /admin/"], &[Case, Suffix]),
            (&["regex /admin"], &[Slash, Case, Suffix]),
            (&["regex /admin/.*"], &[Slash, Case, Suffix]),
            (&["regex (?i)/admin(/.*)?"], &[Suffix]),
            (&[r"regex (?i)/admin(\.\w+)?/?"], &[]),
            (&[r"regex /reports/\d{4}\.csv"], &[Slash, Case]),
            (&["regex /(a|b)[xyz]{2}(é|ü)"], &[Slash, Case, Suffix]),
            // Named by a route, whatever that admits.
            (&["path /admin", "path /ADMIN"], &[Suffix]),
            (&["path /admin", "path /admin/", "path /admin.json"], &[Case]),
            // No request reaches it.
            (&["path /a//b"], &[]),
            (&["path /a;b"], &[]),
        ];
        for (patterns, expected) in cases {
            let routes: Vec<Route> = patterns.iter().map(|pattern| route(pattern)).collect();
            assert_eq!(others(&routes, MatchOptions::default()), *expected, "{patterns:?}");
        }
    }

    #[test]
    fn an_earlier_route_may_govern_another_spelling() {
        let routes = [route("path /admin"), route("regex /admin/.*")];
        assert_eq!(others(&routes, MatchOptions::default()), [Case, Suffix], "both must admit");
        let default = Arc::new(Policy::new("default".into(), None));
        let routes = vec![route("regex /admin/.*"), route("path /admin")];
        let policies = Policies::new(vec![], routes.clone(), default, MatchOptions::default());
        let found = policies.other_spellings(&routes[1]);
        assert_eq!(found.iter().map(|(spelling, _)| *spelling).collect::<Vec<_>>(), [Slash, Case, Suffix]);
        assert_eq!(found[0].1[0].name().as_ref(), "regex /admin/.*");
    }

    #[test]
    fn what_is_ignored_or_ambiguous_does_not_fall_through() {
        let routes = [route("path /admin")];
        let ignore_case = MatchOptions { ignore_case: true, ..MatchOptions::default() };
        assert_eq!(others(&routes, ignore_case), [Suffix]);
        let all = PermittedPaths {
            empty_segment: true,
            encoded_slash: true,
            parameters: true,
            encoded_delimiter: true,
        };
        let permit_all = MatchOptions { paths: all, ..MatchOptions::default() };
        assert_eq!(others(&routes, permit_all), [Case, Suffix], "each other spelling is denied");
        assert_eq!(others(&[route("prefix /admin")], permit_all), [Case, Suffix]);
        // No reading of these is the expression's, so that nothing denies them.
        assert_eq!(others(&[route("regex /admin")], permit_all), [Slash, Case, Suffix]);
    }

    #[test]
    fn an_example_has_the_routes_host_and_method() {
        let mut of_host = route("path /admin");
        of_host.host = Some(HostPattern::parse("*.example").unwrap());
        of_host.methods = Some([MethodPattern::parse("DELETE").unwrap()].into());
        assert_eq!(others(&[of_host.clone()], MatchOptions::default()), [Case, Suffix]);
        let example = of_host.example().unwrap();
        assert_eq!((example.host.as_str(), example.method.as_str()), ("x.example", "DELETE"));
    }
}
