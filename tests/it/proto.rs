//! Our slice of Envoy's protocol, held against the whole of it: field by field and byte by byte.

#![allow(deprecated, reason = "Envoy reads `append`, which its protocol calls deprecated")]

use bytes::Bytes;
use envoy_auth_tokens::attributes::{Attributes, Encoding};
use envoy_auth_tokens::ext_authz::request::Request;
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
        address: Some(core::Address::default()),
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

fn decode(bytes: Vec<u8>) -> Request {
    Request::decode(Bytes::from(bytes)).expect("the slice decodes what the whole encodes")
}

fn headers_of(attributes: &Attributes<'_>) -> Vec<(String, Vec<u8>)> {
    let http = attributes.http.as_ref().expect("an HTTP request");
    let pair = |name: &[u8], value: &[u8]| (String::from_utf8(name.to_vec()).unwrap(), value.to_vec());
    http.headers.iter().map(|header| pair(header.name, header.value)).collect()
}

proptest! {
    #[test]
    fn a_request_reads_the_same_through_the_slice_and_through_the_whole(
        headers in proptest::collection::btree_map("[a-z:-]{1,12}", ".{0,20}", 0..12),
    ) {
        let headers: Vec<_> = headers.into_iter().collect();
        let request = decode(full_request(&headers, None).encode_to_vec());
        let attributes = request.attributes();
        let http = attributes.http.as_ref().unwrap();
        prop_assert_eq!(http.method, b"POST");
        prop_assert_eq!(http.path, b"/a?b=c");
        prop_assert_eq!(http.host, b"h:8080");
        prop_assert_eq!(attributes.policy, Some(b"read".as_slice()));
        prop_assert_eq!(http.headers.encoding(), Encoding::Joined);
        let mut found = headers_of(&attributes);
        found.sort();
        let expected: Vec<_> = headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn raw_headers_keep_their_order_and_their_bytes(
        lines in proptest::collection::vec(("[a-z:-]{1,12}", proptest::collection::vec(any::<u8>(), 1..20)), 1..12),
    ) {
        let request = decode(full_request(&[], Some(lines.clone())).encode_to_vec());
        let attributes = request.attributes();
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
        let request = decode(bytes);
        let attributes = request.attributes();
        let http = attributes.http.as_ref().unwrap();
        prop_assert_eq!(http.path, whole.path.as_bytes());
        prop_assert_eq!(http.host, whole.host.as_bytes());
        for (name, value) in &whole.headers {
            let found: Vec<_> = http.headers.all(name).collect();
            prop_assert_eq!(found, vec![value.as_bytes()]);
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
                query_parameters_to_remove: names.clone(),
            })),
            dynamic_metadata: Some(metadata("policy")),
        };
        let full_passed = full::CheckResponse {
            status: Some(Status::default()),
            http_response: Some(full::check_response::HttpResponse::OkResponse(full::OkHttpResponse {
                headers: names.iter().map(theirs).collect(),
                headers_to_remove: names.clone(),
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
        }),
    };
    let bytes = message.encode_to_vec();
    let whole = full::CheckRequest::decode(bytes.as_slice()).unwrap().attributes.unwrap();
    assert_eq!(whole.context_extensions["policy"], "last");
    let request = decode(bytes);
    let attributes = request.attributes();
    assert_eq!(attributes.policy, Some(b"last".as_slice()));
    let http = attributes.http.as_ref().unwrap();
    assert_eq!(http.headers.all("authorization").collect::<Vec<_>>(), [b"last"]);
}

#[test]
fn a_request_without_anything_in_it_is_one_without_http() {
    assert!(decode(Vec::new()).attributes().http.is_none());
    let no_request = full::CheckRequest { attributes: Some(full::AttributeContext::default()) };
    assert!(decode(no_request.encode_to_vec()).attributes().http.is_none());
}
