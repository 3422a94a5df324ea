//! A decision step by step.  As JSON its members are a promise: scripts read them.

use serde::Serialize;
use serde_json::Value;

use super::log_line::LoggedComparison;

/// Everything that `explain` prints.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    /// The configuration's file.
    pub configuration: String,
    /// The request as it was understood.
    pub request: ExplainedRequest,
    /// How its policy was selected.
    pub selection: Selection,
    /// The content of each location of a credential.
    pub locations: Vec<LocationContent>,
    /// The principal of the credential.
    pub identity: Step,
    /// Whether the policy admits them; `null` when the request was denied before.
    pub admission: Option<Step>,
    /// `allowed`, `shadowed` or `denied`.
    pub decision: &'static str,
    /// The word of logs and metrics.
    pub reason: &'static str,
    /// The policy that governs.
    pub policy: Option<String>,
    /// The credential that was authenticated.
    pub credential: Option<ExplainedCredential>,
    /// The actor behind it.
    pub actor: Option<Value>,
    /// The policy's allow block.
    pub allow: Option<Value>,
    /// The actor as whom the request passes, or `anonymous`.
    pub passes_as: Option<Value>,
    /// Whether the browser is sent to the log-in page, or why not; `null` where that is off, or no credential is missing.
    pub redirect: Option<Step>,
    /// The answer to Envoy.
    pub answer: ExplainedAnswer,
    /// What else has to be known.
    pub notes: Vec<String>,
    /// The line of the decision log that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logged: Option<LoggedComparison>,
}

/// The request.  Values of headers and the query stay out of it.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedRequest {
    pub method: String,
    pub host: String,
    pub path: String,
    pub headers: Vec<String>,
    /// The policy that Envoy's route names.
    pub policy: Option<String>,
}

/// A position in the configuration.
#[derive(Debug, Clone, Serialize)]
pub(super) struct KeyPosition {
    /// Such as `routes[2]`.
    pub key: String,
    /// `null` where a default holds.
    pub line: Option<u32>,
    pub column: Option<u32>,
}

/// How the policy was selected.
#[derive(Debug, Serialize)]
pub(super) struct Selection {
    pub by: SelectedBy,
    /// The host as routes compare it.
    pub host: Option<String>,
    /// The path as routes compare it.
    pub path: Option<String>,
    /// Every route that was compared, in order; the last one may match.
    pub routes: Vec<ComparedRoute>,
    /// The position of the policy.
    pub at: Option<KeyPosition>,
}

/// What selected the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SelectedBy {
    /// A CORS preflight needs no policy.
    Preflight,
    /// Envoy's route.
    ContextExtensions,
    /// The last of the routes.
    Route,
    /// No route matched.
    Default,
    /// The request was denied before.
    Nothing,
}

/// A route that was compared.
#[derive(Debug, Serialize)]
pub(super) struct ComparedRoute {
    #[serde(flatten)]
    pub at: KeyPosition,
    pub matches: bool,
    /// `host`, `path` or `method`: the first that is another.
    pub differs: Option<&'static str>,
}

/// A location, and what it carries.
#[derive(Debug, Serialize)]
pub(super) struct LocationContent {
    /// Such as `bearer` or `header x-api-key`.
    pub location: String,
    /// `nothing`, `not_ours`, `token`, `password`, `session`, `not_asked`, or the reason of a denial.
    pub carries: &'static str,
    #[serde(flatten)]
    pub at: KeyPosition,
}

/// A step as a sentence, and the position in the configuration that it is about.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    pub says: String,
    pub at: Option<KeyPosition>,
}

/// A credential that was authenticated.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedCredential {
    pub kind: &'static str,
    pub name: String,
    /// The number of an API key.
    pub id: Option<i64>,
    /// The only policies under which it counts.
    pub policies: Option<Vec<String>>,
    pub expires: Option<String>,
    pub at: Option<KeyPosition>,
}

/// The answer to Envoy.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedAnswer {
    /// The status code of the CheckResponse: 0 lets the request pass.
    pub code: i32,
    /// The HTTP status of a denial.
    pub status: Option<i32>,
    /// The headers of a denial, each as `name: value`.
    pub headers: Vec<String>,
    /// The body of a denial.
    pub body: Option<String>,
    /// The headers that are added to the request, each as `name: value`.
    pub set_headers: Vec<String>,
    pub remove_headers: Vec<String>,
    pub remove_query_parameters: Vec<String>,
    /// What the client gets with the application's answer, each as `name: value`.
    pub set_response_headers: Vec<String>,
    /// The dynamic metadata.
    pub metadata: Value,
}
