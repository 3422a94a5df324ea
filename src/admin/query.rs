//! What the queries of lists have in common: texts, Go's booleans, and pages.

use super::body::parameter;
use super::error::{ApiError, InvalidKind};
use crate::keys::store::source::MAX_PAGE;

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
    /// The page of a query.  A `page` that is not a number above zero counts as missing.
    ///
    /// # Errors
    /// 400: `perpage` is no size of a page; `without` says what it is when `perpage` is missing.
    pub fn parse(query: &str, without: &str) -> Result<Self, ApiError> {
        let size = text(query, "perpage").map(|size| {
            size.parse::<u32>().ok().filter(|&size| size > 0 && size as usize <= MAX_PAGE).ok_or_else(|| {
                let problem = format!("expected 1 to {MAX_PAGE}{without}");
                ApiError::invalid(InvalidKind::PerPage, "perpage", problem)
            })
        });
        Ok(Self { number: positive(query, "page").unwrap_or(1), size: size.transpose()? })
    }

    /// The same, where Grafana has the call too: a `perpage` that is no number above zero counts as missing, as there.
    ///
    /// # Errors
    /// 400: `perpage` is more than a page holds.
    pub fn parse_as_grafana(query: &str) -> Result<Self, ApiError> {
        match positive(query, "perpage") {
            None => Ok(Self { number: positive(query, "page").unwrap_or(1), size: None }),
            Some(_) => Self::parse(query, ""),
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
            ("perpage=&page=0", 1, None, 0),
            ("page=-1", 1, None, 0),
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
        for query in ["perpage=0&page=0", "perpage=x&page=-1", "perpage=18446744073709551616"] {
            assert_eq!(Page::parse_as_grafana(query).unwrap(), Page { number: 1, size: None }, "{query}");
        }
        let page = Page::parse_as_grafana("perpage=10&page=3").unwrap();
        assert_eq!((page, page.offset()), (Page { number: 3, size: Some(10) }, 20));
        assert_eq!(Page::parse_as_grafana("perpage=1001").unwrap_err().reason(), "invalid_perpage");
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
