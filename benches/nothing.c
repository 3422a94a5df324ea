/* A module for Envoy that lets every request pass.  It shows what Envoy's own part of a dynamic module costs.
 *
 * benches/envoy.py builds it twice.  As it stands, it does nothing.  With -DOUR_CALLS, it makes the calls of ABI that
 * our module makes for a request that passes with a token, with the same headers and metadata, and decides nothing.  The
 * hooks and calls are those that envoy-module/src/abi explains; 0 is "continue" for each hook. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct bytes { const char *pointer; size_t length; };
struct header { const char *key; size_t key_length; const char *value; size_t value_length; };

static int something;

const char *envoy_dynamic_module_on_program_init(void) { return "v0.2.0"; }

#define GIVES_SOMETHING(name) \
    const void *envoy_dynamic_module_on_http_filter_##name() { return &something; }
#define DOES_NOTHING(name) \
    int envoy_dynamic_module_on_http_filter_##name() { return 0; }

#ifdef OUR_CALLS

uint32_t envoy_dynamic_module_callback_http_filter_config_define_counter(
    void *config, struct bytes name, struct bytes *labels, size_t count, size_t *id);
uint32_t envoy_dynamic_module_callback_http_filter_config_define_histogram(
    void *config, struct bytes name, struct bytes *labels, size_t count, size_t *id);
uint32_t envoy_dynamic_module_callback_http_filter_increment_counter(
    void *filter, size_t id, struct bytes *labels, size_t count, uint64_t value);
uint32_t envoy_dynamic_module_callback_http_filter_record_histogram_value(
    void *filter, size_t id, struct bytes *labels, size_t count, uint64_t value);
const void *envoy_dynamic_module_callback_get_most_specific_route_config(void *filter);
size_t envoy_dynamic_module_callback_http_get_headers_size(void *filter, uint32_t kind);
bool envoy_dynamic_module_callback_http_get_headers(void *filter, uint32_t kind, struct header *headers);
bool envoy_dynamic_module_callback_http_set_header(
    void *filter, uint32_t kind, struct bytes key, struct bytes value);
void envoy_dynamic_module_callback_http_set_dynamic_metadata_struct(
    void *filter, struct bytes space, struct bytes message);

#define REQUEST 0
#define TEXT(text) ((struct bytes){text, sizeof(text) - 1})

static size_t decisions, credentials, durations;
static char metadata[256];
static size_t metadata_length;

/* Appends a length-delimited field of less than 128 bytes. */
static size_t put(char *into, int field, const char *bytes, size_t length) {
    into[0] = (char)(field << 3 | 2);
    into[1] = (char)length;
    memcpy(into + 2, bytes, length);
    return length + 2;
}

/* Appends an entry of `Struct.fields`: a name, and a `Value` of a kind (3: text, 5: a `Struct`). */
static size_t put_entry(char *into, const char *name, int kind, const char *bytes, size_t length) {
    char value[128], entry[128];
    size_t end = put(entry, 1, name, strlen(name));
    end += put(entry + end, 2, value, put(value, kind, bytes, length));
    return put(into, 1, entry, end);
}

static size_t put_text(char *into, const char *name, const char *text) {
    return put_entry(into, name, 3, text, strlen(text));
}

const void *envoy_dynamic_module_on_http_filter_config_new(void *config) {
    struct bytes of_decisions[] = {TEXT("outcome"), TEXT("reason"), TEXT("policy")};
    struct bytes of_credentials[] = {TEXT("kind")};
    envoy_dynamic_module_callback_http_filter_config_define_counter(
        config, TEXT("decisions"), of_decisions, 3, &decisions);
    envoy_dynamic_module_callback_http_filter_config_define_counter(
        config, TEXT("credentials"), of_credentials, 1, &credentials);
    envoy_dynamic_module_callback_http_filter_config_define_histogram(
        config, TEXT("decision_duration_us"), NULL, 0, &durations);
    char actor[128], credential[128];
    size_t of_actor = put_text(actor, "id", "a500");
    of_actor += put_text(actor + of_actor, "role", "Viewer");
    size_t of_credential = put_text(credential, "kind", "token");
    of_credential += put_text(credential + of_credential, "name", "t500");
    metadata_length = put_entry(metadata, "actor", 5, actor, of_actor);
    metadata_length += put_entry(metadata + metadata_length, "credential", 5, credential, of_credential);
    return &something;
}

int envoy_dynamic_module_on_http_filter_request_headers(void *filter) {
    struct header headers[64];
    envoy_dynamic_module_callback_get_most_specific_route_config(filter);
    if (envoy_dynamic_module_callback_http_get_headers_size(filter, REQUEST) <= 64)
        envoy_dynamic_module_callback_http_get_headers(filter, REQUEST, headers);
    struct bytes of_decisions[] = {TEXT("allowed"), TEXT(""), TEXT("default")};
    struct bytes of_credentials[] = {TEXT("token")};
    envoy_dynamic_module_callback_http_filter_increment_counter(filter, decisions, of_decisions, 3, 1);
    envoy_dynamic_module_callback_http_filter_increment_counter(filter, credentials, of_credentials, 1, 1);
    envoy_dynamic_module_callback_http_filter_record_histogram_value(filter, durations, NULL, 0, 1);
    struct bytes actor = TEXT("{\"id\":\"a500\",\"role\":\"Viewer\"}");
    envoy_dynamic_module_callback_http_set_header(filter, REQUEST, TEXT("x-actor"), actor);
    envoy_dynamic_module_callback_http_set_header(filter, REQUEST, TEXT("x-actor-id"), TEXT("a500"));
    envoy_dynamic_module_callback_http_set_header(filter, REQUEST, TEXT("x-actor-role"), TEXT("Viewer"));
    envoy_dynamic_module_callback_http_set_header(filter, REQUEST, TEXT("authorization"), (struct bytes){NULL, 0});
    envoy_dynamic_module_callback_http_set_dynamic_metadata_struct(
        filter, TEXT("envoy.filters.http.ext_authz"), (struct bytes){metadata, metadata_length});
    return 0;
}

#else

GIVES_SOMETHING(config_new)
DOES_NOTHING(request_headers)

#endif

GIVES_SOMETHING(per_route_config_new)
GIVES_SOMETHING(new)
DOES_NOTHING(config_destroy)
DOES_NOTHING(per_route_config_destroy)
DOES_NOTHING(destroy)
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
