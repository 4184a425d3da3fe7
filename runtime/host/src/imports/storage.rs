//! `cloudlet:storage/objects`: checks the path against the grants, then asks the store as the app.

use bytes::Bytes;
use cloudlet_blob::{Body, ObjectInfo as Info};
use futures_util::stream;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use super::content::{self, Upload};
use super::{Failure, View, storage_error};
use crate::bindings::cloudlet::storage::objects::{self, ObjectInfo, PutOptions};

/// Most objects in one listing.
const LIST_MAX: u32 = 1000;

impl objects::Host for View<'_> {
    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<objects::Error> {
        storage_error(failure)
    }

    async fn put(
        &mut self,
        path: String,
        content: Vec<u8>,
        options: PutOptions,
    ) -> Result<ObjectInfo, Failure> {
        self.check_path(&path)?;
        let body: Body = Box::pin(stream::iter([Ok(Bytes::from(content))]));
        let app = &self.run.app;
        let options = content::put_options(&path, options.content_type, options.owner);
        let info = app.services.blobs.put(&app.app, &path, options, body).await?;
        Ok(describe(info))
    }

    fn start_upload(&mut self, path: String, options: PutOptions) -> Result<Resource<Upload>, Failure> {
        self.check_path(&path)?;
        let options = content::put_options(&path, options.content_type, options.owner);
        let upload = Upload::to(self.run, path, options)?;
        Ok(self.table.push(upload)?)
    }

    async fn get(&mut self, path: String) -> Result<Vec<u8>, Failure> {
        self.check_path(&path)?;
        let app = &self.run.app;
        let info = app.services.blobs.head(&app.app, &path).await?;
        content::check_whole(info.size, "open")?;
        let opened = content::open(app, &info, 0..info.size).await?;
        content::whole(opened, info.size).await
    }

    async fn open(
        &mut self,
        path: String,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Resource<DynInputStream>, Failure> {
        self.check_path(&path)?;
        let app = &self.run.app;
        let info = app.services.blobs.head(&app.app, &path).await?;
        if offset > info.size {
            return Err(Failure::invalid(format!(
                "offset {offset} is beyond the object's {} bytes",
                info.size
            )));
        }
        let end = length.map_or(info.size, |length| offset.saturating_add(length).min(info.size));
        let opened = content::open(app, &info, offset..end).await?;
        Ok(self.table.push(content::stream_of(opened))?)
    }

    async fn head(&mut self, path: String) -> Result<ObjectInfo, Failure> {
        self.check_path(&path)?;
        let app = &self.run.app;
        Ok(describe(app.services.blobs.head(&app.app, &path).await?))
    }

    async fn delete(&mut self, path: String) -> Result<bool, Failure> {
        self.check_path(&path)?;
        let app = &self.run.app;
        Ok(app.services.blobs.delete(&app.app, &path).await?)
    }

    async fn list(
        &mut self,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> Result<Vec<ObjectInfo>, Failure> {
        self.check_path(&prefix)?;
        if !(1..=LIST_MAX).contains(&limit) {
            return Err(Failure::invalid(format!("limit {limit} is not 1 to {LIST_MAX}")));
        }
        let app = &self.run.app;
        let found = app
            .services
            .blobs
            .list(&app.app, &prefix, after.as_deref(), limit as usize)
            .await?;
        Ok(found.into_iter().map(describe).collect())
    }

    fn file_id(&mut self, path: String) -> wasmtime::Result<String> {
        let app = &self.run.app;
        Ok(format!("cloud://{}.{}/{path}", app.app, app.services.bucket))
    }
}

impl objects::HostUpload for View<'_> {
    fn body(&mut self, this: Resource<Upload>) -> Result<Resource<DynOutputStream>, Failure> {
        let body = self.table.get_mut(&this)?.body();
        let body = body.ok_or_else(|| Failure::invalid("the body of this upload was taken already"))?;
        Ok(self.table.push(body)?)
    }

    async fn finish(&mut self, this: Resource<Upload>) -> Result<ObjectInfo, Failure> {
        let stored = self.table.delete(this)?.finish().await?;
        stored
            .map(describe)
            .ok_or_else(|| Failure::invalid("this upload has no path"))
    }

    async fn drop(&mut self, this: Resource<Upload>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

fn describe(info: Info) -> ObjectInfo {
    ObjectInfo {
        path: info.path.to_string(),
        size: info.size,
        etag: format!("\"{}\"", info.hash),
        content_type: info.content_type.to_string(),
        owner: info.owner.as_deref().map(str::to_owned),
        modified_ms: info.modified.millis(),
    }
}
