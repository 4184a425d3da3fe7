//! The client API: the CloudBase protocols that the SDKs speak.
