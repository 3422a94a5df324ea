//! From the bytes of a CheckRequest to [`Attributes`], which borrow from them.
//!
//! The numbers below are those of `proto/ext_authz.proto`, which is the slice of Envoy's protocol that
//! a decision reads; the other fields are skipped.

use super::protobuf::{FieldIter, Malformed};
use crate::attributes::{Attributes, ClientAddress, Encoding, Header, Headers, Http};

/// Headers that a request usually has: the vector starts with this capacity.
const INITIAL_HEADERS: usize = 24;
/// The maximum number of headers of one request.  Envoy itself denies requests with more than 100 of them unless it is
/// configured otherwise (`max_headers_count`); a message of only empty headers must not take a hundred times its size.
const MAX_HEADERS: usize = 16 * 1024;

/// Decodes a message.  A CheckRequest without attributes is one without a request.
///
/// A repeated field is merged as protobuf defines: the last scalar is used, lists grow.
///
/// # Errors
/// The bytes are not a protobuf message of this shape, or it has more than 16,384 headers.  Text that is not UTF-8 is
/// no error.
pub fn decode(message: &[u8]) -> Result<Attributes<'_>, Malformed> {
    let mut request = RequestFields::default();
    each(message, |number, bytes| match number {
        1 => request.read_attributes(bytes?),
        _ => Ok(()),
    })?;
    Ok(request.finish())
}

/// A CheckRequest, as far as it has been read.
#[derive(Default)]
struct RequestFields<'m> {
    policy: Option<&'m [u8]>,
    misspelled_policy: Option<&'m [u8]>,
    client: ClientAddress<'m>,
    http: Option<HttpRequest<'m>>,
}

#[derive(Default)]
struct HttpRequest<'m> {
    method: &'m [u8],
    host: &'m [u8],
    path: &'m [u8],
    /// `headers`, a map.
    joined: Vec<Header<'m>>,
    /// `header_map`, a list.
    lines: Vec<Header<'m>>,
}

/// The bytes of a field, or an error if the field has another type.
type FieldBytes<'m> = Result<&'m [u8], Malformed>;

/// Calls the reader with every field of a message.
#[inline]
fn each<'m>(
    message: &'m [u8],
    mut read: impl FnMut(u32, FieldBytes<'m>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    FieldIter::new(message).try_for_each(|field| {
        let field = field?;
        read(field.number, field.bytes())
    })
}

impl<'m> RequestFields<'m> {
    /// `envoy.service.auth.v3.AttributeContext`
    fn read_attributes(&mut self, message: &'m [u8]) -> Result<(), Malformed> {
        each(message, |number, bytes| match number {
            1 => self.read_source(bytes?),
            4 => self.read_request(bytes?),
            10 => self.read_extension(bytes?),
            _ => Ok(()),
        })
    }

    /// `envoy.service.auth.v3.AttributeContext.Request`
    fn read_request(&mut self, message: &'m [u8]) -> Result<(), Malformed> {
        each(message, |number, bytes| match number {
            2 => self.http.get_or_insert_default().read(bytes?),
            _ => Ok(()),
        })
    }

    /// `envoy.service.auth.v3.AttributeContext.Peer`: the address in its field 1 (`envoy.config.core.v3.Address`), whose
    /// `socket_address` (1) has it as text in `address` (2).
    fn read_source(&mut self, message: &'m [u8]) -> Result<(), Malformed> {
        each(message, |number, address| match number {
            1 => each(address?, |number, socket| match number {
                1 => each(socket?, |number, text| {
                    if number == 2 {
                        self.client = ClientAddress::new(text?);
                    }
                    Ok(())
                }),
                _ => Ok(()),
            }),
            _ => Ok(()),
        })
    }

    /// An entry of `context_extensions`: the last of several entries with the same key is used.
    fn read_extension(&mut self, message: &'m [u8]) -> Result<(), Malformed> {
        let entry = read_entry(message)?;
        if entry.name == b"policy" {
            self.policy = Some(entry.value);
        } else if is_nearly_policy(entry.name) {
            self.misspelled_policy = Some(entry.name);
        }
        Ok(())
    }

    fn finish(self) -> Attributes<'m> {
        Attributes {
            http: self.http.map(|http| http.finish(self.client)),
            policy: self.policy,
            misspelled_policy: self.misspelled_policy,
        }
    }
}

impl<'m> HttpRequest<'m> {
    /// `envoy.service.auth.v3.AttributeContext.HttpRequest`
    fn read(&mut self, message: &'m [u8]) -> Result<(), Malformed> {
        each(message, |number, bytes| {
            match number {
                2 => self.method = bytes?,
                3 => push(&mut self.joined, read_entry(bytes?)?)?,
                4 => self.path = bytes?,
                5 => self.host = bytes?,
                13 => self.read_header_map(bytes?)?,
                _ => {}
            }
            Ok(())
        })
    }

    /// `envoy.config.core.v3.HeaderMap`
    fn read_header_map(&mut self, message: &'m [u8]) -> Result<(), Malformed> {
        each(message, |number, bytes| match number {
            1 => push(&mut self.lines, read_raw_header(bytes?)?),
            _ => Ok(()),
        })
    }

    /// Envoy fills one of the two: `header_map` when `encode_raw_headers` is on, `headers` otherwise.
    fn finish(self, client: ClientAddress<'m>) -> Http<'m> {
        let headers = if self.lines.is_empty() {
            Headers::new(Encoding::Joined, self.joined)
        } else {
            Headers::new(Encoding::Lines, self.lines)
        };
        Http { method: self.method, host: self.host, path: self.path, headers, client }
    }
}

/// Whether a key of `context_extensions` is not `policy` but was meant to be: it differs in case, or by one
/// character more, less, other, or exchanged with its neighbour.
pub fn is_nearly_policy(key: &[u8]) -> bool {
    const MEANT: [char; 6] = ['p', 'o', 'l', 'i', 'c', 'y'];
    // Five to seven characters of four bytes at most.
    if key == b"policy" || !(5..=28).contains(&key.len()) {
        return false;
    }
    let key = String::from_utf8_lossy(key).to_lowercase();
    let key: Vec<char> = key.chars().collect();
    // Strips the common prefix and suffix.
    let head = key.iter().zip(&MEANT).take_while(|(a, b)| a == b).count();
    let (key, meant) = (&key[head..], &MEANT[head..]);
    let tail = key.iter().rev().zip(meant.iter().rev()).take_while(|(a, b)| a == b).count();
    match (&key[..key.len() - tail], &meant[..meant.len() - tail]) {
        ([] | [_], [] | [_]) => true,
        ([a, b], [c, d]) => (a, b) == (d, c),
        _ => false,
    }
}

fn push<'m>(headers: &mut Vec<Header<'m>>, header: Header<'m>) -> Result<(), Malformed> {
    match headers.len() {
        0 => headers.reserve(INITIAL_HEADERS),
        MAX_HEADERS => return Err(Malformed),
        _ => {}
    }
    headers.push(header);
    Ok(())
}

/// An entry of a `map<string, string>`.
fn read_entry(message: &[u8]) -> Result<Header<'_>, Malformed> {
    if let Some(entry) = read_short_entry(message, 2) {
        return Ok(entry);
    }
    let mut entry = Header { name: b"", value: b"" };
    each(message, |number, bytes| {
        match number {
            1 => entry.name = bytes?,
            2 => entry.value = bytes?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(entry)
}

/// `envoy.config.core.v3.HeaderValue`: Envoy fills `raw_value` in a request, and leaves `value` empty.
fn read_raw_header(message: &[u8]) -> Result<Header<'_>, Malformed> {
    if let Some(header) = read_short_entry(message, 3) {
        return Ok(header);
    }
    let (mut header, mut raw): (_, &[u8]) = (Header { name: b"", value: b"" }, b"");
    each(message, |number, bytes| {
        match number {
            1 => header.name = bytes?,
            2 => header.value = bytes?,
            3 => raw = bytes?,
            _ => {}
        }
        Ok(())
    })?;
    if !raw.is_empty() {
        header.value = raw;
    }
    Ok(header)
}

/// A short name and a short value, one after the other and nothing else, as nearly all are.
fn read_short_entry(message: &[u8], value_number: u32) -> Option<Header<'_>> {
    let mut fields = FieldIter::new(message);
    let (name, value) = (fields.short_text(1)?, fields.short_text(value_number)?);
    fields.is_empty().then_some(Header { name, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_keys_were_meant_to_be_policy() {
        let nearly = [
            "Policy",
            "POLICY",
            "pOLICY",
            "polciy",
            "oplicy",
            "poliyc",
            "plicy",
            "olicy",
            "polic",
            "policyy",
            "ppolicy",
            "policy_",
            "-policy",
            "policy ",
            "polícy",
            "рolicy",
            "p\u{200b}olicy",
            "pollicy",
            "palicy",
            "Polciy",
            "POLICIY",
        ];
        for key in nearly {
            assert!(is_nearly_policy(key.as_bytes()), "{key:?}");
        }
        let apart = [
            "",
            "policy",
            "policies",
            "poli",
            "police_",
            "name",
            "polyci",
            "ycilop",
            "my-policy",
            "policy.name",
            "plciy_",
            "virtual_host",
            "pol",
            "policypolicy",
        ];
        for key in apart {
            assert!(!is_nearly_policy(key.as_bytes()), "{key:?}");
        }
        assert!(is_nearly_policy(b"p\xfflicy"));
    }
}
