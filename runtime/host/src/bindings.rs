//! Bindings of our own interfaces, generated from `wit/`; wasmtime's crates bring WASI's. Nothing else.

#![allow(missing_docs, unreachable_pub, reason = "generated")]

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "cloudlet:platform/call-function",
    imports: {
        "cloudlet:auth/identity": trappable,
        "wasi:config/store": trappable,
        "wasi:logging/logging": trappable,
        "cloudlet:database/documents.[static]collection.open": trappable,
        "cloudlet:storage/objects.file-id": trappable,
        "cloudlet:storage/objects.start-upload": trappable,
        "cloudlet:storage/objects.[method]upload.body": trappable,
        default: async | trappable,
    },
    exports: { default: async },
    require_store_data_send: true,
    with: {
        "wasi:io": wasmtime_wasi::p2::bindings::io,
        "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
        "wasi:http": wasmtime_wasi_http::p2::bindings::http,
        "cloudlet:database/documents.collection": crate::imports::db::Collection,
        "cloudlet:database/documents.cursor": crate::imports::db::GuestCursor,
        "cloudlet:storage/objects.upload": crate::imports::storage::Upload,
    },
    trappable_error_type: {
        "cloudlet:database/documents.error" => crate::imports::Failure,
        "cloudlet:storage/objects.error" => crate::imports::Failure,
    },
});
