//! `wasi:blobstore` 0.2.0-draft on the app's own objects: the container `photos` is everything under `photos/` in the
//! app's bucket. There is a container wherever `grants.storage` covers its prefix, with or without objects in it.

use std::sync::Arc;

use cloudlet_blob::{ObjectInfo, Opened};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use super::content::{self, Upload};
use super::{Failure, View};
use crate::bindings::standards::wasi::blobstore::{blobstore, container, types};

/// Most names in one page of a listing, and in one removal.
const NAMES_MAX: usize = 1000;

/// What functions of this interface give: a value or a text for the guest, or a trap.
type Told<T> = wasmtime::Result<Result<T, String>>;

/// A guest's handle of a container.
#[expect(unreachable_pub, reason = "bindgen re-exports it")]
pub struct Container {
    name: Arc<str>,
}

/// Content that a guest may read.
#[expect(unreachable_pub, reason = "bindgen re-exports it")]
pub struct IncomingValue {
    opened: Opened,
    size: u64,
}

/// A listing under way.
#[expect(unreachable_pub, reason = "bindgen re-exports it")]
pub struct Names {
    container: Arc<str>,
    /// The path after which it goes on.
    after: Option<String>,
    ended: bool,
}

impl types::Host for View<'_> {}

impl types::HostOutgoingValue for View<'_> {
    async fn new_outgoing_value(&mut self) -> wasmtime::Result<Resource<Upload>> {
        // There is no error to tell here, so what is over the limit is a trap.
        let upload = match Upload::unstarted(self.run) {
            Ok(upload) => upload,
            Err(Failure::Told { message, .. }) => return Err(wasmtime::Error::msg(message)),
            Err(Failure::Trap(error)) => return Err(error),
        };
        Ok(self.table.push(upload)?)
    }

    async fn outgoing_value_write_body(
        &mut self,
        this: Resource<Upload>,
    ) -> wasmtime::Result<Result<Resource<DynOutputStream>, ()>> {
        let Some(body) = self.table.get_mut(&this)?.body() else {
            return Ok(Err(()));
        };
        Ok(Ok(self.table.push(body)?))
    }

    async fn finish(&mut self, this: Resource<Upload>) -> Told<()> {
        let upload = self.table.delete(this)?;
        told(match upload.finish().await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Failure::invalid(
                "the value was given to no container, so nothing is stored; call write-data before finish",
            )),
            Err(error) => Err(error.into()),
        })
    }

    async fn drop(&mut self, this: Resource<Upload>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl types::HostIncomingValue for View<'_> {
    async fn incoming_value_consume_sync(&mut self, this: Resource<IncomingValue>) -> Told<Vec<u8>> {
        let IncomingValue { opened, size } = self.table.delete(this)?;
        told(match content::check_whole(size, "incoming-value-consume-async") {
            Ok(()) => content::whole(opened, size).await,
            Err(failure) => Err(failure),
        })
    }

    async fn incoming_value_consume_async(
        &mut self,
        this: Resource<IncomingValue>,
    ) -> Told<Resource<DynInputStream>> {
        let value = self.table.delete(this)?;
        Ok(Ok(self.table.push(content::stream_of(value.opened))?))
    }

    async fn size(&mut self, this: Resource<IncomingValue>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&this)?.size)
    }

    async fn drop(&mut self, this: Resource<IncomingValue>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl container::Host for View<'_> {}

impl container::HostContainer for View<'_> {
    async fn name(&mut self, this: Resource<Container>) -> Told<String> {
        Ok(Ok(self.table.get(&this)?.name.to_string()))
    }

    async fn info(&mut self, this: Resource<Container>) -> Told<container::ContainerMetadata> {
        Ok(Ok(container::ContainerMetadata {
            name: self.table.get(&this)?.name.to_string(),
            // It was there as soon as it was granted.
            created_at: 0,
        }))
    }

    async fn get_data(
        &mut self,
        this: Resource<Container>,
        name: String,
        start: u64,
        end: u64,
    ) -> Told<Resource<IncomingValue>> {
        let path = self.path_in(&this, &name)?;
        told(match self.open_value(&path, start, end).await {
            Ok(value) => self.table.push(value).map_err(Failure::from),
            Err(failure) => Err(failure),
        })
    }

    async fn write_data(
        &mut self,
        this: Resource<Container>,
        name: String,
        data: Resource<Upload>,
    ) -> Told<()> {
        let path = self.path_in(&this, &name)?;
        if let Err(failure) = self.check_path(&path) {
            return told(Err(failure));
        }
        let options = content::put_options(&path, String::new(), None);
        let app = &self.run.app;
        Ok(match self.table.get_mut(&data)?.start(app, path, options) {
            true => Ok(()),
            false => Err("this value was given to a container already; make another one".to_owned()),
        })
    }

    async fn list_objects(&mut self, this: Resource<Container>) -> Told<Resource<Names>> {
        let container = Arc::clone(&self.table.get(&this)?.name);
        Ok(Ok(self.table.push(Names {
            container,
            after: None,
            ended: false,
        })?))
    }

    async fn delete_object(&mut self, this: Resource<Container>, name: String) -> Told<()> {
        self.delete_objects(this, vec![name]).await
    }

    async fn delete_objects(&mut self, this: Resource<Container>, names: Vec<String>) -> Told<()> {
        if names.len() > NAMES_MAX {
            return Ok(Err(format!(
                "{} objects to remove at once, over the limit of {NAMES_MAX}",
                names.len()
            )));
        }
        for name in names {
            let path = self.path_in(&this, &name)?;
            if let Err(failure) = self.remove(&path).await {
                return told(Err(failure));
            }
        }
        Ok(Ok(()))
    }

    async fn has_object(&mut self, this: Resource<Container>, name: String) -> Told<bool> {
        let path = self.path_in(&this, &name)?;
        told(match self.look_up(&path).await {
            Ok(_) => Ok(true),
            Err(Failure::Told {
                kind: cloudlet_base::Fault::NotFound,
                ..
            }) => Ok(false),
            Err(failure) => Err(failure),
        })
    }

    async fn object_info(
        &mut self,
        this: Resource<Container>,
        name: String,
    ) -> Told<container::ObjectMetadata> {
        let container = self.table.get(&this)?.name.to_string();
        let path = self.path_in(&this, &name)?;
        told(self.look_up(&path).await.map(|info| container::ObjectMetadata {
            name,
            container,
            created_at: u64::try_from(info.modified.millis() / 1000).unwrap_or(0),
            size: info.size,
        }))
    }

    async fn clear(&mut self, this: Resource<Container>) -> Told<()> {
        let name = Arc::clone(&self.table.get(&this)?.name);
        told(self.clear_container(&name).await)
    }

    async fn drop(&mut self, this: Resource<Container>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl container::HostStreamObjectNames for View<'_> {
    async fn read_stream_object_names(
        &mut self,
        this: Resource<Names>,
        len: u64,
    ) -> Told<(Vec<String>, bool)> {
        told(self.next_names(&this, len).await)
    }

    async fn skip_stream_object_names(&mut self, this: Resource<Names>, num: u64) -> Told<(u64, bool)> {
        let mut skipped = 0;
        loop {
            match self.next_names(&this, num - skipped).await {
                Ok((names, ended)) => {
                    skipped += names.len() as u64;
                    if ended || skipped == num {
                        return Ok(Ok((skipped, ended)));
                    }
                }
                Err(failure) => return told(Err(failure)),
            }
        }
    }

    async fn drop(&mut self, this: Resource<Names>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl blobstore::Host for View<'_> {
    async fn create_container(&mut self, name: String) -> Told<Resource<Container>> {
        told(self.open_container(&name))
    }

    async fn get_container(&mut self, name: String) -> Told<Resource<Container>> {
        told(self.open_container(&name))
    }

    async fn delete_container(&mut self, name: String) -> Told<()> {
        told(self.clear_container(&name).await)
    }

    async fn container_exists(&mut self, name: String) -> Told<bool> {
        Ok(Ok(self.check_container(&name).is_ok()))
    }

    async fn copy_object(&mut self, src: types::ObjectId, dest: types::ObjectId) -> Told<()> {
        told(self.copy(&path_of(&src), &path_of(&dest)).await)
    }

    async fn move_object(&mut self, src: types::ObjectId, dest: types::ObjectId) -> Told<()> {
        let (from, to) = (path_of(&src), path_of(&dest));
        told(match self.copy(&from, &to).await {
            Ok(()) if from != to => self.remove(&from).await,
            other => other,
        })
    }
}

impl View<'_> {
    /// Whether the function is granted everything in the container.
    fn check_container(&self, name: &str) -> Result<(), Failure> {
        if name.is_empty() || name.starts_with('/') || name.ends_with('/') {
            return Err(Failure::invalid(format!(
                "container name {name:?} is empty, or begins or ends with a slash"
            )));
        }
        self.check_path(&format!("{name}/"))
    }

    fn open_container(&mut self, name: &str) -> Result<Resource<Container>, Failure> {
        self.check_container(name)?;
        Ok(self.table.push(Container { name: name.into() })?)
    }

    /// Where an object of this container is in the bucket.
    fn path_in(&self, this: &Resource<Container>, name: &str) -> wasmtime::Result<String> {
        Ok(format!("{}/{name}", self.table.get(this)?.name))
    }

    async fn look_up(&mut self, path: &str) -> Result<ObjectInfo, Failure> {
        self.check_path(path)?;
        let app = &self.run.app;
        Ok(app.services.blobs.head(&app.app, path).await?)
    }

    async fn remove(&mut self, path: &str) -> Result<(), Failure> {
        self.check_path(path)?;
        let app = &self.run.app;
        app.services.blobs.delete(&app.app, path).await?;
        Ok(())
    }

    /// Opens the bytes from `start` to `last`, or to the object's end.
    async fn open_value(&mut self, path: &str, start: u64, last: u64) -> Result<IncomingValue, Failure> {
        let info = self.look_up(path).await?;
        let end = last.saturating_add(1).min(info.size);
        if start > end || (start == end && info.size > 0) {
            return Err(Failure::invalid(format!(
                "bytes {start} to {last} are none of the object's {} bytes",
                info.size
            )));
        }
        Ok(IncomingValue {
            opened: content::open(&self.run.app, &info, start..end).await?,
            size: end - start,
        })
    }

    async fn copy(&mut self, from: &str, to: &str) -> Result<(), Failure> {
        self.check_path(to)?;
        let info = self.look_up(from).await?;
        if from == to {
            return Ok(());
        }
        let app = &self.run.app;
        let body = content::body_of(content::open(app, &info, 0..info.size).await?);
        let owner = info.owner.as_deref().map(str::to_owned);
        let options = content::put_options(to, info.content_type.to_string(), owner);
        app.services.blobs.put(&app.app, to, options, body).await?;
        Ok(())
    }

    async fn clear_container(&mut self, name: &str) -> Result<(), Failure> {
        self.check_container(name)?;
        let app = &self.run.app;
        let prefix = format!("{name}/");
        loop {
            let found = app
                .services
                .blobs
                .list(&app.app, &prefix, None, NAMES_MAX)
                .await?;
            for info in &found {
                app.services.blobs.delete(&app.app, &info.path).await?;
            }
            if found.len() < NAMES_MAX {
                return Ok(());
            }
        }
    }

    /// At most `count` of the names that follow, and whether those were the last.
    async fn next_names(
        &mut self,
        this: &Resource<Names>,
        count: u64,
    ) -> Result<(Vec<String>, bool), Failure> {
        let names = self.table.get_mut(this)?;
        let count = usize::try_from(count).unwrap_or(NAMES_MAX).min(NAMES_MAX);
        if names.ended || count == 0 {
            return Ok((Vec::new(), names.ended));
        }
        let app = &self.run.app;
        let prefix = format!("{}/", names.container);
        let found = app
            .services
            .blobs
            .list(&app.app, &prefix, names.after.as_deref(), count)
            .await?;
        names.ended = found.len() < count;
        if let Some(last) = found.last() {
            names.after = Some(last.path.to_string());
        }
        let found = found.iter().map(|info| info.path[prefix.len()..].to_owned());
        Ok((found.collect(), names.ended))
    }
}

fn path_of(id: &types::ObjectId) -> String {
    format!("{}/{}", id.container, id.object)
}

/// A failure as `wasi:blobstore` tells it, which has a text for all of them.
fn told<T>(result: Result<T, Failure>) -> Told<T> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Failure::Told { message, .. }) => Ok(Err(message)),
        Err(Failure::Trap(error)) => Err(error),
    }
}
