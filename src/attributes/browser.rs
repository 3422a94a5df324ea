//! Headers about the browser that sent a request: whether a person waits for a page, or a script for an answer.

use super::{Headers, Http, trim_blanks};

/// `Sec-Fetch-Mode`: why a browser sends a request (Fetch Metadata Request Headers, section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchMode {
    /// `navigate`: the answer becomes a page.
    Navigate,
    /// Any other word, none, or several: the answer goes to a script or a part of a page, and is not displayed.
    Other,
    /// There is no such header: the client is not a browser, or a browser from before 2023.
    Unsaid,
}

impl FetchMode {
    /// The mode in the headers.
    pub fn of(headers: &Headers<'_>) -> Self {
        let mut modes = headers.all("sec-fetch-mode");
        match (modes.next(), modes.next()) {
            (None, _) => Self::Unsaid,
            (Some(mode), None) if trim_blanks(mode) == b"navigate" => Self::Navigate,
            (Some(_), _) => Self::Other,
        }
    }
}

/// Whether a person waits for a page: a GET with [`FetchMode::Navigate`], or one without a mode that prefers HTML to
/// everything else.  Not for gRPC clients.
pub fn navigates(http: &Http<'_>) -> bool {
    if http.method != b"GET" || http.is_grpc() {
        return false;
    }
    match FetchMode::of(&http.headers) {
        FetchMode::Navigate => true,
        FetchMode::Other => false,
        FetchMode::Unsaid => prefers_html(&http.headers),
    }
}

/// Whether `text/html` is the first of the types with the highest weight in `Accept` (RFC 9110 section 12.5.1), as in
/// every browser's.  A script that takes anything (`*/*`) prefers nothing.
fn prefers_html(headers: &Headers<'_>) -> bool {
    let types = headers.all("accept").flat_map(|line| line.split(|&byte| byte == b','));
    let mut best: Option<(&[u8], f32)> = None;
    for one in types {
        let mut parameters = one.split(|&byte| byte == b';').map(trim_blanks);
        let name = parameters.next().unwrap_or_default();
        let weight = parameters.find_map(weight).unwrap_or(1.0);
        if weight > best.map_or(0.0, |(_, highest)| highest) {
            best = Some((name, weight));
        }
    }
    best.is_some_and(|(name, _)| name.eq_ignore_ascii_case(b"text/html"))
}

/// The weight, if this parameter is one: a number from 0 to 1.  What cannot be read is 0.
fn weight(parameter: &[u8]) -> Option<f32> {
    let [b'q' | b'Q', b'=', number @ ..] = parameter else {
        return None;
    };
    let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
    Some(number.filter(|number| (0.0..=1.0).contains(number)).unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{ClientAddress, Encoding, Header};

    const CHROMIUM: &str =
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8";

    fn asked(method: &str, headers: &[(&str, &str)], encoding: Encoding) -> bool {
        let entries =
            headers.iter().map(|(name, value)| Header { name: name.as_bytes(), value: value.as_bytes() });
        let headers = Headers::new(encoding, entries.collect());
        navigates(&Http {
            method: method.as_bytes(),
            host: b"h",
            path: b"/",
            headers,
            client: ClientAddress::UNKNOWN,
        })
    }

    #[test]
    fn who_waits_for_a_page() {
        let mode = "sec-fetch-mode";
        let cases: &[(&str, &[(&str, &str)], bool)] = &[
            ("GET", &[(mode, "navigate")], true),
            ("GET", &[(mode, " navigate ")], true),
            ("GET", &[(mode, "navigate"), ("accept", "*/*")], true),
            ("GET", &[(mode, "Navigate")], false),
            ("GET", &[(mode, "cors")], false),
            ("GET", &[(mode, "no-cors"), ("accept", CHROMIUM)], false),
            ("GET", &[(mode, "websocket"), ("upgrade", "websocket")], false),
            ("GET", &[(mode, "")], false),
            ("GET", &[(mode, "navigate,cors")], false),
            ("POST", &[(mode, "navigate")], false),
            ("HEAD", &[(mode, "navigate")], false),
            ("get", &[(mode, "navigate")], false),
            ("", &[(mode, "navigate")], false),
            ("GET", &[(mode, "navigate"), ("content-type", "application/grpc")], false),
            ("GET", &[(mode, "navigate"), ("content-type", "application/grpc+proto")], false),
            ("GET", &[("accept", CHROMIUM)], true),
            (
                "GET",
                &[("accept", "text/html, text/plain, text/css, application/xhtml+xml, */*;q=0.01")],
                true,
            ),
            ("GET", &[("accept", "TEXT/HTML")], true),
            ("GET", &[("accept", "text/html;level=1;q=0.9,application/json;q=0.8")], true),
            ("GET", &[("accept", "application/json;q=0.8, text/html;q=0.9")], true),
            ("POST", &[("accept", CHROMIUM)], false),
            ("GET", &[], false),
            ("GET", &[("accept", "")], false),
            ("GET", &[("accept", "*/*")], false),
            ("GET", &[("accept", "text/*")], false),
            ("GET", &[("accept", "*/*, text/html")], false),
            ("GET", &[("accept", "application/json, text/plain, */*")], false),
            ("GET", &[("accept", "application/json, text/html")], false),
            ("GET", &[("accept", "text/html;q=0.5, application/json")], false),
            ("GET", &[("accept", "text/html;q=0")], false),
            ("GET", &[("accept", "text/html;q=7, */*")], false),
            ("GET", &[("accept", "text/html;q=NaN")], false),
            ("GET", &[("accept", "text/htmlx")], false),
        ];
        for (method, headers, expected) in cases {
            for encoding in [Encoding::Joined, Encoding::Lines] {
                assert_eq!(asked(method, headers, encoding), *expected, "{method} {headers:?} {encoding:?}");
            }
        }
    }

    #[test]
    fn lines_of_their_own_count_together() {
        let twice: &[(&str, &str)] = &[("sec-fetch-mode", "navigate"), ("sec-fetch-mode", "navigate")];
        assert!(!asked("GET", twice, Encoding::Lines));
        let accept: &[(&str, &str)] = &[("accept", "text/html;q=0.9"), ("accept", "application/json")];
        assert!(!asked("GET", accept, Encoding::Lines));
        let accept: &[(&str, &str)] = &[("accept", "text/html"), ("accept", "application/json")];
        assert!(asked("GET", accept, Encoding::Lines));
    }
}
