//! The functions that Envoy calls: `source/extensions/dynamic_modules/abi/abi.h`, "Event Hooks".
//!
//! Each catches its panics: an uncaught panic would end the process.

use std::ffi::{c_char, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use super::callbacks::{Bytes, HeaderPair};
use super::{BodyStatus, ConfigHandle, HeadersStatus, Stream, TrailersStatus};
use crate::filter::{Filter, FilterConfig};
use crate::settings::RouteSettings;

/// Runs a hook; after a panic the result is this value.
fn caught<T>(otherwise: T, hook: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(hook)).unwrap_or(otherwise)
}

/// Text of Envoy's, for as long as the hook runs.
///
/// # Safety
/// The bytes are readable for as long as the hook runs.
unsafe fn text<'h>(bytes: Bytes) -> Option<&'h str> {
    if bytes.length == 0 {
        return Some("");
    }
    // SAFETY: the caller says so.
    std::str::from_utf8(unsafe { std::slice::from_raw_parts(bytes.pointer, bytes.length) }).ok()
}

/// The object that a pointer of ours points at.
///
/// # Safety
/// The pointer came from [`give`] with this type, and was not taken back.
unsafe fn lend<'h, T>(pointer: *const c_void) -> &'h T {
    // SAFETY: the caller says so.
    unsafe { &*pointer.cast::<T>() }
}

/// Leaves an object to Envoy, which gives it back to [`take_back`].
fn give<T>(object: Option<T>) -> *const c_void {
    object.map_or(ptr::null(), |object| Box::into_raw(Box::new(object)).cast_const().cast())
}

/// Drops an object that Envoy held.
///
/// # Safety
/// As for [`lend`], and it is no longer in use.
unsafe fn take_back<T>(pointer: *const c_void) {
    // SAFETY: the caller says so.
    let object = unsafe { Box::from_raw(pointer.cast_mut().cast::<T>()) };
    caught((), || drop(object));
}

fn stream<'h>(pointer: *mut c_void) -> Stream<'h> {
    Stream { pointer, hook: PhantomData }
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    caught(ptr::null(), || {
        crate::log::start();
        super::version().as_ptr()
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    config: *mut c_void,
    _name: Bytes,
    settings: Bytes,
) -> *const c_void {
    caught(ptr::null(), || {
        let handle = ConfigHandle { pointer: config, hook: PhantomData };
        // SAFETY: Envoy's text of this filter's configuration, which lives while the hook runs.
        let settings = unsafe { text(settings) };
        give(FilterConfig::new(&handle, settings))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(config: *const c_void) {
    // SAFETY: Envoy gives back what `…_config_new` gave it, once, when no filter of it is left to be made.
    unsafe { take_back::<FilterConfig>(config) }
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_new(
    _name: Bytes,
    settings: Bytes,
) -> *const c_void {
    caught(ptr::null(), || {
        // SAFETY: Envoy's text of this route's configuration, which lives while the hook runs.
        let settings = unsafe { text(settings) };
        give(RouteSettings::read_or_log(settings))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_destroy(route: *const c_void) {
    // SAFETY: Envoy gives back what `…_per_route_config_new` gave it, once, when no request has this route any more.
    unsafe { take_back::<RouteSettings>(route) }
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_new(
    config: *const c_void,
    _filter: *mut c_void,
) -> *const c_void {
    // Null makes Envoy answer 500.
    caught(ptr::null(), || {
        // SAFETY: what `…_config_new` gave, and has not got back.
        let config: &FilterConfig = unsafe { lend(config) };
        give(Some(Filter::new(config)))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(
    envoy: *mut c_void,
    filter: *const c_void,
    _end_of_stream: bool,
) -> HeadersStatus {
    caught(HeadersStatus::StopAllIterationAndWatermark, || {
        // SAFETY: what `…_filter_new` gave, and has not got back.
        let filter: &Filter = unsafe { lend(filter) };
        filter.request_headers(&mut stream(envoy))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_request_body(
    _envoy: *mut c_void,
    filter: *const c_void,
    _end_of_stream: bool,
) -> BodyStatus {
    caught(BodyStatus::StopIterationAndWatermark, || {
        // SAFETY: what `…_filter_new` gave, and has not got back.
        let filter: &Filter = unsafe { lend(filter) };
        if filter.has_passed() { BodyStatus::Continue } else { BodyStatus::StopIterationAndWatermark }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_request_trailers(
    _envoy: *mut c_void,
    filter: *const c_void,
) -> TrailersStatus {
    caught(TrailersStatus::StopIteration, || {
        // SAFETY: what `…_filter_new` gave, and has not got back.
        let filter: &Filter = unsafe { lend(filter) };
        if filter.has_passed() { TrailersStatus::Continue } else { TrailersStatus::StopIteration }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_scheduled(
    envoy: *mut c_void,
    filter: *const c_void,
    _event: u64,
) {
    caught((), || {
        // SAFETY: what `…_filter_new` gave, and has not got back.
        let filter: &Filter = unsafe { lend(filter) };
        filter.resume(&mut stream(envoy));
    });
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_stream_complete(
    _envoy: *mut c_void,
    filter: *const c_void,
) {
    caught((), || {
        // SAFETY: what `…_filter_new` gave, and has not got back.
        let filter: &Filter = unsafe { lend(filter) };
        filter.abandon();
    });
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_destroy(filter: *const c_void) {
    // SAFETY: Envoy gives back what `…_filter_new` gave it, once, and calls no hook with it afterwards.
    unsafe { take_back::<Filter>(filter) }
}

/// Responses pass (0 is Continue), whatever happens here: the request was decided.
#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_response_headers(
    envoy: *mut c_void,
    filter: *const c_void,
    _end_of_stream: bool,
) -> u32 {
    caught((), || {
        // SAFETY: what `…_filter_new` gave, and has not got back.
        let filter: &Filter = unsafe { lend(filter) };
        filter.response_headers(&mut stream(envoy));
    });
    0
}

// Hooks that must be there and have nothing to do: responses pass, and nothing is called out.

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_response_body(
    _: *mut c_void,
    _: *const c_void,
    _: bool,
) -> u32 {
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_response_trailers(
    _: *mut c_void,
    _: *const c_void,
) -> u32 {
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_callout_done(
    _: *mut c_void,
    _: *const c_void,
    _: u64,
    _: u32,
    _: *mut HeaderPair,
    _: usize,
    _: *mut Bytes,
    _: usize,
) {
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_headers(
    _: *mut c_void,
    _: *const c_void,
    _: u64,
    _: *mut HeaderPair,
    _: usize,
    _: bool,
) {
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_data(
    _: *mut c_void,
    _: *const c_void,
    _: u64,
    _: *const Bytes,
    _: usize,
    _: bool,
) {
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_trailers(
    _: *mut c_void,
    _: *const c_void,
    _: u64,
    _: *mut HeaderPair,
    _: usize,
) {
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_complete(
    _: *mut c_void,
    _: *const c_void,
    _: u64,
) {
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_http_stream_reset(
    _: *mut c_void,
    _: *const c_void,
    _: u64,
    _: u32,
) {
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(
    _: *mut c_void,
    _: *const c_void,
) {
}

#[unsafe(no_mangle)]
pub extern "C" fn envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(
    _: *mut c_void,
    _: *const c_void,
) {
}
