//! What we are measured against: the smallest ext_authz server on tonic and envoy-types.
//!
//! It compares one text with the `authorization` header and answers with one header.
//! Nothing else that a server needs is here: no look-up, no policy, no metrics, no log, no limits.
//! `benches/run.sh` starts it with the address to listen on.

use std::error::Error;
use std::net::SocketAddr;

use envoy_types::ext_authz::v3::pb::{
    Authorization, AuthorizationServer, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue,
    HeaderValueOption, HttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::rpc;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// The same as our server's: the comparison is not about allocators.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The token of `check_request.bin`.
const EXPECTED: &str = "Bearer eat_bench0KnownToken0000000000000000000000";

struct AllowAll;

#[tonic::async_trait]
impl Authorization for AllowAll {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let request = request.into_inner();
        let http =
            request.attributes.and_then(|attributes| attributes.request).and_then(|request| request.http);
        let answer = if http.is_some_and(|http| is_expected(&http)) { allowed() } else { denied() };
        Ok(Response::new(answer))
    }
}

/// Envoy fills `headers`, or with `encode_raw_headers` the header map.
fn is_expected(http: &HttpRequest) -> bool {
    match (http.headers.get("authorization"), &http.header_map) {
        (Some(value), _) => value == EXPECTED,
        (None, Some(map)) => {
            let header = map.headers.iter().find(|header| header.key == "authorization");
            header.is_some_and(|header| header.raw_value == EXPECTED.as_bytes())
        }
        (None, None) => false,
    }
}

fn allowed() -> CheckResponse {
    let header =
        HeaderValue { key: "x-actor".to_owned(), value: "bench".to_owned(), ..HeaderValue::default() };
    let headers = vec![HeaderValueOption { header: Some(header), ..HeaderValueOption::default() }];
    CheckResponse {
        status: Some(rpc::Status::default()),
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers,
            ..OkHttpResponse::default()
        })),
        ..CheckResponse::default()
    }
}

fn denied() -> CheckResponse {
    const UNAUTHENTICATED: i32 = 16;
    const UNAUTHORIZED: i32 = 401;
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: UNAUTHORIZED }),
        ..DeniedHttpResponse::default()
    };
    CheckResponse {
        status: Some(rpc::Status { code: UNAUTHENTICATED, ..rpc::Status::default() }),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
        ..CheckResponse::default()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: allow-all ADDRESS, as benches/run.sh starts it")?;
    let address: SocketAddr = address.parse()?;
    // One thread that answers, on the same kind of runtime as `serve --workers 1`.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let server = Server::builder().add_service(AuthorizationServer::new(AllowAll)).serve(address);
        tokio::spawn(server).await??;
        Ok(())
    })
}
