"""The native edge: gRPC served by a Rust extension, and its Python side (ARCHITECTURE.md)."""
