/* A module for Envoy that lets every request pass and does nothing: what Envoy's own part of a dynamic module costs.
 *
 * Built by benches/envoy.py.  The hooks are those that envoy-module/src/abi/exports.rs explains; 0 is "continue" for each. */

static int something;

const char *envoy_dynamic_module_on_program_init(void) { return "v0.2.0"; }

#define GIVES_SOMETHING(name) \
    const void *envoy_dynamic_module_on_http_filter_##name() { return &something; }
#define DOES_NOTHING(name) \
    int envoy_dynamic_module_on_http_filter_##name() { return 0; }

GIVES_SOMETHING(config_new)
GIVES_SOMETHING(per_route_config_new)
GIVES_SOMETHING(new)
DOES_NOTHING(config_destroy)
DOES_NOTHING(per_route_config_destroy)
DOES_NOTHING(destroy)
DOES_NOTHING(request_headers)
DOES_NOTHING(request_body)
DOES_NOTHING(request_trailers)
DOES_NOTHING(response_headers)
DOES_NOTHING(response_body)
DOES_NOTHING(response_trailers)
DOES_NOTHING(scheduled)
DOES_NOTHING(stream_complete)
DOES_NOTHING(http_callout_done)
DOES_NOTHING(http_stream_headers)
DOES_NOTHING(http_stream_data)
DOES_NOTHING(http_stream_trailers)
DOES_NOTHING(http_stream_complete)
DOES_NOTHING(http_stream_reset)
DOES_NOTHING(downstream_above_write_buffer_high_watermark)
DOES_NOTHING(downstream_below_write_buffer_low_watermark)
