//! The API in the words of OpenAPI 3.1, at `/openapi.json`.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::body::Json;

/// `GET /openapi.json`
pub(super) async fn show() -> Json<Value> {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(document);
    Json(DOCUMENT.clone())
}

/// The document.
pub fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "envoy-auth-tokens: API keys",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Issues, lists, rotates, revokes and deletes API keys. \
                Paths and bodies are those of Grafana's authentication HTTP API.",
        },
        "security": [{"bearer": []}, {"basic": []}, {"session": []}],
        "paths": paths(),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A configured token or an API key."},
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "A user's name and password, or the name api_key and a token.",
                },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "eat_session",
                    "description": "What POST /login gives; __Host-eat_session where admin.public_url is https.",
                },
            },
            "schemas": schemas(),
        },
    })
}

fn paths() -> Value {
    let id = json!([{
        "name": "id",
        "in": "path",
        "required": true,
        "schema": {"type": "integer", "format": "int64"},
    }]);
    let query = |name: &str, schema: Value, description: &str| json!({"name": name, "in": "query", "schema": schema, "description": description});
    let message = reference("Message");
    let grafana = |summary: &str| {
        let answer = (summary, json!({"type": "object"}));
        json!({"get": {"summary": summary, "responses": responses(answer, &[400, 401, 403, 503])}})
    };
    let health = json!({
        "200": {"description": "It is up", "content": {"application/json": {"schema": reference("Health")}}},
        "503": {"description": "It is down", "content": {"application/json": {"schema": reference("Health")}}},
    });
    json!({
        "/api/auth/keys": {
            "get": {
                "summary": "The keys, by name",
                "description": "All live ones, or a page of them when perpage asks for one.",
                "parameters": [
                    query("includeExpired", json!({"type": "boolean"}), "The expired and the revoked ones, too."),
                    query("perpage", json!({"type": "integer", "minimum": 1}), "So many at a time."),
                    query("page", json!({"type": "integer", "minimum": 1}), "Which of the pages, from 1 on."),
                ],
                "responses": responses(
                    ("The keys", json!({"type": "array", "items": reference("Key")})),
                    &[400, 401, 403, 503],
                ),
            },
            "post": {
                "summary": "Create a key",
                "requestBody": body("NewKey", true),
                "responses": responses(
                    ("The key, whose token is shown this once", reference("Created")),
                    &[400, 401, 403, 408, 409, 413, 415, 503],
                ),
            },
        },
        "/api/auth/keys/{id}": {
            "parameters": &id,
            "get": {
                "summary": "One key, live or dead",
                "responses": responses(("The key", reference("Key")), &[400, 401, 403, 404, 503]),
            },
            "delete": {
                "summary": "Delete a key",
                "responses": responses(("It is deleted", message.clone()), &[400, 401, 403, 404, 503]),
            },
        },
        "/api/auth/keys/{id}/revoke": {
            "parameters": &id,
            "post": {
                "summary": "Revoke a key, which stays in the list of the dead",
                "responses": responses(("It is revoked, now or before", message.clone()), &[400, 401, 403, 404, 503]),
            },
        },
        "/api/auth/keys/{id}/rotate": {
            "parameters": &id,
            "post": {
                "summary": "Give a key another token",
                "description": "Its expiry stays. The old token works for overlapSeconds more.",
                "requestBody": body("Rotation", false),
                "responses": responses(
                    ("The key, whose new token is shown this once", reference("Created")),
                    &[400, 401, 403, 404, 408, 409, 413, 415, 503],
                ),
            },
        },
        "/api/auth/actor": {
            "get": {
                "summary": "Who the caller is",
                "responses": responses(("The caller's own actor", json!({"type": "object"})), &[400, 401, 503]),
            },
        },
        "/api/health": {
            "get": {
                "summary": "Whether the key store can be read",
                "security": [],
                "responses": health,
            },
        },
        "/api/org": grafana("The organization, for clients of Grafana"),
        "/api/user": grafana("The caller, for clients of Grafana"),
        "/api/login/ping": grafana("Whether the caller is logged in, for clients of Grafana"),
        "/api/frontend/settings": grafana("The build, for clients of Grafana"),
        "/login": {
            "post": {
                "summary": "Open a session",
                "security": [],
                "requestBody": body("LogIn", true),
                "responses": with_cookie(responses(
                    ("The session's cookie is set", message.clone()),
                    &[400, 401, 403, 408, 413, 415, 503],
                )),
            },
        },
        "/logout": {
            "post": {
                "summary": "Close the session",
                "security": [],
                "responses": with_cookie(responses(("The cookie is cleared", message), &[403, 503])),
            },
        },
        "/openapi.json": {
            "get": {
                "summary": "This document",
                "security": [],
                "responses": responses(("This document", json!({"type": "object"})), &[]),
            },
        },
        "/": {
            "get": {
                "summary": "The page for people",
                "security": [],
                "responses": {"200": {
                    "description": "The page",
                    "content": {"text/html": {"schema": {"type": "string"}}},
                }},
            },
        },
    })
}

fn schemas() -> Value {
    let time = json!({"type": "string", "format": "date-time"});
    let id = json!({"type": "integer", "format": "int64"});
    let name = json!({"type": "string", "minLength": 1, "maxLength": 190});
    let role = json!({"type": "string", "enum": ["Viewer", "Editor", "Admin"]});
    json!({
        "Key": {
            "type": "object",
            "required": ["id", "name", "role", "created"],
            "properties": {
                "id": &id,
                "name": &name,
                "role": &role,
                "expiration": described(&time, "Left out when the key never expires."),
                "lastUsedAt": described(&time, "Left out when the key was never used; exact to a minute."),
                "created": &time,
                "isRevoked": {"type": "boolean", "description": "Left out when it is not."},
            },
        },
        "NewKey": {
            "type": "object",
            "required": ["name", "role"],
            "properties": {
                "name": described(&name, "Printable, without blanks at the ends, and no live key's already."),
                "role": &role,
                "secondsToLive": {
                    "type": ["integer", "null"],
                    "minimum": 0,
                    "description": "Without it, or with 0, the key never expires, where keys.max_seconds_to_live lets it.",
                },
                "actor": {
                    "type": ["object", "null"],
                    "description": "More members of the key's actor, of those that keys.actor_members lists.",
                },
                "policies": {
                    "type": ["array", "null"],
                    "items": {"type": "string"},
                    "maxItems": 100,
                    "uniqueItems": true,
                    "description": "The only policies under which the key counts.",
                },
            },
        },
        "Created": {
            "type": "object",
            "required": ["id", "name", "key"],
            "properties": {"id": &id, "name": &name, "key": {"type": "string", "description": "The token."}},
        },
        "Rotation": {
            "type": "object",
            "properties": {"overlapSeconds": {"type": ["integer", "null"], "minimum": 0, "maximum": 604_800, "default": 0}},
        },
        "LogIn": {
            "type": "object",
            "required": ["user", "password"],
            "properties": {"user": {"type": "string"}, "password": {"type": "string", "format": "password"}},
        },
        "Message": {
            "type": "object",
            "required": ["message"],
            "properties": {"message": {"type": "string"}},
        },
        "Health": {
            "type": "object",
            "required": ["database", "version"],
            "properties": {
                "database": {"type": "string", "enum": ["ok", "failing"]},
                "version": {"type": "string"},
                "commit": {"type": "string", "description": "For callers with a token, a key or a session."},
            },
        },
        "Error": {
            "type": "object",
            "required": ["message"],
            "properties": {
                "message": {"type": "string"},
                "details": {
                    "type": "array",
                    "description": "The members of the body that are at fault; left out when none is.",
                    "items": {
                        "type": "object",
                        "required": ["field", "problem"],
                        "properties": {"field": {"type": "string"}, "problem": {"type": "string"}},
                    },
                },
            },
        },
    })
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn described(schema: &Value, description: &str) -> Value {
    let mut schema = schema.clone();
    schema["description"] = description.into();
    schema
}

fn body(schema: &str, required: bool) -> Value {
    json!({"required": required, "content": {"application/json": {"schema": reference(schema)}}})
}

/// 200 with a body of this schema, and each of these with a message.
fn responses((description, schema): (&str, Value), errors: &[u16]) -> Value {
    let json = |schema: Value| json!({"application/json": {"schema": schema}});
    let mut responses = Map::new();
    responses.insert("200".to_owned(), json!({"description": description, "content": json(schema)}));
    for &error in errors {
        let description = match error {
            400 => {
                "The request makes no sense: bad request data, an invalid role, a life that may not be, an id that is none"
            }
            401 => "No credential, or none that counts",
            403 => "The caller may not; the quota is reached; another site caused the request",
            404 => "There is no such key",
            408 => "The body did not arrive within 10 seconds",
            409 => "The name is taken; the key is dead",
            413 => "The body has more than 64 KiB",
            415 => "The body is not application/json",
            _ => "The key store cannot be asked",
        };
        let answer = json!({"description": description, "content": json(reference("Error"))});
        responses.insert(error.to_string(), answer);
    }
    Value::Object(responses)
}

fn with_cookie(mut responses: Value) -> Value {
    responses["200"]["headers"] = json!({"Set-Cookie": {"schema": {"type": "string"}}});
    responses
}
