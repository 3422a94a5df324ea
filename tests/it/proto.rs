//! Our slice of Envoy's protocol, held against the whole of it: field by field and byte by byte.

#![allow(deprecated, reason = "Envoy reads `append`, which its protocol calls deprecated")]

use bytes::Bytes;
use envoy_auth_tokens::attributes::{Attributes, ClientAddress, Encoding};
use envoy_auth_tokens::ext_authz::codec::request;
use envoy_auth_tokens::ext_authz::wire;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::auth::v3 as full;
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::{BoolValue, Struct, Value, value};
use envoy_types::pb::google::rpc::Status;
use proptest::prelude::*;
use prost::Message;

/// A CheckRequest with every field filled that Envoy fills, most of which we skip.
fn full_request(headers: &[(String, String)], raw: Option<Vec<(String, Vec<u8>)>>) -> full::CheckRequest {
    use full::attribute_context::{HttpRequest, Peer, Request, TlsSession};
    let peer = Peer {
        address: Some(core::Address {
            address: Some(core::address::Address::SocketAddress(core::SocketAddress {
                address: "2001:db8::7".to_owned(),
                ..core::SocketAddress::default()
            })),
        }),
        service: "service".to_owned(),
        labels: [("label".to_owned(), "value".to_owned())].into(),
        principal: "spiffe://peer".to_owned(),
        certificate: "certificate".to_owned(),
    };
    let raw_header =
        |(key, raw_value): (String, Vec<u8>)| core::HeaderValue { key, value: String::new(), raw_value };
    let http = HttpRequest {
        id: "17".to_owned(),
        method: "POST".to_owned(),
        headers: headers.iter().cloned().collect(),
        header_map: raw.map(|lines| core::HeaderMap { headers: lines.into_iter().map(raw_header).collect() }),
        path: "/a?b=c".to_owned(),
        host: "h:8080".to_owned(),
        scheme: "https".to_owned(),
        query: "query".to_owned(),
        fragment: "fragment".to_owned(),
        size: -1,
        protocol: "HTTP/2".to_owned(),
        body: "body".to_owned(),
        raw_body: vec![0, 0xff],
    };
    let context = full::AttributeContext {
        source: Some(peer.clone()),
        destination: Some(peer),
        request: Some(Request {
            time: Some(envoy_types::pb::google::protobuf::Timestamp { seconds: 1, nanos: 2 }),
            http: Some(http),
        }),
        context_extensions: [
            ("policy".to_owned(), "read".to_owned()),
            ("virtual_host".to_owned(), "app".to_owned()),
        ]
        .into(),
        metadata_context: Some(core::Metadata::default()),
        route_metadata_context: Some(core::Metadata::default()),
        tls_session: Some(TlsSession { sni: "sni".to_owned() }),
    };
    full::CheckRequest { attributes: Some(context) }
}

fn decode(bytes: &[u8]) -> Attributes<'_> {
    request::decode(bytes).expect("the slice decodes what the whole encodes")
}

fn headers_of(attributes: &Attributes<'_>) -> Vec<(String, Vec<u8>)> {
    let http = attributes.http.as_ref().expect("an HTTP request");
    let pair = |name: &[u8], value: &[u8]| (String::from_utf8(name.to_vec()).unwrap(), value.to_vec());
    http.headers.iter().map(|header| pair(header.name, header.value)).collect()
}

/// All that a decision can see of a request.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    policy: Option<Vec<u8>>,
    client: Option<Vec<u8>>,
    http: Option<(Vec<u8>, Vec<u8>, Vec<u8>, Encoding, Vec<(Vec<u8>, Vec<u8>)>)>,
}

fn seen(attributes: &Attributes<'_>) -> Seen {
    let http = attributes.http.as_ref().map(|http| {
        let headers = http.headers.iter().map(|header| (header.name.to_vec(), header.value.to_vec()));
        let words = (http.method.to_vec(), http.host.to_vec(), http.path.to_vec());
        (words.0, words.1, words.2, http.headers.encoding(), headers.collect())
    });
    let client = attributes.http.as_ref().map(|http| http.client.text().to_vec());
    Seen { policy: attributes.policy.map(<[u8]>::to_vec), client, http }
}

fn seen_by_the_generated_reader(request: wire::CheckRequest) -> Seen {
    let attributes = request.attributes.unwrap_or_default();
    let policies = attributes.context_extensions.iter().filter(|entry| entry.key == b"policy"[..]);
    let policy = policies.last().map(|entry| entry.value.to_vec());
    let address = attributes.source.and_then(|source| source.address?.socket_address);
    let address = address.map(|socket| socket.address.to_vec()).unwrap_or_default();
    let http = attributes.request.and_then(|request| request.http).map(|http| {
        let lines = http.header_map.map(|map| map.headers).unwrap_or_default();
        let (encoding, headers) = if lines.is_empty() {
            let pairs = http.headers.iter().map(|entry| (entry.key.to_vec(), entry.value.to_vec()));
            (Encoding::Joined, pairs.collect())
        } else {
            let value = |line: &wire::RawHeader| {
                if line.raw_value.is_empty() { line.value.to_vec() } else { line.raw_value.to_vec() }
            };
            (Encoding::Lines, lines.iter().map(|line| (line.key.to_vec(), value(line))).collect())
        };
        (http.method.to_vec(), http.host.to_vec(), http.path.to_vec(), encoding, headers)
    });
    Seen { policy, client: http.is_some().then_some(address), http }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    // Values on both sides of 128 bytes, from which on a length takes two bytes.
    #[test]
    fn a_request_reads_the_same_through_the_slice_and_through_the_whole(
        headers in proptest::collection::btree_map("[a-z:-]{1,12}", ".{0,60}", 0..12),
    ) {
        let headers: Vec<_> = headers.into_iter().collect();
        let bytes = full_request(&headers, None).encode_to_vec();
        let attributes = decode(&bytes);
        let http = attributes.http.as_ref().unwrap();
        prop_assert_eq!(http.method, b"POST");
        prop_assert_eq!(http.path, b"/a?b=c");
        prop_assert_eq!(http.host, b"h:8080");
        prop_assert_eq!(http.client.ip(), "2001:db8::7".parse().ok());
        prop_assert_eq!(attributes.policy, Some(b"read".as_slice()));
        prop_assert_eq!(http.headers.encoding(), Encoding::Joined);
        let mut found = headers_of(&attributes);
        found.sort();
        let expected: Vec<_> = headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn raw_headers_keep_their_order_and_their_bytes(
        lines in proptest::collection::vec(("[a-z:-]{1,12}", proptest::collection::vec(any::<u8>(), 1..200)), 1..12),
    ) {
        let bytes = full_request(&[], Some(lines.clone())).encode_to_vec();
        let attributes = decode(&bytes);
        prop_assert_eq!(attributes.http.as_ref().unwrap().headers.encoding(), Encoding::Lines);
        prop_assert_eq!(headers_of(&attributes), lines);
    }

    #[test]
    fn a_message_cut_in_two_is_merged_as_protobuf_says(
        headers in proptest::collection::btree_map("[a-z]{1,8}", "[a-z]{0,8}", 1..6),
        later in "[a-z]{0,8}",
    ) {
        // Two messages one after the other are one: scalars of the second win, lists and maps grow.
        let headers: Vec<_> = headers.into_iter().collect();
        let mut second = full_request(&[(headers[0].0.clone(), later.clone())], None);
        let http = second.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
        http.path = "/later".to_owned();
        http.host = String::new();
        let bytes = [full_request(&headers, None).encode_to_vec(), second.encode_to_vec()].concat();

        let whole = full::CheckRequest::decode(bytes.as_slice()).unwrap();
        let whole = whole.attributes.unwrap().request.unwrap().http.unwrap();
        let attributes = decode(&bytes);
        let http = attributes.http.as_ref().unwrap();
        prop_assert_eq!(http.path, whole.path.as_bytes());
        prop_assert_eq!(http.host, whole.host.as_bytes());
        for (name, value) in &whole.headers {
            let found: Vec<_> = http.headers.all(name).collect();
            prop_assert_eq!(found, vec![value.as_bytes()]);
        }
    }

    #[test]
    fn the_hand_written_reader_takes_what_a_generated_one_takes(
        headers in proptest::collection::btree_map("[a-z]{1,8}", "[a-z]{0,8}", 0..4),
        lines in proptest::option::of(proptest::collection::vec(("[a-z]{1,8}", proptest::collection::vec(any::<u8>(), 0..9)), 0..4)),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let headers: Vec<_> = headers.into_iter().collect();
        let mut bytes = full_request(&headers, lines).encode_to_vec();
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let ours = request::decode(&bytes).ok();
        let generated = wire::CheckRequest::decode(bytes.as_slice()).ok();
        prop_assert_eq!(ours.is_some(), generated.is_some());
        if let (Some(ours), Some(generated)) = (ours, generated) {
            prop_assert_eq!(seen(&ours), seen_by_the_generated_reader(generated));
        }
    }

    #[test]
    fn an_answer_of_the_slice_is_the_same_bytes_as_one_of_the_whole(
        code in any::<i32>(),
        http_code in proptest::sample::select(vec![400, 401, 403, 500, 503]),
        names in proptest::collection::vec("[a-z-]{1,12}", 0..4),
        text in ".{0,40}",
        append in any::<Option<bool>>(),
    ) {
        let action = core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd as i32;
        let ours = |name: &String| wire::HeaderValueOption {
            header: Some(wire::HeaderValue { key: name.clone(), value: text.clone() }),
            append: append.map(|value| wire::BoolValue { value }),
            append_action: action,
        };
        let theirs = |name: &String| core::HeaderValueOption {
            header: Some(core::HeaderValue { key: name.clone(), value: text.clone(), raw_value: vec![] }),
            append: append.map(|value| BoolValue { value }),
            append_action: action,
            keep_empty_value: false,
        };
        let metadata = |name: &str| {
            let kind = Some(prost_types::value::Kind::StringValue(text.clone()));
            prost_types::Struct { fields: [(name.to_owned(), prost_types::Value { kind })].into() }
        };
        let full_metadata = |name: &str| {
            let kind = Some(value::Kind::StringValue(text.clone()));
            Struct { fields: [(name.to_owned(), Value { kind })].into() }
        };

        let denied = wire::CheckResponse {
            status: Some(wire::Status { code }),
            http_response: Some(wire::check_response::HttpResponse::DeniedResponse(wire::DeniedHttpResponse {
                status: Some(wire::HttpStatus { code: http_code }),
                headers: names.iter().map(ours).collect(),
                body: text.clone(),
            })),
            dynamic_metadata: Some(metadata("reason")),
        };
        let full_denied = full::CheckResponse {
            status: Some(Status { code, ..Status::default() }),
            http_response: Some(full::check_response::HttpResponse::DeniedResponse(full::DeniedHttpResponse {
                status: Some(HttpStatus { code: http_code }),
                headers: names.iter().map(theirs).collect(),
                body: text.clone(),
            })),
            dynamic_metadata: Some(full_metadata("reason")),
        };
        prop_assert_eq!(denied.encode_to_vec(), full_denied.encode_to_vec());

        let passed = wire::CheckResponse {
            status: Some(wire::Status { code: 0 }),
            http_response: Some(wire::check_response::HttpResponse::OkResponse(wire::OkHttpResponse {
                headers: names.iter().map(ours).collect(),
                headers_to_remove: names.clone(),
                response_headers_to_add: names.iter().map(ours).collect(),
                query_parameters_to_remove: names.clone(),
            })),
            dynamic_metadata: Some(metadata("policy")),
        };
        let full_passed = full::CheckResponse {
            status: Some(Status::default()),
            http_response: Some(full::check_response::HttpResponse::OkResponse(full::OkHttpResponse {
                headers: names.iter().map(theirs).collect(),
                headers_to_remove: names.clone(),
                response_headers_to_add: names.iter().map(theirs).collect(),
                query_parameters_to_remove: names.clone(),
                ..full::OkHttpResponse::default()
            })),
            dynamic_metadata: Some(full_metadata("policy")),
        };
        prop_assert_eq!(passed.encode_to_vec(), full_passed.encode_to_vec());
    }
}

#[test]
fn a_map_entry_that_comes_twice_counts_once_and_the_last_one_wins() {
    let entry = |key: &str, value: &str| wire::Entry {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    let message = wire::CheckRequest {
        attributes: Some(wire::AttributeContext {
            request: Some(wire::Request {
                http: Some(wire::HttpRequest {
                    headers: vec![entry("authorization", "first"), entry("authorization", "last")],
                    ..wire::HttpRequest::default()
                }),
            }),
            context_extensions: vec![entry("policy", "first"), entry("policy", "last")],
            ..wire::AttributeContext::default()
        }),
    };
    let bytes = message.encode_to_vec();
    let whole = full::CheckRequest::decode(bytes.as_slice()).unwrap().attributes.unwrap();
    assert_eq!(whole.context_extensions["policy"], "last");
    let attributes = decode(&bytes);
    assert_eq!(attributes.policy, Some(b"last".as_slice()));
    let http = attributes.http.as_ref().unwrap();
    assert_eq!(http.headers.all("authorization").collect::<Vec<_>>(), [b"last"]);
}

#[test]
fn a_request_without_anything_in_it_is_one_without_http() {
    assert!(decode(&[]).http.is_none());
    let no_request = full::CheckRequest { attributes: Some(full::AttributeContext::default()) };
    assert!(decode(&no_request.encode_to_vec()).http.is_none());
}

#[test]
fn a_message_of_nothing_but_headers_is_refused_before_it_costs_memory() {
    // An empty entry of `headers`, two bytes, so often that their list would take sixteen times the message.
    let http = [0x1a, 0].repeat(1 << 20);
    let mut bytes = http;
    for tag in [0x12, 0x22, 0x0a] {
        let mut message = vec![tag];
        prost::encoding::encode_varint(bytes.len() as u64, &mut message);
        message.extend(bytes);
        bytes = message;
    }
    assert!(wire::CheckRequest::decode(bytes.as_slice()).is_ok());
    assert!(request::decode(&bytes).is_err());
}
