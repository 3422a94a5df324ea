//! What the queries of lists have in common: names of parameters, texts, times, Go's booleans, and pages.

use std::collections::HashSet;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use jiff::Timestamp;

use super::body::{parameter, shown, unknown_name};
use super::error::{ApiError, InvalidKind};
use crate::clock::parse_time_or_day;
use crate::keys::store::source::MAX_PAGE;

/// Checks the names of the parameters of a call that Grafana does not have: a parameter that is ignored would show more
/// than was asked for.
///
/// # Errors
/// 400: a name is none of these, or appears twice.
pub(super) fn check_names(query: &str, known: &[&str]) -> Result<(), ApiError> {
    let mut seen = HashSet::new();
    for name in names(query) {
        check_name(name, known, true)?;
        if !seen.insert(name) {
            let problem = format!("`{name}` appears twice");
            return Err(ApiError::invalid(InvalidKind::Parameter, "parameter", problem));
        }
    }
    Ok(())
}

/// The same for a call that Grafana has: parameters that are not known are ignored, as there, but not one that is nearly a
/// known one.
///
/// # Errors
/// 400: a name resembles one of these.
pub(super) fn check_names_as_grafana(query: &str, known: &[&str]) -> Result<(), ApiError> {
    names(query).try_for_each(|name| check_name(name, known, false))
}

/// The query of a call that has no parameters.  As an extractor it denies one with 400.
pub(super) struct NoParameters;

impl<S: Sync> FromRequestParts<S> for NoParameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match names(parts.uri.query().unwrap_or_default()).next() {
            None => Ok(Self),
            Some(name) => {
                let problem = format!("`{}`: this call has no parameters", shown(name));
                Err(ApiError::invalid(InvalidKind::Parameter, "unknown parameter", problem))
            }
        }
    }
}

fn check_name(name: &str, known: &[&str], is_strict: bool) -> Result<(), ApiError> {
    if known.contains(&name) {
        return Ok(());
    }
    match unknown_name(name, known, is_strict) {
        None => Ok(()),
        Some(problem) => Err(ApiError::invalid(InvalidKind::Parameter, "unknown parameter", problem)),
    }
}

/// The names of the parameters of a query, as they are written.
fn names(query: &str) -> impl Iterator<Item = &str> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name))
}

/// The instant of a parameter: a time, or a day, which begins at midnight UTC.
///
/// # Errors
/// 400.
pub(super) fn time(query: &str, name: &'static str) -> Result<Option<Timestamp>, ApiError> {
    text(query, name).map(|text| parse_time(&text, name)).transpose()
}

/// An instant: a time of RFC 3339, or a day, which begins at midnight UTC.  `field` is the name of what has it.
///
/// # Errors
/// 400.
pub(super) fn parse_time(text: &str, field: &'static str) -> Result<Timestamp, ApiError> {
    let problem = "expected a time such as 2026-11-30T08:00:00Z (RFC 3339), or a day such as 2026-11-30, which \
                   begins at midnight UTC";
    parse_time_or_day(text).ok_or_else(|| ApiError::invalid(InvalidKind::Time, field, problem))
}

/// The text of a parameter; an empty one counts as missing.
pub(super) fn text(query: &str, name: &str) -> Option<String> {
    parameter(query, name).filter(|text| !text.is_empty())
}

/// Whether a parameter has one of the values that Go's ParseBool takes for true, as Grafana reads it.
pub(super) fn flag(query: &str, name: &str) -> bool {
    parameter(query, name).is_some_and(|value| matches!(&*value, "1" | "t" | "T" | "true" | "True" | "TRUE"))
}

/// A page of a list: which one, from 1 on, and how much it holds at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// Which of the pages.
    pub number: u64,
    /// The size of a page; `None` if it is missing.
    pub size: Option<u32>,
}

impl Page {
    /// The page of a query.
    ///
    /// # Errors
    /// 400: `page` is no number above zero, or `perpage` is no size of a page; `without` says what it is when `perpage` is
    /// missing.
    pub fn parse(query: &str, without: &str) -> Result<Self, ApiError> {
        let number = match (text(query, "page"), positive(query, "page")) {
            (None, _) => 1,
            (Some(_), Some(number)) => number,
            (Some(_), None) => {
                let problem = "expected the number of a page, 1 or more";
                return Err(ApiError::invalid(InvalidKind::Parameter, "page", problem));
            }
        };
        Ok(Self { number, size: Self::parse_size(query, without)? })
    }

    fn parse_size(query: &str, without: &str) -> Result<Option<u32>, ApiError> {
        let size = text(query, "perpage").map(|size| {
            size.parse::<u32>().ok().filter(|&size| size > 0 && size as usize <= MAX_PAGE).ok_or_else(|| {
                let problem = format!("expected 1 to {MAX_PAGE}{without}");
                ApiError::invalid(InvalidKind::PerPage, "perpage", problem)
            })
        });
        size.transpose()
    }

    /// The same, where Grafana has the call too: a `page` or `perpage` that is no number above zero counts as missing, as
    /// there.
    ///
    /// # Errors
    /// 400: `perpage` is more than a page holds.
    pub fn parse_as_grafana(query: &str) -> Result<Self, ApiError> {
        let number = positive(query, "page").unwrap_or(1);
        match positive(query, "perpage") {
            None => Ok(Self { number, size: None }),
            Some(_) => Ok(Self { number, size: Self::parse_size(query, "")? }),
        }
    }

    /// The size of a page; if it is missing, the maximum.
    pub fn size(self) -> u32 {
        self.size.unwrap_or(MAX_PAGE as u32)
    }

    /// How many come before this page.
    pub fn offset(self) -> u64 {
        self.number.saturating_sub(1).saturating_mul(self.size().into())
    }
}

/// The number of a parameter; `None` where there is none above zero.
fn positive(query: &str, name: &str) -> Option<u64> {
    parameter(query, name).and_then(|value| value.parse().ok()).filter(|&number| number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_a_range_of_the_list() {
        for (query, number, size, offset) in [
            ("", 1, None, 0),
            ("perpage=100", 1, Some(100), 0),
            ("perpage=100&page=3", 3, Some(100), 200),
            ("page=3", 3, None, 2000),
            ("perpage=10&page=3", 3, Some(10), 20),
            ("page=18446744073709551615", u64::MAX, None, u64::MAX),
            ("perpage=&page=", 1, None, 0),
            ("perpage=1000", 1, Some(1000), 0),
            ("perpage=2&page=18446744073709551615", u64::MAX, Some(2), u64::MAX),
        ] {
            let page = Page::parse(query, "").unwrap();
            assert_eq!((page, page.offset()), (Page { number, size }, offset), "{query}");
        }
        for query in ["perpage=1001", "perpage=18446744073709551616", "perpage=0", "perpage=-1", "perpage=x"]
        {
            assert_eq!(Page::parse(query, "").unwrap_err().reason(), "invalid_perpage", "{query}");
        }
        for query in ["page=0", "page=-1", "page=x", "page=18446744073709551616"] {
            let error = Page::parse(query, "").unwrap_err();
            assert_eq!((error.reason(), error.field()), ("invalid_parameter", Some("page")), "{query}");
        }
        for query in ["perpage=0&page=0", "perpage=x&page=-1", "perpage=18446744073709551616"] {
            assert_eq!(Page::parse_as_grafana(query).unwrap(), Page { number: 1, size: None }, "{query}");
        }
        let page = Page::parse_as_grafana("perpage=10&page=3").unwrap();
        assert_eq!((page, page.offset()), (Page { number: 3, size: Some(10) }, 20));
        assert_eq!(Page::parse_as_grafana("perpage=1001").unwrap_err().reason(), "invalid_perpage");
    }

    #[test]
    fn a_parameter_of_another_name_is_an_error_or_ignored_unless_it_is_nearly_known() {
        let known = ["action", "account", "perpage"];
        let strict = |query| check_names(query, &known).map_err(|error| error.problem());
        let as_grafana = |query| check_names_as_grafana(query, &known).map_err(|error| error.problem());
        for query in ["", "&", "action=a&account", "perpage=1&&account=x=y"] {
            assert_eq!((strict(query), as_grafana(query)), (Ok(()), Ok(())), "{query}");
        }
        for (query, near) in [
            ("acount=x", Some("account")),
            ("action=a&perPage=1", Some("perpage")),
            ("actions", Some("action")),
            ("accesscontrol=true", None),
            ("_=1", None),
            ("a%63tion=a", None),
        ] {
            let lenient = near.map_or(Ok(()), |near| Err(format!("did you mean `{near}`?")));
            let all = strict(query).unwrap_err().unwrap();
            assert!(all.contains("is none of action, account, perpage"), "{query}: {all}");
            match (as_grafana(query), lenient) {
                (Ok(()), Ok(())) => {}
                (Err(Some(problem)), Err(expected)) => {
                    assert!(problem.ends_with(&expected) && all.ends_with(&expected), "{query}: {problem}");
                }
                (found, expected) => panic!("{query}: {found:?}, not {expected:?}"),
            }
        }
        let twice = strict("action=a&action=b");
        assert_eq!(
            (twice, as_grafana("action=a&action=b")),
            (Err(Some("`action` appears twice".into())), Ok(()))
        );
    }

    #[test]
    fn booleans_are_those_of_go() {
        for (query, expected) in
            [("a=1", true), ("a=True", true), ("a=0", false), ("a=yes", false), ("", false)]
        {
            assert_eq!(flag(query, "a"), expected, "{query}");
        }
    }
}
