//! The sources of a transformation: pinned once for a run, the same for all its attempts.

use crate::context::Context;
use crate::delta;
use crate::failure::{Failure, Result};
use crate::storage::{self, Location};
use backfill_core::condition::Reason;
use backfill_core::contract::{OrderSource, SourceFormat};
use deltalake::ObjectStoreError;
use deltalake::arrow::datatypes::{Field, Schema, SchemaRef};
use deltalake::datafusion::catalog::TableProvider;
use deltalake::datafusion::common::TableReference;
use deltalake::datafusion::datasource::file_format::FileFormat;
use deltalake::datafusion::datasource::file_format::csv::CsvFormat;
use deltalake::datafusion::datasource::file_format::json::JsonFormat;
use deltalake::datafusion::datasource::file_format::parquet::ParquetFormat;
use deltalake::datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::prelude::SessionContext;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How many files are looked at side by side.
const HEADS: usize = 32;

/// What a source held when the run began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourcePin {
    /// The source's name.
    pub name: String,
    /// What it held.
    pub content: Content,
}

/// What a source held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Content {
    /// A version of a Delta table.
    Version(u64),
    /// Files, in the order of their paths.
    Files(Vec<SourceFile>),
}

/// A file of a source, with what tells whether it has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceFile {
    /// The path in the object store.
    pub path: String,
    /// The size in bytes.
    pub size: u64,
    /// The store's word for the content; for stores without one, the time of the last change.
    pub tag: String,
}

/// Looks at what every source holds now.
pub async fn pin(cx: &Context, sources: &[OrderSource], secret: Option<&str>) -> Result<Vec<SourcePin>> {
    let mut pins = Vec::with_capacity(sources.len());
    for source in sources {
        let location = storage::locate(cx, &source.uri, secret)?;
        let content = match source.format {
            SourceFormat::Delta => {
                let table = delta::open(&location).await.map_err(|failure| of_source(source, failure))?;
                Content::Version(delta::version(&table.ok_or_else(|| missing(source, "there is no Delta table"))?))
            }
            SourceFormat::Parquet | SourceFormat::Csv | SourceFormat::Json => Content::Files(files(source, &location).await?),
        };
        pins.push(SourcePin { name: source.name.clone(), content });
    }
    Ok(pins)
}

/// Fails with `SourceChanged` when a source no longer holds what was pinned.
pub async fn verify(cx: &Context, sources: &[OrderSource], pins: &[SourcePin], secret: Option<&str>) -> Result<()> {
    for (source, pin) in sources.iter().zip(pins) {
        // A version of a Delta table never changes; its files may be gone, which reading will tell.
        let Content::Files(pinned) = &pin.content else { continue };
        let now = files(source, &storage::locate(cx, &source.uri, secret)?).await?;
        // Files that came later are not read; those that were pinned must be as they were.
        if let Some(changed) = pinned.iter().find(|file| !now.contains(file)) {
            return Err(Failure::permanent(
                Reason::SourceChanged,
                format!(
                    "file {} of source \"{}\" changed since this run began; set spec.runId to run again with what it holds now",
                    changed.path, source.name
                ),
            ));
        }
    }
    Ok(())
}

/// Fails with `SnapshotExpired` when a file of a pinned version of a Delta table is gone. Looks at every file.
pub async fn refuse_vacuumed(cx: &Context, sources: &[OrderSource], pins: &[SourcePin], secret: Option<&str>) -> Result<()> {
    for (source, pin) in sources.iter().zip(pins) {
        let Content::Version(version) = pin.content else { continue };
        let Some(newest) = delta::open(&storage::locate(cx, &source.uri, secret)?).await? else { continue };
        let table = delta::at(&newest, version).await.map_err(|failure| of_source(source, failure))?;
        let store = table.object_store();
        for file in delta::files(&table, "") {
            let found = match Path::parse(&file.add.path) {
                Ok(path) => store.head(&path).await,
                Err(error) => Err(error.into()),
            };
            if let Err(ObjectStoreError::NotFound { .. }) = found {
                let message = format!(
                    "file {} of version {version} of source \"{}\" is gone, VACUUM may have deleted it; set spec.runId to run \
                     again with the newest version",
                    file.add.path, source.name
                );
                return Err(Failure::permanent(Reason::SnapshotExpired, message));
            }
        }
    }
    Ok(())
}

async fn files(source: &OrderSource, location: &Location) -> Result<Vec<SourceFile>> {
    let (store, path) = location.store()?;
    let single = store.head(&path).await;
    let mut found: Vec<ObjectMeta> = match single {
        Ok(meta) => vec![meta],
        Err(ObjectStoreError::NotFound { .. }) => {
            list(store.as_ref(), &path).await.map_err(|error| unreadable(source, &error))?
        }
        // A folder of a file system is no object.
        Err(_) if location.url.scheme() == "file" => {
            list(store.as_ref(), &path).await.map_err(|error| unreadable(source, &error))?
        }
        Err(error) => return Err(unreadable(source, &error)),
    };
    if found.is_empty() {
        return Err(missing(source, "there is no such file or folder"));
    }
    found.sort_by(|a, b| a.location.cmp(&b.location));
    let file = |meta: ObjectMeta| SourceFile {
        path: meta.location.to_string(),
        size: meta.size,
        tag: meta.e_tag.unwrap_or_else(|| meta.last_modified.to_rfc3339()),
    };
    Ok(found.into_iter().map(file).collect())
}

/// The files below a folder; names that begin with an underscore or a dot are bookkeeping of other programs.
async fn list(store: &dyn ObjectStore, folder: &Path) -> object_store::Result<Vec<ObjectMeta>> {
    let all: Vec<ObjectMeta> = store.list(Some(folder)).try_collect().await?;
    let visible = |meta: &ObjectMeta| {
        let below = meta.location.prefix_match(folder);
        below.is_some_and(|mut parts| parts.all(|part| !part.as_ref().starts_with(['_', '.'])))
    };
    Ok(all.into_iter().filter(|meta| meta.size > 0 && visible(meta)).collect())
}

fn missing(source: &OrderSource, why: &str) -> Failure {
    Failure::permanent(Reason::SourceNotFound, format!("cannot read source \"{}\" at {}: {why}", source.name, source.uri))
}

fn unreadable(source: &OrderSource, error: &ObjectStoreError) -> Failure {
    match error {
        ObjectStoreError::PermissionDenied { .. } | ObjectStoreError::Unauthenticated { .. } => Failure::permanent(
            Reason::SourceAuth,
            format!("source \"{}\" at {} refuses the credentials: {error}", source.name, source.uri),
        ),
        ObjectStoreError::NotFound { .. } => missing(source, "there is no such file or folder"),
        _ => {
            Failure::passing(Reason::SourceNotFound, format!("cannot read source \"{}\" at {}: {error}", source.name, source.uri))
        }
    }
}

/// A failure of a table that is a source names the source.
fn of_source(source: &OrderSource, failure: Failure) -> Failure {
    let reason = match failure.reason {
        Reason::OfflineAuth => Reason::SourceAuth,
        other => other,
    };
    Failure { reason, message: format!("source \"{}\": {}", source.name, failure.message), ..failure }
}

/// Makes the pinned content of every source visible in a session, under the sources' names and nothing else.
pub async fn register(
    cx: &Context,
    session: &SessionContext,
    sources: &[OrderSource],
    pins: &[SourcePin],
    secret: Option<&str>,
) -> Result<()> {
    for (source, pin) in sources.iter().zip(pins) {
        let location = storage::locate(cx, &source.uri, secret)?;
        match &pin.content {
            Content::Version(version) => {
                let gone = || missing(source, "there is no Delta table");
                let newest = delta::open(&location).await.map_err(|failure| of_source(source, failure))?.ok_or_else(gone)?;
                let table = delta::at(&newest, *version).await.map_err(|failure| of_source(source, failure))?;
                delta::register_store(session, &table);
                let provider = delta::provider(&table, None, None).map_err(|failure| of_source(source, failure))?;
                make_visible(session, source, provider)?;
            }
            Content::Files(files) => register_files(session, source, &location, files).await?,
        }
    }
    Ok(())
}

/// The columns of a source of files, as the files themselves tell.
pub async fn columns_of_files(
    session: &SessionContext,
    source: &OrderSource,
    location: &Location,
    files: &[SourceFile],
) -> Result<SchemaRef> {
    Ok(TableProvider::schema(&files_of(session, source, location, files).await?))
}

async fn register_files(session: &SessionContext, source: &OrderSource, location: &Location, files: &[SourceFile]) -> Result<()> {
    let table = files_of(session, source, location, files).await?;
    make_visible(session, source, Arc::new(table))
}

async fn files_of(
    session: &SessionContext,
    source: &OrderSource,
    location: &Location,
    files: &[SourceFile],
) -> Result<ListingTable> {
    let format: Arc<dyn FileFormat> = match source.format {
        SourceFormat::Csv => Arc::new(CsvFormat::default().with_has_header(true)),
        SourceFormat::Json => Arc::new(JsonFormat::default()),
        SourceFormat::Parquet | SourceFormat::Delta => Arc::new(ParquetFormat::default()),
    };
    let paths = files.iter().map(|file| file.path.as_str());
    table_of_files(session, location, paths, format, None).await?.map_err(|error| cannot_read(source, &error))
}

/// SQL folds a name without quotes to lower case: a source is found under both spellings.
fn make_visible(session: &SessionContext, source: &OrderSource, table: Arc<dyn TableProvider>) -> Result<()> {
    for name in BTreeSet::from([source.name.clone(), source.name.to_lowercase()]) {
        let reference = TableReference::bare(name);
        session.register_table(reference, Arc::clone(&table)).map_err(|error| cannot_read(source, &error))?;
    }
    Ok(())
}

/// A table over exactly these files of an object store, given by their paths from its root.
///
/// Without a schema it has the columns of all files. Reads no folder: what is not named is not there.
pub async fn table_of_files(
    session: &SessionContext,
    location: &Location,
    paths: impl Iterator<Item = &str>,
    format: Arc<dyn FileFormat>,
    schema: Option<SchemaRef>,
) -> Result<Result<ListingTable, DataFusionError>> {
    let (store, _) = location.store()?;
    let mut root = location.url.clone();
    root.set_path("/");
    session.runtime_env().register_object_store(&root, Arc::clone(&store));
    let paths: Vec<&str> = paths.collect();
    let url = |path: &str| {
        let mut url = root.clone();
        url.set_path(&format!("/{path}"));
        ListingTableUrl::try_new(url, None)
    };
    let table = async {
        let urls = paths.iter().map(|path| url(path)).collect::<Result<Vec<_>, _>>()?;
        let schema = match schema {
            Some(schema) => schema,
            None => {
                let files = paths.iter().map(Path::parse).collect::<Result<Vec<_>, _>>().map_err(object_store::Error::from)?;
                let heads = futures::stream::iter(&files).map(|file| store.head(file)).buffered(HEADS);
                let found = format.infer_schema(&session.state(), &store, &heads.try_collect::<Vec<_>>().await?).await?;
                // A column that one file requires is null in the rows of another that lacks it.
                let optional = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
                Arc::new(Schema::new(found.fields().iter().map(optional).collect::<Vec<_>>()))
            }
        };
        let options = ListingOptions::new(format).with_file_extension("");
        ListingTable::try_new(ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options).with_schema(schema))
    };
    Ok(table.await)
}

fn cannot_read(source: &OrderSource, error: &DataFusionError) -> Failure {
    let failure = crate::session::failure(error, Reason::SourceNotFound);
    Failure { message: format!("cannot read source \"{}\" at {}: {}", source.name, source.uri, failure.message), ..failure }
}
