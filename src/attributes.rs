//! The attributes of a request, as Envoy reports them: everything that rules read.
//!
//! An [`Attributes`] borrows everything from the message it was decoded from.
//! Client text is bytes: it becomes text only where a rule reads it.
//!
//! Any of it may be a credential, so the `Debug` of these types shows names and lengths alone.

pub mod browser;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

/// The part of Envoy's `AttributeContext` that a decision reads
/// (`envoy.service.auth.v3.AttributeContext`).
#[derive(Clone)]
pub struct Attributes<'a> {
    /// `request.http`; absent when the TCP filter (`envoy.filters.network.ext_authz`) asks.
    pub http: Option<Http<'a>>,
    /// `context_extensions["policy"]`: set per route by the operator, out of the client's reach.
    pub policy: Option<&'a [u8]>,
    /// A key of `context_extensions` that is nearly `policy`: a misspelling by the operator.
    pub misspelled_policy: Option<&'a [u8]>,
}

impl fmt::Debug for Attributes<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Operators write them; no client can.
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        formatter
            .debug_struct("Attributes")
            .field("http", &self.http)
            .field("policy", &self.policy.map(text))
            .field("misspelled_policy", &self.misspelled_policy.map(text))
            .finish()
    }
}

/// `AttributeContext.Request.http`.
#[derive(Clone)]
pub struct Http<'a> {
    /// `method`, as sent.
    pub method: &'a [u8],
    /// `host`: the `:authority`, case and port preserved.
    pub host: &'a [u8],
    /// `path`: the `:path` with its query, undecoded.  Envoy leaves `query` empty.
    pub path: &'a [u8],
    /// The request's headers.
    pub headers: Headers<'a>,
    /// Who sent it.
    pub client: ClientAddress<'a>,
}

/// The address of a client as text, as the request reports it: from Envoy, the peer of the connection
/// (`source.address.socket_address.address`).  It is logged; no decision reads it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientAddress<'a>(&'a [u8]);

impl<'a> ClientAddress<'a> {
    /// Not reported.
    pub const UNKNOWN: Self = Self(b"");

    /// The address of this text.
    pub fn new(text: &'a [u8]) -> Self {
        Self(text)
    }

    /// The text; empty when it is not known.
    pub fn text(&self) -> &'a [u8] {
        self.0
    }

    /// The address; `None` when it is not known, or is not an IP address.
    pub fn ip(&self) -> Option<IpAddr> {
        let address: IpAddr = std::str::from_utf8(self.0).ok()?.parse().ok()?;
        Some(address.to_canonical())
    }
}

impl fmt::Debug for Http<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Http")
            .field("method", &Length(self.method))
            .field("host", &Length(self.host))
            .field("path", &Length(self.path))
            .field("headers", &self.headers)
            .finish()
    }
}

/// Bytes that `Debug` shows only by their number.
struct Length<'a>(&'a [u8]);

impl fmt::Debug for Length<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

impl<'a> Http<'a> {
    /// The path without its query.
    pub fn path_without_query(&self) -> &'a [u8] {
        match self.path.iter().position(|&byte| byte == b'?') {
            Some(mark) => &self.path[..mark],
            None => self.path,
        }
    }

    /// The part after the first `?` of the path; `None` without one.
    pub fn query(&self) -> Option<&'a [u8]> {
        let mark = self.path.iter().position(|&byte| byte == b'?')?;
        Some(&self.path[mark + 1..])
    }

    /// Whether a gRPC client sent it.  gRPC-Web is HTTP for browsers.
    pub fn is_grpc(&self) -> bool {
        let content_type = self.headers.first("content-type").unwrap_or_default();
        let begins_with = |prefix: &[u8]| {
            content_type.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
        };
        begins_with(b"application/grpc") && !begins_with(b"application/grpc-web")
    }
}

/// One header: its name as sent and its value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name.  Envoy sends it in lower case; comparisons ignore ASCII case all the same.
    pub name: &'a [u8],
    /// The value, bytes as Envoy handed them over.
    pub value: &'a [u8],
}

impl fmt::Debug for Header<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {:?}", self.name.escape_ascii(), Length(self.value))
    }
}

/// How Envoy encoded the headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `headers`, a map: one entry per name, repeated lines joined with `,`, bad UTF-8 replaced by `!`.
    Joined,
    /// `header_map` (`encode_raw_headers`): one entry per line, bytes untouched.
    /// Envoy's codec has already joined the lines of its inline headers, `authorization` among them.
    Lines,
}

/// The headers of one request.
#[derive(Clone)]
pub struct Headers<'a> {
    encoding: Encoding,
    /// Of a map with more than [`MAX_WITHOUT_TABLE`] entries, each key once.
    entries: Vec<Header<'a>>,
    lengths: NameLengthFilter,
}

/// Up to this many entries, comparing those of one name with all that follow costs less than building a table.
/// Envoy sends no more unless it is configured to (`max_headers_count`).
const MAX_WITHOUT_TABLE: usize = 128;

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} ", self.encoding)?;
        formatter.debug_list().entries(&self.entries).finish()
    }
}

/// The lengths of some names, as bits.  A name of another length does not have to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameLengthFilter(u64);

impl NameLengthFilter {
    /// The lengths of these names.
    pub fn of<'n>(names: impl IntoIterator<Item = &'n [u8]>) -> Self {
        Self(names.into_iter().fold(0, |bits, name| bits | Self::bit(name.len())))
    }

    /// These lengths and the others.
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether none of them is among the others.
    fn is_disjoint_from(self, others: Self) -> bool {
        self.0 & others.0 == 0
    }

    /// Whether a name of this length may be among them.
    pub fn may_contain(self, length: usize) -> bool {
        self.0 & Self::bit(length) != 0
    }

    /// Longer names share bits with shorter ones, which costs at most one comparison.
    fn bit(length: usize) -> u64 {
        1 << (length % 64)
    }
}

impl<'a> Headers<'a> {
    /// Headers in the order in which they were decoded.
    pub fn new(encoding: Encoding, mut entries: Vec<Header<'a>>) -> Self {
        if encoding == Encoding::Joined && entries.len() > MAX_WITHOUT_TABLE {
            keep_last_of_each_key(&mut entries);
        }
        let lengths = NameLengthFilter::of(entries.iter().map(|header| header.name));
        Self { encoding, entries, lengths }
    }

    /// How they were encoded.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Every entry, in order.
    pub fn iter(&self) -> impl Iterator<Item = Header<'a>> + '_ {
        self.entries.iter().copied()
    }

    /// The entries whose names may have one of these lengths, in order.
    pub fn with_name_lengths(&self, lengths: NameLengthFilter) -> impl Iterator<Item = Header<'a>> + '_ {
        let none: &[Header<'a>] = &[];
        let entries = if self.lengths.is_disjoint_from(lengths) { none } else { &self.entries };
        entries.iter().copied().filter(move |header| lengths.may_contain(header.name.len()))
    }

    /// Every value of this name, in order.
    ///
    /// In a map the last entry of a key is the only one: that is what protobuf makes of a repeated key.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's {
        let entries = if self.lengths.may_contain(name.len()) { self.entries.as_slice() } else { &[] };
        // Envoy's names are in lower case, as ours are, and equal bytes are compared many at a time.
        let name = name.as_bytes();
        let named = move |header: &Header<'a>| header.name == name || header.name.eq_ignore_ascii_case(name);
        let entries = entries.iter().enumerate();
        entries
            // Most names differ in their length already, which takes an instruction or two to see.
            .filter(move |(_, header)| header.name.len() == name.len())
            .filter(move |(index, header)| named(header) && !self.is_replaced(*index))
            .map(|(_, header)| header.value)
    }

    /// The first value of this name.
    pub fn first(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// Whether the request has a header of this name, even an empty one.
    pub fn has(&self, name: &str) -> bool {
        self.lengths.may_contain(name.len())
            && self.entries.iter().any(|header| header.name.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Whether a later entry of a map has the very same key.
    fn is_replaced(&self, index: usize) -> bool {
        match self.encoding {
            Encoding::Lines => false,
            // Each key appears once.
            Encoding::Joined if self.entries.len() > MAX_WITHOUT_TABLE => false,
            Encoding::Joined => {
                let name = self.entries[index].name;
                self.entries[index + 1..].iter().any(|later| {
                    count_comparison();
                    later.name == name
                })
            }
        }
    }
}

/// Of the entries with the same key only the last one stays, at its position.
fn keep_last_of_each_key(entries: &mut Vec<Header<'_>>) {
    let mut last = HashMap::with_capacity(entries.len());
    for (index, header) in entries.iter().enumerate() {
        count_comparison();
        last.insert(header.name, index);
    }
    let mut index = 0;
    entries.retain(|header| {
        let is_last = last.get(header.name) == Some(&index);
        index += 1;
        is_last
    });
}

/// Counts the work whose amount a client could drive up; only tests and fuzzing look at it.
#[cfg(not(any(test, fuzzing)))]
#[inline(always)]
pub(crate) fn count_comparison() {}

#[cfg(any(test, fuzzing))]
pub(crate) fn count_comparison() {
    COMPARISONS.with(|count| count.set(count.get() + 1));
}

#[cfg(any(test, fuzzing))]
thread_local! {
    /// What was counted on this thread.
    pub(crate) static COMPARISONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The bytes without blanks (SP, HTAB) at either end: RFC 9110 section 5.5.
pub fn trim_blanks(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        count_comparison();
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        count_comparison();
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that differ from `authorization` in case alone, each another one, or the same over and over.
    fn variants(count: usize, distinct: bool) -> Vec<Vec<u8>> {
        let variant = |index: usize| {
            let bit = |(place, byte): (usize, u8)| {
                if index >> place & 1 == 1 { byte.to_ascii_uppercase() } else { byte }
            };
            b"authorizationauthor".iter().copied().enumerate().map(bit).take(14).collect()
        };
        (0..count).map(|index| variant(if distinct { index } else { index % 2 })).collect()
    }

    #[test]
    fn the_work_grows_with_the_number_of_headers_and_not_with_its_square() {
        for encoding in [Encoding::Joined, Encoding::Lines] {
            for distinct in [true, false] {
                let work = |count| {
                    let names = variants(count, distinct);
                    let entries = names.iter().map(|name| Header { name, value: b"v" });
                    let before = COMPARISONS.get();
                    let headers = Headers::new(encoding, entries.collect());
                    let found = headers.all("authorizationa").count();
                    let expected = match encoding {
                        Encoding::Joined if !distinct => 2,
                        Encoding::Joined | Encoding::Lines => count,
                    };
                    assert_eq!(found, expected, "{encoding:?}, {count}, {distinct}");
                    COMPARISONS.get() - before
                };
                assert!(work(16_384) <= 2 * work(8_192) + 1, "{encoding:?}, {distinct}");
                assert!(work(16_384) <= 16_384 * 4, "{encoding:?}, {distinct}");
                // The costliest map that makes no table.
                assert!(
                    work(MAX_WITHOUT_TABLE) <= MAX_WITHOUT_TABLE * MAX_WITHOUT_TABLE,
                    "{encoding:?}, {distinct}"
                );
            }
        }
    }

    #[test]
    fn of_many_entries_with_one_key_the_last_counts_as_of_few() {
        for filler in
            [0, MAX_WITHOUT_TABLE - 4, MAX_WITHOUT_TABLE - 3, MAX_WITHOUT_TABLE, 3 * MAX_WITHOUT_TABLE]
        {
            let others: Vec<_> = (0..filler).map(|index| format!("x-{index}")).collect();
            let mut entries: Vec<_> =
                others.iter().map(|name| Header { name: name.as_bytes(), value: b"f" }).collect();
            entries.insert(0, Header { name: b"a", value: b"1" });
            for (name, value) in [(b"A", b"2"), (b"a", b"3"), (b"b", b"4")] {
                entries.push(Header { name, value });
            }
            let headers = Headers::new(Encoding::Joined, entries);
            assert_eq!(headers.all("a").collect::<Vec<_>>(), [b"2", b"3"], "{filler}");
            assert_eq!(headers.all("b").collect::<Vec<_>>(), [b"4"], "{filler}");
        }
    }

    #[test]
    fn debug_shows_names_and_lengths_and_nothing_that_a_client_sent_as_a_value() {
        let secret: &[u8] = b"SECRET";
        let entries = vec![
            Header { name: b"authorization", value: secret },
            Header { name: b"cookie", value: secret },
            Header { name: b"x\n", value: secret },
        ];
        for encoding in [Encoding::Joined, Encoding::Lines] {
            let headers = Headers::new(encoding, entries.clone());
            let http = Http {
                method: secret,
                host: secret,
                path: b"/SECRET?_auth_token=SECRET",
                headers,
                client: ClientAddress::UNKNOWN,
            };
            let request =
                Attributes { http: Some(http), policy: Some(b"read"), misspelled_policy: Some(b"Policy") };
            let shown = format!("{request:?} {request:#?}");
            assert!(!shown.contains("SECRET"), "{shown}");
            for part in ["authorization: 6 bytes", "path: 26 bytes", "read", "Policy"] {
                assert!(shown.contains(part), "{part} in {shown}");
            }
        }
    }

    #[test]
    fn a_maps_key_counts_once_and_keys_of_another_case_are_others() {
        let entries = [("a", "1"), ("A", "2"), ("b", "3"), ("a", "4")];
        let entries = entries.map(|(name, value)| Header { name: name.as_bytes(), value: value.as_bytes() });
        let values = |encoding| -> Vec<_> {
            let headers = Headers::new(encoding, entries.to_vec());
            headers.all("a").map(|value| char::from(value[0])).collect()
        };
        assert_eq!(values(Encoding::Joined), ['2', '4']);
        assert_eq!(values(Encoding::Lines), ['1', '2', '4']);
    }
}
