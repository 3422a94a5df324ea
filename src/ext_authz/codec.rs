//! Bytes of gRPC to [`Attributes`](crate::attributes::Attributes), and decisions to bytes.

pub mod frame;
pub mod protobuf;
pub mod request;
pub mod response;
