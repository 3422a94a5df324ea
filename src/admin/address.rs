//! The client's address, for the audit log.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::request::Parts;
use ipnet::IpNet;

use crate::config::AdminRules;
use crate::server::Peer;

/// The text of [`client_address`], among the extensions of every request.
#[derive(Clone)]
pub(super) struct ClientText(pub Arc<str>);

/// The address of the client: the connection's peer, or behind `admin.trusted_proxies` the last entry of
/// `X-Forwarded-For` that is not the address of a trusted proxy.  It is logged; no decision reads it.
pub(super) fn client_address(parts: &Parts, rules: Option<&AdminRules>) -> Arc<str> {
    match (client_ip(parts, rules), parts.extensions.get::<Peer>()) {
        (Some(address), _) => address.to_string().into(),
        (None, Some(Peer::Unix)) => "unix".into(),
        (None, Some(Peer::Ip(_)) | None) => "unknown".into(),
    }
}

/// The same where the client has one of IP.
fn client_ip(parts: &Parts, rules: Option<&AdminRules>) -> Option<IpAddr> {
    let Some(Peer::Ip(peer)) = parts.extensions.get::<Peer>() else {
        return None;
    };
    let trusted = rules.map_or(&[][..], |rules| &rules.trusted_proxies);
    let forwarded = parts.headers.get_all("x-forwarded-for").iter();
    let forwarded: Vec<_> = forwarded.map(axum::http::HeaderValue::as_bytes).collect();
    Some(walk_back(*peer, &forwarded, trusted))
}

/// Each proxy appends the address of its own client, so entries count from the end for as long as a trusted proxy
/// wrote them.
fn walk_back(peer: IpAddr, forwarded: &[&[u8]], trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    let entries = forwarded.iter().rev().flat_map(|line| line.rsplit(|&byte| byte == b','));
    for entry in entries {
        let Some(entry) = parse_entry(entry).filter(|_| trusted.iter().any(|net| net.contains(&client)))
        else {
            break;
        };
        client = entry;
    }
    client
}

/// An entry: an address, which may have a port.
fn parse_entry(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_count_for_as_long_as_a_trusted_proxy_wrote_them() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "2001:db8::1/128".parse().unwrap()];
        let cases: &[(&str, &[&str], &str)] = &[
            ("192.0.2.1", &[], "192.0.2.1"),
            ("192.0.2.1", &["203.0.113.9"], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1,203.0.113.9 , 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9", "10.0.0.2,2001:db8::1"], "203.0.113.9"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("10.0.0.1", &["[2001:db8::7]"], "2001:db8::7"),
            ("10.0.0.1", &["2001:db8::7"], "2001:db8::7"),
            ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["::ffff:10.0.0.2", ""], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["\"quoted\"; drop"], "10.0.0.1"),
        ];
        for (peer, forwarded, expected) in cases {
            let lines: Vec<_> = forwarded.iter().map(|line| line.as_bytes()).collect();
            let address = walk_back(peer.parse().unwrap(), &lines, &trusted);
            assert_eq!(address.to_string(), *expected, "{peer} {forwarded:?}");
        }
        assert_eq!(walk_back([10, 0, 0, 1].into(), &[b"1.1.1.1"], &[]).to_string(), "10.0.0.1");
    }
}
