//! `db`: documents, in extended JSON. Those of whole files are `import`'s and `export`'s.

use anyhow::Context as _;
use http::Method;
use serde_json::{Map, Value, json};

use super::api::encoded;
use super::context::Context;
use super::functions::data_argument;
use super::secret::from_stdin;
use super::{NoMatch, check, export, import, out};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    #[command(flatten)]
    Documents(Documents),
    /// Import documents from a file, from standard input, or from a directory that mongodump wrote
    Import(import::Args),
    /// Export documents to a file, to standard output, or to a directory for mongorestore
    Export(export::Args),
    /// Who may log in at the MongoDB listener
    #[command(subcommand)]
    User(User),
    /// Look for damage in the database of a data directory, whose node must be stopped
    Check(check::Args),
}

/// One request each to the admin API's documents.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Documents {
    /// Print documents, one a line
    Find {
        /// The collection
        collection: String,
        /// Which documents
        #[arg(default_value = "{}", value_name = "FILTER")]
        filter: String,
        /// In which order, e.g. '{"createdAt":-1}'
        #[arg(long, value_name = "JSON")]
        sort: Option<String>,
        /// Which fields, e.g. '{"name":1}'
        #[arg(long, value_name = "JSON")]
        fields: Option<String>,
        /// How many to pass over
        #[arg(long, default_value_t = 0)]
        skip: u64,
        /// How many at most, up to 1000
        #[arg(long, default_value_t = 100)]
        limit: u64,
        /// Write every type out (canonical extended JSON)
        #[arg(long)]
        canonical: bool,
    },
    /// Count documents
    Count {
        /// The collection
        collection: String,
        /// Which documents
        #[arg(default_value = "{}", value_name = "FILTER")]
        filter: String,
    },
    /// Insert documents
    Insert {
        /// The collection
        collection: String,
        /// A document or a list of documents: JSON, @FILE, or - for standard input
        #[arg(value_name = "JSON|@FILE|-")]
        documents: String,
    },
    /// Update documents
    Update {
        /// The collection
        collection: String,
        /// Which documents
        filter: String,
        /// What to change, e.g. '{"$set":{"a":1}}', or a whole new document
        update: String,
        /// All that match instead of the first
        #[arg(long)]
        multi: bool,
        /// Insert a document when none matches
        #[arg(long)]
        upsert: bool,
    },
    /// Delete documents
    Delete {
        /// The collection
        collection: String,
        /// Which documents
        filter: String,
        /// All that match instead of the first
        #[arg(long)]
        multi: bool,
    },
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum User {
    /// Make a user, or change one; the password is read from standard input
    Set {
        /// Its name
        name: String,
        /// What it may do with the app's database: read, readWrite, dbAdmin, userAdmin, dbOwner
        #[arg(long = "role", default_value = "readWrite", value_name = "ROLE")]
        roles: Vec<String>,
    },
    /// List the users and their roles
    List,
    /// Remove a user
    Delete {
        /// Its name
        name: String,
    },
}

/// Runs the command.
pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Documents(command) => documents(context, command).await,
        Command::Import(args) => import::run(context, args).await,
        Command::Export(args) => export::run(context, args).await,
        Command::User(command) => user(context, command).await,
        Command::Check(args) => check::run(context, args),
    }
}

async fn documents(context: &Context, command: Documents) -> anyhow::Result<()> {
    let (client, app) = (context.client()?, context.app()?);
    let (collection, verb, body) = wire(&command)?;
    let mut path = format!("/v1/apps/{app}/documents/{}/{verb}", encoded(&collection));
    if matches!(command, Documents::Find { canonical: true, .. }) {
        path.push_str("?format=canonical");
    }
    let answer = client
        .value(Method::POST, &path, Some(body.to_string().into()))
        .await?;
    show(context, &command, &answer)
}

async fn user(context: &Context, command: User) -> anyhow::Result<()> {
    let (client, app) = (context.client()?, context.app()?);
    let path = |name: &str| format!("/v1/apps/{app}/database-users/{}", encoded(name));
    match command {
        User::Set { name, roles } => {
            let password = from_stdin(&format!("password of {name}"))?;
            let body = json!({ "password": password, "roles": roles });
            let answer = client
                .value(Method::PUT, &path(&name), Some(body.to_string().into()))
                .await?;
            match context.json {
                true => println!("{answer}"),
                false => println!("{name} may log in to database {app} as {}", roles.join(", ")),
            }
        }
        User::List => {
            let answer = client.get(&format!("/v1/apps/{app}/database-users")).await?;
            let users = answer["users"].as_array().cloned().unwrap_or_default();
            if context.json {
                println!("{answer}");
            } else if !users.is_empty() {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let roles = |user: &Value| {
                    let roles = user["roles"].as_array().map(Vec::as_slice).unwrap_or_default();
                    roles.iter().map(text).collect::<Vec<_>>().join(", ")
                };
                let rows: Vec<_> = users
                    .iter()
                    .map(|user| vec![text(&user["name"]), roles(user)])
                    .collect();
                out::table(&["NAME", "ROLES"], &rows);
            }
            if users.is_empty() {
                return Err(NoMatch(format!(
                    "app {app} has no database users; make one with: cloudlet db user set NAME"
                ))
                .into());
            }
        }
        User::Delete { name } => {
            let answer = client.value(Method::DELETE, &path(&name), None).await?;
            match context.json {
                true => println!("{answer}"),
                false => println!("{name} deleted"),
            }
        }
    }
    Ok(())
}

/// What the admin API wants for a command: collection, verb, body.
fn wire(command: &Documents) -> anyhow::Result<(String, &'static str, Value)> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    let (collection, verb) = match command {
        Documents::Find {
            collection,
            filter,
            sort,
            fields,
            skip,
            limit,
            canonical: _,
        } => {
            set("filter", object("filter", filter)?);
            for (name, flag, text) in [("sort", "--sort", sort), ("projection", "--fields", fields)] {
                if let Some(text) = text {
                    set(name, object(flag, text)?);
                }
            }
            set("skip", (*skip).into());
            set("limit", (*limit).into());
            (collection, "find")
        }
        Documents::Count { collection, filter } => {
            set("filter", object("filter", filter)?);
            (collection, "count")
        }
        Documents::Insert {
            collection,
            documents,
        } => {
            let bytes = data_argument(documents)?;
            let documents = match serde_json::from_slice(&bytes).context("the documents are not JSON")? {
                Value::Array(documents) => documents,
                one => vec![one],
            };
            set("documents", documents.into());
            (collection, "insert")
        }
        Documents::Update {
            collection,
            filter,
            update,
            multi,
            upsert,
        } => {
            set("filter", object("filter", filter)?);
            set("update", object("update", update)?);
            set("multi", (*multi).into());
            set("upsert", (*upsert).into());
            (collection, "update")
        }
        Documents::Delete {
            collection,
            filter,
            multi,
        } => {
            set("filter", object("filter", filter)?);
            set("multi", (*multi).into());
            (collection, "delete")
        }
    };
    Ok((collection.clone(), verb, Value::Object(body)))
}

/// A JSON object of the command line.
pub(super) fn object(what: &str, text: &str) -> anyhow::Result<Value> {
    let value: Map<String, Value> =
        serde_json::from_str(text).with_context(|| format!("the {what} {text:?} is not a JSON object"))?;
    Ok(Value::Object(value))
}

fn show(context: &Context, command: &Documents, answer: &Value) -> anyhow::Result<()> {
    let number = |name: &str| answer[name].as_u64().unwrap_or_default();
    if context.json {
        println!("{answer}");
    }
    let none = |what: &str| Err(NoMatch(what.to_owned()).into());
    match command {
        Documents::Find { collection, .. } => {
            let documents = answer["documents"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            if !context.json {
                documents.iter().for_each(|document| println!("{document}"));
            }
            if answer["more"] == true {
                eprintln!("there are more; go on with --skip, or raise --limit");
            }
            if documents.is_empty() {
                return none(&format!("no document of {collection:?} matches"));
            }
        }
        Documents::Count { collection, .. } => {
            if !context.json {
                println!("{}", number("count"));
            }
            if number("count") == 0 {
                return none(&format!("no document of {collection:?} matches"));
            }
        }
        Documents::Insert { .. } if context.json => {}
        Documents::Insert { .. } => {
            let rows = answer["ids"].as_array().map(Vec::as_slice).unwrap_or_default();
            let rows: Vec<_> = rows.iter().map(|id| vec![id.to_string()]).collect();
            out::table(&["INSERTED"], &rows);
        }
        Documents::Update { collection, .. } => {
            let upserted = !answer["upserted"].is_null();
            if !context.json {
                println!("matched {}, modified {}", number("matched"), number("modified"));
                if upserted {
                    println!("inserted {}", answer["upserted"]);
                }
            }
            if number("matched") == 0 && !upserted {
                return none(&format!("no document of {collection:?} matches"));
            }
        }
        Documents::Delete { collection, .. } => {
            if !context.json {
                println!("deleted {}", number("deleted"));
            }
            if number("deleted") == 0 {
                return none(&format!("no document of {collection:?} matches"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_fields_is_kept() {
        let command = Documents::Find {
            collection: "c".into(),
            filter: "{}".into(),
            sort: Some(r#"{"z":1,"a":-1}"#.into()),
            fields: None,
            skip: 0,
            limit: 5,
            canonical: false,
        };
        let (_, verb, body) = wire(&command).unwrap();
        assert_eq!(verb, "find");
        assert!(body.to_string().contains(r#""sort":{"z":1,"a":-1}"#), "{body}");
        assert!(object("filter", "[1]").is_err());
    }
}
