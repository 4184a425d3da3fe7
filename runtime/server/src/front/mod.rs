//! The HTTP front: listeners, TLS, connections, the phases of a request.
