//! Envoy's dynamic modules: a C interface of functions that we export and of functions that Envoy exports.
//!
//! Names and shapes are those of Envoy's header `source/extensions/dynamic_modules/abi/abi.h`, without the prefix
//! `envoy_dynamic_module_`.  The declarations are the same in Envoy 1.38, 1.39 and 1.40.  Functions that only newer
//! versions export are looked up at run time ([`takes_metadata_structs`]).

mod callbacks;
mod exports;
#[cfg(test)]
mod fake;

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::ptr;

use callbacks::{Bytes, HeaderPair};

use crate::settings::RouteSettings;

/// `type_envoy_log_level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// `type_on_http_filter_request_headers_status`: what Envoy does after the headers' hook.
///
/// There is no `StopIteration` (1): with it Envoy continues at the first frame of the body, even without a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum HeadersStatus {
    Continue = 0,
    StopAllIterationAndWatermark = 4,
}

/// `type_on_http_filter_request_body_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum BodyStatus {
    Continue = 0,
    StopIterationAndWatermark = 2,
}

/// `type_on_http_filter_request_trailers_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum TrailersStatus {
    Continue = 0,
    StopIteration = 1,
}

/// `type_http_header_type_RequestHeader`.
const REQUEST_HEADERS: u32 = 0;
/// `type_http_header_type_ResponseHeader`.
const RESPONSE_HEADERS: u32 = 2;
/// `type_attribute_id_SourceAddress`.
const SOURCE_ADDRESS: u32 = 24;
/// `type_metrics_result_Success`.
const SUCCESS: u32 = 0;

/// Writes a line into Envoy's log, at any time and from any thread.
pub fn log(level: LogLevel, message: &str) {
    // SAFETY: Envoy copies the message before it returns, and its loggers may be called from any thread.
    unsafe { callbacks::envoy_dynamic_module_callback_log(level as u32, Bytes::of(message.as_bytes())) }
}

/// Whether Envoy only checks its configuration (`--mode validate`).  To be called on the main thread, in the making of a
/// filter's configuration.
pub fn is_validation() -> bool {
    // SAFETY: it takes nothing, and is called on the main thread, as the header asks.
    unsafe { callbacks::envoy_dynamic_module_callback_is_validation_mode() }
}

/// Whether this Envoy takes whole structs as dynamic metadata, as it does since 1.40.
pub fn takes_metadata_structs() -> bool {
    callbacks::metadata_struct().is_some()
}

/// A filter's configuration on Envoy's side, within the hook that makes ours.
pub struct ConfigHandle<'h> {
    pointer: *mut c_void,
    hook: PhantomData<&'h mut ()>,
}

/// A counter that Envoy keeps.
#[derive(Debug, Clone, Copy)]
pub struct Counter(usize);

/// A histogram that Envoy keeps.
#[derive(Debug, Clone, Copy)]
pub struct Histogram(usize);

impl ConfigHandle<'_> {
    /// Defines a counter with these labels; `None` where Envoy takes no more.
    pub fn counter(&self, name: &str, labels: &[&str]) -> Option<Counter> {
        let mut labels: Vec<_> = labels.iter().map(|label| Bytes::of(label.as_bytes())).collect();
        let mut id = 0;
        // SAFETY: the pointer is Envoy's, of the hook that runs; names are copied, and the id is written before it returns.
        let result = unsafe {
            callbacks::envoy_dynamic_module_callback_http_filter_config_define_counter(
                self.pointer,
                Bytes::of(name.as_bytes()),
                labels.as_mut_ptr(),
                labels.len(),
                &mut id,
            )
        };
        (result == SUCCESS).then_some(Counter(id))
    }

    /// Defines a histogram without labels; `None` where Envoy takes no more.
    pub fn histogram(&self, name: &str) -> Option<Histogram> {
        let mut id = 0;
        // SAFETY: as for a counter; no labels are read where their number is zero.
        let result = unsafe {
            callbacks::envoy_dynamic_module_callback_http_filter_config_define_histogram(
                self.pointer,
                Bytes::of(name.as_bytes()),
                ptr::null_mut(),
                0,
                &mut id,
            )
        };
        (result == SUCCESS).then_some(Histogram(id))
    }
}

/// A request's stream on Envoy's side, within one hook.
///
/// Borrowed data borrows from it, and changes borrow it mutably: Envoy's memory of headers is valid until the next
/// change, or the end of the hook.
pub struct Stream<'h> {
    pointer: *mut c_void,
    hook: PhantomData<&'h mut ()>,
}

impl Stream<'_> {
    /// Every request header, pseudo headers included: names in lower case, and values as they came.
    pub fn request_headers(&self) -> Vec<(&[u8], &[u8])> {
        // SAFETY: the pointer is Envoy's, of the hook that runs.
        let count = unsafe {
            callbacks::envoy_dynamic_module_callback_http_get_headers_size(self.pointer, REQUEST_HEADERS)
        };
        let mut pairs: Vec<HeaderPair> = Vec::with_capacity(count);
        // SAFETY: Envoy writes exactly `count` pairs, for which there is room, unless it returns false.
        unsafe {
            let written = callbacks::envoy_dynamic_module_callback_http_get_headers(
                self.pointer,
                REQUEST_HEADERS,
                pairs.as_mut_ptr(),
            );
            if written {
                pairs.set_len(count);
            }
        }
        let lend = |pointer, length| {
            // SAFETY: it points at so many bytes of Envoy's, which stay until a header is changed (which borrows `self`
            // mutably) or the hook ends (which `self` does not outlive).
            unsafe { lend(Bytes { pointer, length }) }
        };
        pairs
            .iter()
            .map(|pair| (lend(pair.key, pair.key_length), lend(pair.value, pair.value_length)))
            .collect()
    }

    /// The client's address as Envoy sees it, with or without a port; empty where Envoy does not tell.
    pub fn source_address(&self) -> &[u8] {
        let mut address = Bytes::NULL;
        // SAFETY: the pointer is Envoy's, of the hook that runs; where Envoy returns true it has written where its text is.
        let is_set = unsafe {
            callbacks::envoy_dynamic_module_callback_http_filter_get_attribute_string(
                self.pointer,
                SOURCE_ADDRESS,
                &mut address,
            )
        };
        if !is_set {
            return &[];
        }
        // SAFETY: the text belongs to what Envoy knows of the stream, which `self` does not outlive.
        unsafe { lend(address) }
    }

    /// A span below that of this request, which ends when it is dropped; `None` where Envoy does not trace.
    pub fn child_span(&self, operation: &str) -> Option<ChildSpan> {
        // SAFETY: the pointer is Envoy's, of the hook that runs.
        let span = unsafe { callbacks::envoy_dynamic_module_callback_http_get_active_span(self.pointer) };
        if span.is_null() {
            return None;
        }
        // SAFETY: the pointers are Envoy's, of the hook that runs; the name is copied.
        let child = unsafe {
            callbacks::envoy_dynamic_module_callback_http_span_spawn_child(
                self.pointer,
                span,
                Bytes::of(operation.as_bytes()),
            )
        };
        (!child.is_null()).then_some(ChildSpan(child))
    }

    /// Replaces every value of a request header by this one.
    pub fn set_request_header(&mut self, name: &str, value: &[u8]) -> bool {
        self.change_header(REQUEST_HEADERS, name, Bytes::of(value))
    }

    /// Replaces every value of a response header by this one.
    pub fn set_response_header(&mut self, name: &str, value: &[u8]) -> bool {
        self.change_header(RESPONSE_HEADERS, name, Bytes::of(value))
    }

    /// Removes every value of a request header.
    pub fn remove_request_header(&mut self, name: &str) -> bool {
        self.change_header(REQUEST_HEADERS, name, Bytes::NULL)
    }

    fn change_header(&mut self, kind: u32, name: &str, value: Bytes) -> bool {
        // SAFETY: the pointer is Envoy's, of the hook that runs; name and value are copied.  Nothing that was lent is alive,
        // because `self` is borrowed mutably.
        unsafe {
            callbacks::envoy_dynamic_module_callback_http_set_header(
                self.pointer,
                kind,
                Bytes::of(name.as_bytes()),
                value,
            )
        }
    }

    /// Answers the client; the request is not forwarded.
    pub fn send_response(&mut self, status: u16, headers: &[(&str, &str)], body: &str, details: &str) {
        let mut pairs: Vec<_> = headers
            .iter()
            .map(|(name, value)| HeaderPair {
                key: name.as_ptr(),
                key_length: name.len(),
                value: value.as_ptr(),
                value_length: value.len(),
            })
            .collect();
        // SAFETY: the pointer is Envoy's, of the hook that runs; what we lend lives until the call returns, and is copied.
        unsafe {
            callbacks::envoy_dynamic_module_callback_http_send_response(
                self.pointer,
                status.into(),
                pairs.as_mut_ptr(),
                pairs.len(),
                Bytes::of(body.as_bytes()),
                Bytes::of(details.as_bytes()),
            );
        }
    }

    /// Answers the client with only these headers, which must include `:status`.
    pub fn send_response_headers(&mut self, headers: &[(&str, &str)]) {
        let mut pairs: Vec<_> = headers
            .iter()
            .map(|(name, value)| HeaderPair {
                key: name.as_ptr(),
                key_length: name.len(),
                value: value.as_ptr(),
                value_length: value.len(),
            })
            .collect();
        // SAFETY: as for `send_response`.
        unsafe {
            callbacks::envoy_dynamic_module_callback_http_send_response_headers(
                self.pointer,
                pairs.as_mut_ptr(),
                pairs.len(),
                true,
            );
        }
    }

    /// Continues a request that was stopped.
    pub fn continue_decoding(&mut self) {
        // SAFETY: the pointer is Envoy's, of the hook that runs.
        unsafe { callbacks::envoy_dynamic_module_callback_http_filter_continue_decoding(self.pointer) }
    }

    /// The settings of the most specific route for this filter.
    pub fn route_settings(&self) -> Option<&RouteSettings> {
        // SAFETY: the pointer is Envoy's, of the hook that runs.  What it gives is what `exports` made of this route's
        // configuration: a RouteSettings, which lives for as long as the route, and this stream holds its route.
        unsafe {
            callbacks::envoy_dynamic_module_callback_get_most_specific_route_config(self.pointer)
                .cast::<RouteSettings>()
                .as_ref()
        }
    }

    /// Puts a serialized `google.protobuf.Struct` into a namespace of the dynamic metadata, where Envoy takes one
    /// ([`takes_metadata_structs`]).
    pub fn set_metadata_struct(&mut self, namespace: &str, message: &[u8]) {
        if let Some(set_struct) = callbacks::metadata_struct() {
            // SAFETY: the pointer is Envoy's, of the hook that runs; Envoy parses the message before it returns.
            unsafe { set_struct(self.pointer, Bytes::of(namespace.as_bytes()), Bytes::of(message)) };
        }
    }

    /// Puts a text into a namespace of the dynamic metadata.
    pub fn set_metadata_text(&mut self, namespace: &str, key: &str, value: &str) {
        // SAFETY: the pointer is Envoy's, of the hook that runs; all three are copied.
        unsafe {
            callbacks::envoy_dynamic_module_callback_http_set_dynamic_metadata_string(
                self.pointer,
                Bytes::of(namespace.as_bytes()),
                Bytes::of(key.as_bytes()),
                Bytes::of(value.as_bytes()),
            );
        }
    }

    /// Adds one to a counter, whose labels have these values.
    pub fn count(&self, counter: Counter, labels: &[&str]) {
        let mut labels = labels.iter().map(|label| Bytes::of(label.as_bytes()));
        let mut values = [Bytes::NULL; MAX_LABELS];
        let count = values.iter_mut().zip(&mut labels).map(|(value, label)| *value = label).count();
        // SAFETY: the pointer is Envoy's, of the hook that runs; labels are copied.  An id or a number of labels that Envoy
        // does not know is a result, which changes nothing here.
        unsafe {
            callbacks::envoy_dynamic_module_callback_http_filter_increment_counter(
                self.pointer,
                counter.0,
                values.as_mut_ptr(),
                count,
                1,
            );
        }
    }

    /// Records a value in a histogram.
    pub fn observe(&self, histogram: Histogram, value: u64) {
        // SAFETY: as for a counter, without labels.
        unsafe {
            callbacks::envoy_dynamic_module_callback_http_filter_record_histogram_value(
                self.pointer,
                histogram.0,
                ptr::null_mut(),
                0,
                value,
            );
        }
    }

    /// The scheduler that brings a result from another thread back to this stream's thread.
    pub fn scheduler(&self) -> Scheduler {
        // SAFETY: the pointer is Envoy's, of the hook that runs.
        Scheduler(unsafe { callbacks::envoy_dynamic_module_callback_http_filter_scheduler_new(self.pointer) })
    }
}

/// Bytes of Envoy's.
///
/// # Safety
/// They are readable for as long as the caller says.
unsafe fn lend<'e>(bytes: Bytes) -> &'e [u8] {
    if bytes.length == 0 {
        return &[];
    }
    // SAFETY: the caller says so.
    unsafe { std::slice::from_raw_parts(bytes.pointer, bytes.length) }
}

/// A span that Envoy made for us.  It belongs to the thread of its stream, as the pointer in it does, and a filter has dropped
/// it before its stream ends: its tracer lives for as long as the stream.
pub struct ChildSpan(*mut c_void);

impl ChildSpan {
    /// Sets an attribute.
    pub fn set_tag(&self, key: &str, value: &str) {
        // SAFETY: Envoy made the span for us, and it ends when it is dropped; both texts are copied.
        unsafe {
            callbacks::envoy_dynamic_module_callback_http_span_set_tag(
                self.0,
                Bytes::of(key.as_bytes()),
                Bytes::of(value.as_bytes()),
            );
        }
    }
}

impl Drop for ChildSpan {
    fn drop(&mut self) {
        // SAFETY: it was made by `Stream::child_span`, and this is the only place that ends it.
        unsafe { callbacks::envoy_dynamic_module_callback_http_child_span_finish(self.0) }
    }
}

/// The most labels of a counter.
const MAX_LABELS: usize = 3;

/// Calls the hook `scheduled` of a stream on its own thread; nothing happens when the stream is gone.
pub struct Scheduler(*mut c_void);

// SAFETY: it is an object of Envoy's that holds no more than a weak reference to the stream and the thread to post to; the
// header has it used and destroyed by any thread.
unsafe impl Send for Scheduler {}

impl Scheduler {
    /// Schedules the hook.
    pub fn commit(&self) {
        // SAFETY: it was made by `Stream::scheduler` and is destroyed when it is dropped.
        unsafe { callbacks::envoy_dynamic_module_callback_http_filter_scheduler_commit(self.0, 0) }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // SAFETY: it was made by `Stream::scheduler`, and this is the only place that destroys it.
        unsafe { callbacks::envoy_dynamic_module_callback_http_filter_scheduler_delete(self.0) }
    }
}

/// The version of the interface that this Envoy speaks, as far as we know both: with another one than its own, Envoy
/// writes a warning.
fn version() -> &'static CStr {
    if callbacks::metadata_struct().is_some() { c"v0.2.0" } else { c"v0.1.0" }
}
