//! The API of towpathd: gRPC messages and client.
