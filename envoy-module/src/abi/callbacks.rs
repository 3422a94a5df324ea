//! The functions of Envoy's that we call: `source/extensions/dynamic_modules/abi/abi.h`, "Callbacks".

use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;

/// `type_module_buffer` and `type_envoy_buffer`: bytes of ours, or of Envoy's.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Bytes {
    pub pointer: *const u8,
    pub length: usize,
}

impl Bytes {
    pub const NULL: Self = Self { pointer: ptr::null(), length: 0 };

    pub fn of(bytes: &[u8]) -> Self {
        Self { pointer: bytes.as_ptr(), length: bytes.len() }
    }
}

/// `type_module_http_header` and `type_envoy_http_header`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HeaderPair {
    pub key: *const u8,
    pub key_length: usize,
    pub value: *const u8,
    pub value_length: usize,
}

unsafe extern "C" {
    // "Logging", "Server Mode".
    pub fn envoy_dynamic_module_callback_log(level: u32, message: Bytes);
    pub fn envoy_dynamic_module_callback_is_validation_mode() -> bool;

    // "Metrics callbacks".
    pub fn envoy_dynamic_module_callback_http_filter_config_define_counter(
        config: *mut c_void,
        name: Bytes,
        labels: *mut Bytes,
        labels_length: usize,
        id: *mut usize,
    ) -> u32;
    pub fn envoy_dynamic_module_callback_http_filter_increment_counter(
        filter: *mut c_void,
        id: usize,
        labels: *mut Bytes,
        labels_length: usize,
        value: u64,
    ) -> u32;
    pub fn envoy_dynamic_module_callback_http_filter_config_define_histogram(
        config: *mut c_void,
        name: Bytes,
        labels: *mut Bytes,
        labels_length: usize,
        id: *mut usize,
    ) -> u32;
    pub fn envoy_dynamic_module_callback_http_filter_record_histogram_value(
        filter: *mut c_void,
        id: usize,
        labels: *mut Bytes,
        labels_length: usize,
        value: u64,
    ) -> u32;

    // "HTTP Header/Trailer callbacks".
    pub fn envoy_dynamic_module_callback_http_get_headers_size(filter: *mut c_void, kind: u32) -> usize;
    pub fn envoy_dynamic_module_callback_http_get_headers(
        filter: *mut c_void,
        kind: u32,
        headers: *mut HeaderPair,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_set_header(
        filter: *mut c_void,
        kind: u32,
        key: Bytes,
        value: Bytes,
    ) -> bool;

    // "HTTP local response callbacks".
    pub fn envoy_dynamic_module_callback_http_send_response(
        filter: *mut c_void,
        status: u32,
        headers: *mut HeaderPair,
        headers_length: usize,
        body: Bytes,
        details: Bytes,
    );
    pub fn envoy_dynamic_module_callback_http_send_response_headers(
        filter: *mut c_void,
        headers: *mut HeaderPair,
        headers_length: usize,
        end_stream: bool,
    );

    // "Metadata Callbacks".
    pub fn envoy_dynamic_module_callback_http_set_dynamic_metadata_string(
        filter: *mut c_void,
        namespace: Bytes,
        key: Bytes,
        value: Bytes,
    );

    // "Tracing callbacks".
    pub fn envoy_dynamic_module_callback_http_get_active_span(filter: *mut c_void) -> *mut c_void;
    pub fn envoy_dynamic_module_callback_http_span_spawn_child(
        filter: *mut c_void,
        span: *mut c_void,
        operation: Bytes,
    ) -> *mut c_void;
    pub fn envoy_dynamic_module_callback_http_span_set_tag(span: *mut c_void, key: Bytes, value: Bytes);
    pub fn envoy_dynamic_module_callback_http_child_span_finish(span: *mut c_void);

    // "Misc Callbacks for HTTP Filters".
    pub fn envoy_dynamic_module_callback_http_filter_get_attribute_string(
        filter: *mut c_void,
        attribute: u32,
        value: *mut Bytes,
    ) -> bool;
    pub fn envoy_dynamic_module_callback_http_filter_continue_decoding(filter: *mut c_void);
    pub fn envoy_dynamic_module_callback_get_most_specific_route_config(filter: *mut c_void)
    -> *const c_void;
    pub fn envoy_dynamic_module_callback_http_filter_scheduler_new(filter: *mut c_void) -> *mut c_void;
    pub fn envoy_dynamic_module_callback_http_filter_scheduler_commit(scheduler: *mut c_void, event: u64);
    pub fn envoy_dynamic_module_callback_http_filter_scheduler_delete(scheduler: *mut c_void);
}

/// `callback_http_set_dynamic_metadata_struct`, which Envoy has since 1.40.
type SetMetadataStruct = unsafe extern "C" fn(*mut c_void, Bytes, Bytes);

/// It, where this Envoy has it.
pub fn metadata_struct() -> Option<SetMetadataStruct> {
    static FOUND: OnceLock<Option<SetMetadataStruct>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let name = c"envoy_dynamic_module_callback_http_set_dynamic_metadata_struct";
        // SAFETY: the name ends with a zero, and the handle means all that the process has loaded.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        // SAFETY: a function of that name has this shape (changelog of Envoy 1.40); null becomes `None`.
        unsafe { std::mem::transmute::<*mut c_void, Option<SetMetadataStruct>>(found) }
    })
}
