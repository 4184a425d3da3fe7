//! The HTTP API of {{name}}: notes that can be written and read.

use cloudlet::db::{self, DateTime, ObjectId, doc};
use cloudlet::http::{Request, Response, StatusCode};
use cloudlet::{Body, Context, Error, Json, Result, Router};
use serde::{Deserialize, Serialize};

/// A note, as it is stored.
#[derive(Serialize, Deserialize)]
struct Note {
    #[serde(rename = "_id")]
    id: ObjectId,
    text: String,
    #[serde(rename = "createdAt")]
    created_at: DateTime,
}

/// A note, as clients see it.
#[derive(Serialize)]
struct NoteView {
    id: String,
    text: String,
}

impl From<Note> for NoteView {
    fn from(note: Note) -> Self {
        Self { id: note.id.to_hex(), text: note.text }
    }
}

/// What a client sends.
#[derive(Deserialize)]
struct NewNote {
    text: String,
}

#[cloudlet::http]
fn main(request: Request<Body>) -> Response<Body> {
    let mut app = Router::new();
    app.get("/api/notes", list);
    app.post("/api/notes", add);
    app.get("/api/notes/:id", get);
    app.handle(request)
}

fn list(_: &mut Context) -> Result<Json<Vec<NoteView>>> {
    let newest = db::collection::<Note>("notes").find(doc! {}).sort(doc! { "createdAt": -1 }).limit(50).run()?;
    Ok(Json(newest.map(|note| note.map(NoteView::from)).collect::<Result<_, _>>()?))
}

fn add(ctx: &mut Context) -> Result<(StatusCode, Json<NoteView>)> {
    let NewNote { text } = ctx.json()?;
    let note = Note { id: ObjectId::new(), text, created_at: DateTime::now() };
    db::collection::<Note>("notes").insert_one(&note).run()?;
    log::info!("added a note");
    Ok((StatusCode::CREATED, Json(note.into())))
}

fn get(ctx: &mut Context) -> Result<Json<NoteView>> {
    let id = ObjectId::parse_str(ctx.param("id")).map_err(Error::invalid)?;
    let note = db::collection::<Note>("notes").find_one(doc! { "_id": id }).run()?;
    note.map(|note| Json(note.into())).ok_or_else(|| Error::not_found("no such note"))
}
