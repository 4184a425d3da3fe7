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
        "cloudlet:storage/objects.upload": crate::imports::content::Upload,
    },
    trappable_error_type: {
        "cloudlet:database/documents.error" => crate::imports::Failure,
        "cloudlet:storage/objects.error" => crate::imports::Failure,
    },
});

/// The interfaces of other platforms. `wasi:config` above is linked by hand, for it has several names.
pub(crate) mod standards {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "cloudlet:platform/standards",
        imports: { default: async | trappable },
        require_store_data_send: true,
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:keyvalue/store@0.2.0-draft.bucket": crate::keyvalue::Store,
            "wasi:keyvalue/store@0.2.0-draft2.bucket": crate::keyvalue::Store,
            "wasi:keyvalue/atomics@0.2.0-draft2.cas": crate::keyvalue::Cas,
            "wasi:blobstore/types.outgoing-value": crate::imports::content::Upload,
            "wasi:blobstore/types.incoming-value": crate::imports::blobstore::IncomingValue,
            "wasi:blobstore/container.container": crate::imports::blobstore::Container,
            "wasi:blobstore/container.stream-object-names": crate::imports::blobstore::Names,
            "fermyon:spin/key-value.store": crate::keyvalue::Store,
        },
        trappable_error_type: {
            "wasi:keyvalue/store@0.2.0-draft.error" => crate::imports::Failure,
            "wasi:keyvalue/store@0.2.0-draft2.error" => crate::imports::Failure,
            "fermyon:spin/key-value.error" => crate::imports::Failure,
        },
    });
}
