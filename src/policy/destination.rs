//! The target of COPY and MOVE (RFC 4918 section 10.3).

use crate::attributes::{Encoding, Http, trim_blanks};

/// A method whose request has a second resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Copy,
    Move,
}

impl Operation {
    /// `None` for the other methods.  Servers such as Radicale ignore the case of methods.
    pub(super) fn of(method: &[u8]) -> Option<Self> {
        match method.len() {
            4 if method.eq_ignore_ascii_case(b"COPY") => Some(Self::Copy),
            4 if method.eq_ignore_ascii_case(b"MOVE") => Some(Self::Move),
            _ => None,
        }
    }
}

/// The target of a copy or a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// The host with its port, where the header names one.
    pub(super) host: Option<&'a [u8]>,
    /// The path, undecoded and without its query.
    pub(super) path: &'a [u8],
}

/// Reads the header `destination`: an absolute URI or an absolute path, once.
pub(super) fn target<'a>(http: &Http<'a>) -> Option<Target<'a>> {
    let mut values = http.headers.all("destination");
    let (value, None) = (trim_blanks(values.next()?), values.next()) else {
        return None;
    };
    // In a map a comma may be between two headers.
    if http.headers.encoding() == Encoding::Joined && value.contains(&b',') {
        return None;
    }
    let end = value.iter().position(|&byte| byte == b'?').unwrap_or(value.len());
    let value = &value[..end];
    if value.starts_with(b"/") {
        // Two slashes begin with a host (RFC 3986 section 4.2).
        return (!value.starts_with(b"//")).then_some(Target { host: None, path: value });
    }
    let rest = [&b"http://"[..], b"https://"].into_iter().find_map(|scheme| {
        let (head, rest) = value.split_at_checked(scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then_some(rest)
    })?;
    let slash = rest.iter().position(|&byte| byte == b'/')?;
    let (host, path) = rest.split_at(slash);
    (!host.is_empty()).then_some(Target { host: Some(host), path })
}
