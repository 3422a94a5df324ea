//! gRPC reflection (`serve --reflection`): a generic client can list and call the services of this listener.

use tonic::service::Routes;
use tonic_reflection::server::{Builder, Error};

use super::tonic_services::MAX_MESSAGE;

/// The paths of its methods.  Where reflection is off, tonic answers them with UNIMPLEMENTED.
pub const PATHS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/reflection.bin"));

/// Adds both versions of the reflection service.
///
/// # Errors
/// The descriptors cannot be read.
pub fn add_to(routes: Routes) -> Result<Routes, Error> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = builder().build_v1()?.max_decoding_message_size(MAX_MESSAGE);
    let v1alpha = builder().build_v1alpha()?.max_decoding_message_size(MAX_MESSAGE);
    Ok(routes.add_service(v1).add_service(v1alpha))
}
