//! The messages of LDAP that we send and read (RFC 4511, section 4).

use ldap3::asn1::{ASNTag, write as lber};
use zeroize::Zeroizing;

use super::ber::{self, BOOLEAN, ENUMERATED, Elements, INTEGER, Malformed, OCTET_STRING, SEQUENCE, SET};
use super::error::Outcome;

/// The operation of a message: the tag of its `protocolOp`.
const BIND_REQUEST: u8 = 0x60;
const SEARCH_REQUEST: u8 = 0x63;
const EXTENDED_REQUEST: u8 = 0x77;
/// The password of a simple bind.
const SIMPLE: u8 = 0x80;
/// The name of an extended operation.
const REQUEST_NAME: u8 = 0x80;
/// The operation that begins TLS (RFC 4511, section 4.14.1).
const START_TLS: &str = "1.3.6.1.4.1.1466.20037";
/// The id of the message with which a server announces that it closes the connection (RFC 4511, section 4.4).
const UNSOLICITED: u32 = 0;
/// The attribute of a search that asks for no attributes (RFC 4511, section 4.5.1.8).
pub(super) const NO_ATTRIBUTES: &str = "1.1";

/// The text is not a filter of RFC 4515.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoFilter;

/// A filter in BER.
pub(super) struct Filter(Vec<u8>);

impl Filter {
    /// The filter of a template, with this text for each `%s`: whatever it holds, it stays one value (RFC 4515,
    /// section 3).
    pub(super) fn new(template: &str, value: &str) -> Result<Self, NoFilter> {
        let text = template.replace("%s", &ldap3::ldap_escape(value));
        let filter = ldap3::parse_filter(text).map_err(|()| NoFilter)?;
        let mut bytes = bytes::BytesMut::new();
        lber::encode_into(&mut bytes, filter.into_structure()).map_err(|_| NoFilter)?;
        Ok(Self(bytes.to_vec()))
    }
}

/// The scope of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The entry `base` alone.
    Base,
    /// The entry and all that are below it.
    Subtree,
}

/// A search.
pub(super) struct Search<'s> {
    pub(super) base: &'s str,
    pub(super) scope: Scope,
    pub(super) filter: &'s Filter,
    pub(super) attributes: &'s [&'s str],
    /// The size limit.
    pub(super) size_limit: u32,
    /// For how long the server may search, in seconds.
    pub(super) time_limit: u32,
}

/// A simple bind (RFC 4511, section 4.2), as the bytes of its message.
pub(super) fn bind(id: u32, dn: &str, password: &str) -> Zeroizing<Vec<u8>> {
    // Capacity for the whole message, so that no copy of the password stays behind in memory.
    let mut content = Zeroizing::new(Vec::with_capacity(dn.len() + password.len() + 32));
    ber::write_number(&mut content, INTEGER, 3);
    ber::write(&mut content, OCTET_STRING, dn.as_bytes());
    ber::write(&mut content, SIMPLE, password.as_bytes());
    message(id, BIND_REQUEST, &content)
}

/// A search (RFC 4511, section 4.5.1).  Aliases are not dereferenced.
pub(super) fn search(id: u32, search: &Search<'_>) -> Zeroizing<Vec<u8>> {
    const NEVER_DEREFERENCE: u32 = 0;
    let scope = match search.scope {
        Scope::Base => 0,
        Scope::Subtree => 2,
    };
    let mut attributes = Vec::new();
    for attribute in search.attributes {
        ber::write(&mut attributes, OCTET_STRING, attribute.as_bytes());
    }
    let mut content = Vec::new();
    ber::write(&mut content, OCTET_STRING, search.base.as_bytes());
    ber::write_number(&mut content, ENUMERATED, scope);
    ber::write_number(&mut content, ENUMERATED, NEVER_DEREFERENCE);
    ber::write_number(&mut content, INTEGER, search.size_limit);
    ber::write_number(&mut content, INTEGER, search.time_limit);
    // Values as well as types.
    ber::write(&mut content, BOOLEAN, &[0]);
    content.extend(&search.filter.0);
    ber::write(&mut content, SEQUENCE, &attributes);
    message(id, SEARCH_REQUEST, &content)
}

/// The request to continue with TLS.
pub(super) fn start_tls(id: u32) -> Zeroizing<Vec<u8>> {
    let mut content = Vec::new();
    ber::write(&mut content, REQUEST_NAME, START_TLS.as_bytes());
    message(id, EXTENDED_REQUEST, &content)
}

fn message(id: u32, operation: u8, content: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut body = Zeroizing::new(Vec::with_capacity(content.len() + 16));
    ber::write_number(&mut body, INTEGER, id);
    ber::write(&mut body, operation, content);
    let mut message = Zeroizing::new(Vec::with_capacity(body.len() + 8));
    ber::write(&mut message, SEQUENCE, &body);
    message
}

/// A response of a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Response {
    /// The end of a bind.
    Bind(Outcome),
    /// An entry that a search found.
    Entry(FoundEntry),
    /// A reference to another server, which is not followed.
    Reference,
    /// The end of a search.
    SearchDone(Outcome),
    /// The end of an extended operation.
    Extended(Outcome),
    /// The server closes the connection.
    Disconnection(Outcome),
}

/// An entry, as a search found it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FoundEntry {
    /// Its name.
    pub(super) dn: String,
    /// Its attributes, each with its values.
    pub(super) attributes: Vec<(String, Vec<Vec<u8>>)>,
}

impl Response {
    /// Reads a message (`LDAPMessage`) that answers the request of this id.
    pub(super) fn read(message: &[u8], id: u32) -> Result<Self, Malformed> {
        let mut elements = Elements::new(Elements::new(message).expect(SEQUENCE)?);
        let answers = ber::number(elements.expect(INTEGER)?)?;
        // Controls may follow.  We sent none that has an answer.
        let (operation, content) = elements.next()?.ok_or(Malformed)?;
        match (operation, answers) {
            (0x78, UNSOLICITED) => outcome(content).map(Self::Disconnection),
            (_, answers) if answers != id => Err(Malformed),
            (0x61, _) => outcome(content).map(Self::Bind),
            (0x64, _) => entry(content).map(Self::Entry),
            (0x65, _) => outcome(content).map(Self::SearchDone),
            (0x73, _) => Ok(Self::Reference),
            (0x78, _) => outcome(content).map(Self::Extended),
            _ => Err(Malformed),
        }
    }
}

/// `COMPONENTS OF LDAPResult` (RFC 4511, section 4.1.9).  What follows in some operations is not looked at.
fn outcome(content: &[u8]) -> Result<Outcome, Malformed> {
    let mut elements = Elements::new(content);
    let code = ber::number(elements.expect(ENUMERATED)?)?;
    let _matched_dn = elements.expect(OCTET_STRING)?;
    let message = elements.expect(OCTET_STRING)?;
    Ok(Outcome::new(code, &String::from_utf8_lossy(message)))
}

/// `SearchResultEntry` (RFC 4511, section 4.5.2).
fn entry(content: &[u8]) -> Result<FoundEntry, Malformed> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed);
    let mut elements = Elements::new(content);
    let dn = text(elements.expect(OCTET_STRING)?)?;
    let mut list = Elements::new(elements.expect(SEQUENCE)?);
    let mut attributes = Vec::new();
    while !list.is_empty() {
        let mut attribute = Elements::new(list.expect(SEQUENCE)?);
        let name = text(attribute.expect(OCTET_STRING)?)?;
        let mut set = Elements::new(attribute.expect(SET)?);
        let mut values = Vec::new();
        while !set.is_empty() {
            values.push(set.expect(OCTET_STRING)?.to_owned());
        }
        attributes.push((name, values));
    }
    Ok(FoundEntry { dn, attributes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        hex::decode(text.replace(' ', "")).unwrap()
    }

    #[test]
    fn requests_are_those_of_the_specification() {
        // 02 01 01: the id; 60: BindRequest; 02 01 03: version 3; 04: the name; 80: the password.
        let expected = hex("30 16 02 01 01 60 11 02 01 03 04 06 636e3d616e6e 80 04 70617373");
        assert_eq!(*bind(1, "cn=ann", "pass"), expected);
        let expected = hex("30 1d 02 01 02 77 18 80 16 312e332e362e312e342e312e313436362e3230303337");
        assert_eq!(*start_tls(2), expected);
        let filter = Filter::new("(uid=%s)", "ann").unwrap();
        let ann = Search {
            base: "dc=org",
            scope: Scope::Subtree,
            filter: &filter,
            attributes: &["uid", NO_ATTRIBUTES],
            size_limit: 2,
            time_limit: 300,
        };
        let expected =
            hex("30 35 02 01 03 63 30 04 06 64633d6f7267 0a 01 02 0a 01 00 02 01 02 02 02 012c 01 01 00 \
             a3 0a 04 03 756964 04 03 616e6e 30 0a 04 03 756964 04 03 312e31");
        assert_eq!(*search(3, &ann), expected);
    }

    #[test]
    fn a_name_is_one_value_of_a_filter() {
        let equality = |attribute: &str, value: &str| {
            let mut content = Vec::new();
            ber::write(&mut content, OCTET_STRING, attribute.as_bytes());
            ber::write(&mut content, OCTET_STRING, value.as_bytes());
            let mut filter = Vec::new();
            ber::write(&mut filter, 0xa3, &content);
            filter
        };
        for name in ["ann", "*", "a*b", ")(uid=*", "(", "\\", "\\2a", "a\0b", "renée", "|(a=b)", "%s"] {
            assert_eq!(Filter::new("(uid=%s)", name).unwrap().0, equality("uid", name), "{name:?}");
            // In a filter of several parts there are as many.
            let mut both = Vec::new();
            let parts = [equality("uid", name), equality("mail", name)].concat();
            ber::write(&mut both, 0xa1, &parts);
            assert_eq!(Filter::new("(|(uid=%s)(mail=%s))", name).unwrap().0, both, "{name:?}");
        }
        for template in ["(uid=%s", "uid=(%s)", "", "(&(uid=%s)"] {
            assert!(Filter::new(template, "ann").is_err(), "{template:?}");
        }
    }

    #[test]
    fn responses_are_read() {
        let outcome = Outcome::new(49, "no");
        let result = "0a 01 31 04 00 04 02 6e6f";
        for (operation, response) in [
            ("61", Response::Bind(outcome.clone())),
            ("65", Response::SearchDone(outcome.clone())),
            ("78", Response::Extended(outcome.clone())),
        ] {
            let message = hex(&format!("30 0e 02 01 07 {operation} 09 {result}"));
            assert_eq!(Response::read(&message, 7), Ok(response));
            assert_eq!(Response::read(&message, 8), Err(Malformed));
        }
        // Active Directory closes with lengths of four bytes, and the name of the message in a wrong place.
        let name = "8a 16 312e332e362e312e342e312e313436362e3230303336";
        let closing = format!("30 84 00 00 00 2a 02 01 00 78 84 00 00 00 09 {result} {name}");
        assert_eq!(Response::read(&hex(&closing), 7), Ok(Response::Disconnection(outcome.clone())));
        // With controls behind it.
        let with_controls = hex(&format!("30 12 02 01 07 61 09 {result} a0 02 30 00"));
        assert_eq!(Response::read(&with_controls, 7), Ok(Response::Bind(outcome)));
        let entry = "04 06 636e3d616e6e 30 11 30 0f 04 03 756964 31 08 04 03 616e6e 04 01 ff";
        let entry = Response::read(&hex(&format!("30 20 02 01 07 64 1b {entry}")), 7);
        let attributes = vec![("uid".to_owned(), vec![b"ann".to_vec(), vec![0xff]])];
        assert_eq!(entry, Ok(Response::Entry(FoundEntry { dn: "cn=ann".to_owned(), attributes })));
    }

    #[test]
    fn what_is_no_response_is_malformed_and_never_a_panic() {
        for message in [
            "",
            "30 00",
            "30 03 02 01 07",
            "30 05 02 01 07 61 00",
            // A request of ours, a result whose code is missing, one with a negative code, an unsolicited entry.
            "30 0e 02 01 07 60 09 0a 01 31 04 00 04 02 6e6f",
            "30 09 02 01 07 61 04 04 00 04 00",
            "30 0c 02 01 07 61 07 0a 01 ff 04 00 04 00",
            "30 0f 02 01 00 64 0a 04 06 636e3d616e6e 30 00",
            // The name of an entry that is no UTF-8, and lengths beyond the message.
            "30 0a 02 01 07 64 05 04 01 ff 30 00",
            "30 0a 02 01 07 64 05 04 7f 61 30 00",
        ] {
            assert_eq!(Response::read(&hex(message), 7), Err(Malformed), "{message}");
        }
        // A thousand sequences within each other cost no stack.
        let mut nested = Vec::new();
        for _ in 0..1_000 {
            let mut outer = Vec::new();
            ber::write(&mut outer, SEQUENCE, &nested);
            nested = outer;
        }
        assert_eq!(Response::read(&nested, 7), Err(Malformed));
    }
}
