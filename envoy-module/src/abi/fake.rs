//! A fake Envoy: the functions of Envoy's that we call, on memory that is freed when a real Envoy would free it, so that
//! AddressSanitizer reports every read after that.  It drives the functions that we export.

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::{fs, ptr, slice};

use super::callbacks::{Bytes, HeaderPair};
use super::exports::*;
use super::{BodyStatus, HeadersStatus, TrailersStatus};

/// A stream of the fake Envoy.
#[derive(Default)]
struct FakeStream {
    headers: RefCell<Vec<(Box<[u8]>, Box<[u8]>)>>,
    response: RefCell<Option<(u32, Vec<(String, String)>, String)>>,
    metadata: RefCell<Vec<(String, Vec<u8>)>>,
    route: *const c_void,
    scheduled: Arc<(Mutex<usize>, Condvar)>,
    continued: AtomicUsize,
    /// It is traced: spans that began and have not ended, and the tags of all.
    traced: AtomicBool,
    open_spans: Arc<AtomicUsize>,
    tags: Arc<Mutex<Vec<(String, String)>>>,
    /// Header changes fail, as with a stream whose headers are gone.
    refuses_changes: AtomicBool,
}

fn bytes<'b>(bytes: Bytes) -> &'b [u8] {
    if bytes.length == 0 {
        return &[];
    }
    // SAFETY: what the module lends lives for as long as its call.
    unsafe { slice::from_raw_parts(bytes.pointer, bytes.length) }
}

fn text(of: Bytes) -> String {
    String::from_utf8(bytes(of).to_vec()).unwrap()
}

fn stream<'s>(pointer: *mut c_void) -> &'s FakeStream {
    // SAFETY: tests hand over streams that outlive every hook.
    unsafe { &*pointer.cast::<FakeStream>() }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_log(_level: u32, message: Bytes) {
    println!("{}", text(message));
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_is_validation_mode() -> bool {
    false
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_define_counter(
    _config: *mut c_void,
    _name: Bytes,
    _labels: *mut Bytes,
    _labels_length: usize,
    id: *mut usize,
) -> u32 {
    // SAFETY: the module lends a place for the id.
    unsafe { *id = 1 };
    0
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_increment_counter(
    _filter: *mut c_void,
    _id: usize,
    labels: *mut Bytes,
    labels_length: usize,
    _value: u64,
) -> u32 {
    // SAFETY: the module lends so many labels.
    unsafe { slice::from_raw_parts(labels, labels_length) }.iter().for_each(|label| drop(text(*label)));
    0
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_define_histogram(
    _config: *mut c_void,
    _name: Bytes,
    _labels: *mut Bytes,
    _labels_length: usize,
    _id: *mut usize,
) -> u32 {
    // No histogram: the module does without.
    3
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_record_histogram_value(
    _filter: *mut c_void,
    _id: usize,
    _labels: *mut Bytes,
    _labels_length: usize,
    _value: u64,
) -> u32 {
    panic!("a histogram that was never defined");
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_headers_size(filter: *mut c_void, _kind: u32) -> usize {
    stream(filter).headers.borrow().len()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_headers(
    filter: *mut c_void,
    _kind: u32,
    headers: *mut HeaderPair,
) -> bool {
    for (index, (name, value)) in stream(filter).headers.borrow().iter().enumerate() {
        let (key, key_length, value, value_length) = (name.as_ptr(), name.len(), value.as_ptr(), value.len());
        // SAFETY: the module lends room for as many as there are.
        unsafe { headers.add(index).write(HeaderPair { key, key_length, value, value_length }) };
    }
    true
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_set_header(
    filter: *mut c_void,
    _kind: u32,
    key: Bytes,
    value: Bytes,
) -> bool {
    let stream = stream(filter);
    if stream.refuses_changes.load(Ordering::Relaxed) {
        return false;
    }
    let mut headers = stream.headers.borrow_mut();
    let key = bytes(key);
    // Every name and value moves: who kept one reads what was freed.
    let moved = headers.drain(..).filter(|(name, _)| **name != *key);
    let mut moved: Vec<_> =
        moved.map(|(name, value)| (name.to_vec().into(), value.to_vec().into())).collect();
    if !value.pointer.is_null() {
        moved.push((key.into(), bytes(value).into()));
    }
    *headers = moved;
    true
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_send_response(
    filter: *mut c_void,
    status: u32,
    headers: *mut HeaderPair,
    headers_length: usize,
    body: Bytes,
    _details: Bytes,
) {
    // SAFETY: the module lends so many headers.
    let pairs = unsafe { slice::from_raw_parts(headers, headers_length) };
    let pairs = pairs.iter().map(|pair| {
        let of = |pointer, length| text(Bytes { pointer, length });
        (of(pair.key, pair.key_length), of(pair.value, pair.value_length))
    });
    let answered = stream(filter).response.replace(Some((status, pairs.collect(), text(body))));
    assert!(answered.is_none(), "a request is answered once");
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_send_response_headers(
    filter: *mut c_void,
    headers: *mut HeaderPair,
    headers_length: usize,
    _end_stream: bool,
) {
    envoy_dynamic_module_callback_http_send_response(
        filter,
        0,
        headers,
        headers_length,
        Bytes::NULL,
        Bytes::NULL,
    );
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_set_dynamic_metadata_string(
    filter: *mut c_void,
    namespace: Bytes,
    key: Bytes,
    value: Bytes,
) {
    assert_eq!(text(namespace), "envoy.filters.http.ext_authz");
    stream(filter).metadata.borrow_mut().push((text(key), bytes(value).to_vec()));
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_continue_decoding(filter: *mut c_void) {
    stream(filter).continued.fetch_add(1, Ordering::Relaxed);
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_get_most_specific_route_config(
    filter: *mut c_void,
) -> *const c_void {
    stream(filter).route
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_get_attribute_string(
    _filter: *mut c_void,
    attribute: u32,
    value: *mut Bytes,
) -> bool {
    assert_eq!(attribute, super::SOURCE_ADDRESS);
    // SAFETY: the module lends a place for it.
    unsafe { *value = Bytes::of(b"192.0.2.7:4711") };
    true
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_active_span(filter: *mut c_void) -> *mut c_void {
    if stream(filter).traced.load(Ordering::Relaxed) { filter } else { ptr::null_mut() }
}

/// A span, which shares what its stream counts.
struct FakeSpan {
    open: Arc<AtomicUsize>,
    tags: Arc<Mutex<Vec<(String, String)>>>,
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_span_spawn_child(
    filter: *mut c_void,
    span: *mut c_void,
    operation: Bytes,
) -> *mut c_void {
    assert_eq!(filter, span);
    assert_eq!(text(operation), "envoy_auth_tokens.decide");
    let stream = stream(filter);
    stream.open_spans.fetch_add(1, Ordering::Relaxed);
    let span = FakeSpan { open: Arc::clone(&stream.open_spans), tags: Arc::clone(&stream.tags) };
    Box::into_raw(Box::new(span)).cast()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_span_set_tag(span: *mut c_void, key: Bytes, value: Bytes) {
    // SAFETY: it was made above, and the module ends it after its last call.
    let span = unsafe { &*span.cast::<FakeSpan>() };
    span.tags.lock().unwrap().push((text(key), text(value)));
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_child_span_finish(span: *mut c_void) {
    // SAFETY: it was made above, and is ended once.
    let span = unsafe { Box::from_raw(span.cast::<FakeSpan>()) };
    span.open.fetch_sub(1, Ordering::Relaxed);
}

type Scheduled = Arc<(Mutex<usize>, Condvar)>;

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_new(filter: *mut c_void) -> *mut c_void {
    Box::into_raw(Box::new(Arc::clone(&stream(filter).scheduled))).cast()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_commit(
    scheduler: *mut c_void,
    _event: u64,
) {
    // SAFETY: it was made above, and the module deletes it after its last call.
    let scheduled = unsafe { &*scheduler.cast::<Scheduled>() };
    *scheduled.0.lock().unwrap() += 1;
    scheduled.1.notify_all();
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_delete(scheduler: *mut c_void) {
    // SAFETY: it was made above, and is deleted once.
    drop(unsafe { Box::from_raw(scheduler.cast::<Scheduled>()) });
}

const CONFIG: &str = r#"
tokens: [{name: alice, token: alice-token-0123456789, actor: {id: alice}}]
users: [{username: carol, password_hash: "$2b$04$Bi8fSFGkjKURlEPwTA1t3.lgXFu29nQ8HDTfxxDJfUW.8jl9OUwIW"}]
credentials: [bearer, basic, {query: k}]
policies: {nobody: {allow: false}}
"#;

/// A filter of a configuration, as Envoy makes it.  One test at a time has one.
struct FakeEnvoy {
    config: *const c_void,
    _folder: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl FakeEnvoy {
    fn new(config: &str) -> Self {
        static ALONE: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.yaml"), config).unwrap();
        // SAFETY: no other test of this crate reads or writes the environment, and this one runs alone.
        unsafe { std::env::set_var("ENVOY_AUTH_TOKENS_FOLDER", folder.path()) };
        assert!(!envoy_dynamic_module_on_program_init().is_null());
        let settings = r#"{"config": "config.yaml"}"#;
        let name = Bytes::of(b"auth");
        let config = envoy_dynamic_module_on_http_filter_config_new(
            ptr::null_mut(),
            name,
            Bytes::of(settings.as_bytes()),
        );
        Self { config, _folder: folder, _alone: alone }
    }

    /// Sends the headers of a request, and gives back what came of it.
    fn send(&self, stream: &FakeStream, headers: &[(&str, &str)]) -> (*const c_void, HeadersStatus) {
        let pseudo = [(":method", "POST"), (":authority", "app.example"), (":path", "/x?z=1&k=&a=2")];
        *stream.headers.borrow_mut() = pseudo
            .iter()
            .filter(|(name, _)| headers.iter().all(|(other, _)| other != name))
            .chain(headers)
            .map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into()))
            .collect();
        let pointer = ptr::from_ref(stream).cast_mut().cast();
        let filter = envoy_dynamic_module_on_http_filter_new(self.config, pointer);
        assert!(!filter.is_null());
        (filter, envoy_dynamic_module_on_http_filter_request_headers(pointer, filter, false))
    }
}

impl Drop for FakeEnvoy {
    fn drop(&mut self) {
        if !self.config.is_null() {
            envoy_dynamic_module_on_http_filter_config_destroy(self.config);
        }
    }
}

fn pointer(stream: &FakeStream) -> *mut c_void {
    ptr::from_ref(stream).cast_mut().cast()
}

fn body_may_pass(stream: &FakeStream, filter: *const c_void) -> bool {
    let body = envoy_dynamic_module_on_http_filter_request_body(pointer(stream), filter, true);
    let trailers = envoy_dynamic_module_on_http_filter_request_trailers(pointer(stream), filter);
    match (body, trailers) {
        (BodyStatus::Continue, TrailersStatus::Continue) => true,
        (BodyStatus::StopIterationAndWatermark, TrailersStatus::StopIteration) => false,
        mixed => panic!("{mixed:?}"),
    }
}

fn end(stream: &FakeStream, filter: *const c_void) {
    envoy_dynamic_module_on_http_filter_stream_complete(pointer(stream), filter);
    envoy_dynamic_module_on_http_filter_destroy(filter);
}

fn header(stream: &FakeStream, name: &str) -> Option<String> {
    let headers = stream.headers.borrow();
    let value = headers.iter().find(|(key, _)| **key == *name.as_bytes()).map(|(_, value)| value.to_vec());
    value.map(|value| String::from_utf8(value).unwrap())
}

fn status(stream: &FakeStream) -> Option<u32> {
    stream.response.borrow().as_ref().map(|(status, _, _)| *status)
}

#[test]
fn a_token_passes_and_its_request_is_changed() {
    let envoy = FakeEnvoy::new(CONFIG);
    let stream = FakeStream::default();
    let forged =
        [("x-actor-id", "root"), ("x_actor_id", "root"), (":path", "/x?z=1&k=alice-token-0123456789&a=2")];
    let (filter, answer) = envoy.send(&stream, &forged);
    assert_eq!(answer, HeadersStatus::Continue);
    assert!(body_may_pass(&stream, filter));
    assert_eq!(header(&stream, "x-actor-id").as_deref(), Some("alice"));
    assert_eq!(header(&stream, "x_actor_id"), None);
    assert_eq!(header(&stream, ":path").as_deref(), Some("/x?a=2&z=1"));
    assert!(status(&stream).is_none());
    let metadata = stream.metadata.borrow();
    assert!(metadata.contains(&("actor.id".to_owned(), b"alice".to_vec())), "{metadata:?}");
    drop(metadata);
    end(&stream, filter);
}

#[test]
fn a_denied_request_is_answered_once_and_goes_no_further() {
    let envoy = FakeEnvoy::new(CONFIG);
    for (headers, expected) in [
        (vec![], 401),
        (vec![("authorization", "Bearer nobody-token-012345")], 401),
        (vec![("authorization", "Bearer a,Bearer b")], 400),
        (vec![("content-type", "application/grpc")], 0),
    ] {
        let stream = FakeStream::default();
        let (filter, answer) = envoy.send(&stream, &headers);
        assert_eq!(answer, HeadersStatus::StopAllIterationAndWatermark);
        assert_eq!(status(&stream), Some(expected), "{headers:?}");
        assert!(!body_may_pass(&stream, filter));
        end(&stream, filter);
    }
}

#[test]
fn a_route_names_the_policy() {
    let envoy = FakeEnvoy::new(CONFIG);
    let settings = Bytes::of(br#"{"policy": "nobody"}"#);
    let route = envoy_dynamic_module_on_http_filter_per_route_config_new(Bytes::of(b"auth"), settings);
    let stream = FakeStream { route, ..FakeStream::default() };
    let (filter, _) = envoy.send(&stream, &[("authorization", "Bearer alice-token-0123456789")]);
    assert_eq!(status(&stream), Some(403));
    end(&stream, filter);
    envoy_dynamic_module_on_http_filter_per_route_config_destroy(route);
    let wrong =
        envoy_dynamic_module_on_http_filter_per_route_config_new(Bytes::of(b"auth"), Bytes::of(b"{}"));
    assert!(wrong.is_null());
}

#[test]
fn a_password_is_waited_for_and_nothing_passes_meanwhile() {
    let envoy = FakeEnvoy::new(CONFIG);
    let stream = FakeStream::default();
    let (filter, answer) = envoy.send(&stream, &[("authorization", "Basic Y2Fyb2w6d3Jvbmc=")]);
    assert_eq!(answer, HeadersStatus::StopAllIterationAndWatermark);
    assert!(!body_may_pass(&stream, filter));
    // Envoy's memory of the request moves while it waits.
    let moved: Vec<_> =
        stream.headers.borrow().iter().map(|(n, v)| (n.to_vec().into(), v.to_vec().into())).collect();
    *stream.headers.borrow_mut() = moved;
    let scheduled = Arc::clone(&stream.scheduled);
    drop(scheduled.1.wait_while(scheduled.0.lock().unwrap(), |commits| *commits == 0).unwrap());
    envoy_dynamic_module_on_http_filter_scheduled(pointer(&stream), filter, 0);
    assert!(matches!(status(&stream), Some(401 | 503)), "{:?}", status(&stream));
    assert_eq!(stream.continued.load(Ordering::Relaxed), 0);
    // A second call of the hook changes nothing.
    envoy_dynamic_module_on_http_filter_scheduled(pointer(&stream), filter, 0);
    end(&stream, filter);
}

#[test]
fn a_stream_may_be_gone_before_its_password_is_verified() {
    let envoy = FakeEnvoy::new(CONFIG);
    for _ in 0..4 {
        let stream = FakeStream::default();
        let (filter, _) = envoy.send(&stream, &[("authorization", "Basic Y2Fyb2w6d3Jvbmc=")]);
        end(&stream, filter);
        assert!(status(&stream).is_none());
    }
}

#[test]
fn a_span_ends_with_its_decision_or_with_its_stream() {
    let envoy = FakeEnvoy::new(CONFIG);
    let tag = |stream: &FakeStream, name: &str| {
        let tags = stream.tags.lock().unwrap();
        tags.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    };
    let traced = || FakeStream { traced: AtomicBool::new(true), ..FakeStream::default() };

    let stream = traced();
    let (filter, _) = envoy.send(&stream, &[("authorization", "Bearer alice-token-0123456789")]);
    assert_eq!(stream.open_spans.load(Ordering::Relaxed), 0);
    assert_eq!(tag(&stream, "envoy_auth_tokens.decision").as_deref(), Some("allowed"));
    assert_eq!(tag(&stream, "envoy_auth_tokens.credential.name").as_deref(), Some("alice"));
    end(&stream, filter);

    // The span lives while the password is verified, and ends with a stream that does not wait for it.
    let stream = traced();
    let (filter, _) = envoy.send(&stream, &[("authorization", "Basic Y2Fyb2w6d3Jvbmc=")]);
    assert_eq!(stream.open_spans.load(Ordering::Relaxed), 1);
    end(&stream, filter);
    assert_eq!(stream.open_spans.load(Ordering::Relaxed), 0);

    let stream = traced();
    let (filter, _) = envoy.send(&stream, &[("x-panic-for-tests", "1")]);
    assert_eq!(stream.open_spans.load(Ordering::Relaxed), 0);
    end(&stream, filter);
}

#[test]
fn changes_that_envoy_does_not_take_are_a_denial() {
    let envoy = FakeEnvoy::new(CONFIG);
    let stream = FakeStream::default();
    stream.refuses_changes.store(true, Ordering::Relaxed);
    let (filter, answer) = envoy.send(&stream, &[("authorization", "Bearer alice-token-0123456789")]);
    assert_eq!(answer, HeadersStatus::StopAllIterationAndWatermark);
    assert_eq!(status(&stream), Some(500));
    assert!(!body_may_pass(&stream, filter));
    end(&stream, filter);
}

#[test]
fn a_panic_within_a_decision_is_a_denial() {
    let envoy = FakeEnvoy::new(CONFIG);
    let stream = FakeStream::default();
    let (filter, answer) = envoy.send(&stream, &[("x-panic-for-tests", "1")]);
    assert_eq!(answer, HeadersStatus::StopAllIterationAndWatermark);
    assert_eq!(status(&stream), Some(500));
    assert!(!body_may_pass(&stream, filter));
    end(&stream, filter);
}

#[test]
fn what_is_no_configuration_makes_no_filter() {
    let envoy = FakeEnvoy::new("tokens: 7\n");
    assert!(envoy.config.is_null());
}
