//! Object stores by URI: `s3://`, `gs://`, `abfss://`, and `file:///store/…` on the volume claim.

use crate::context::Context;
use crate::failure::{Failure, Result};
use backfill_core::condition::Reason;
use deltalake::logstore::{LogStoreFactory, ObjectStoreFactory, ObjectStoreRef, StorageConfig, default_logstore};
use deltalake::{DeltaResult, DeltaTableError, ObjectStoreError};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use std::collections::HashMap;
use std::sync::Arc;
use url::Url;

const CLOUD_SCHEMES: [&str; 6] = ["s3", "s3a", "gs", "az", "abfs", "abfss"];

/// Where something lies: a URL for the libraries, and the settings with which it is reached.
#[derive(Clone, Debug)]
pub struct Location {
    /// The URL; a `file` URL names a path of this machine.
    pub url: Url,
    /// The object store's settings, from the mounted Secret.
    pub options: HashMap<String, String>,
}

/// Makes delta-rs reach the clouds by `object_store` alone, without the vendors' SDKs. Call once, before anything else.
pub fn register_clouds() {
    for scheme in CLOUD_SCHEMES {
        let url = Url::parse(&format!("{scheme}://")).expect("a scheme alone is a URL");
        deltalake::logstore::object_store_factories().insert(url.clone(), Arc::new(Clouds));
        deltalake::logstore::logstore_factories().insert(url, Arc::new(Clouds));
    }
}

/// Finds what a URI of a manifest means here.
///
/// A relative `file` URI does not exist: local paths lie on the volume claim, so that a manifest means the same everywhere.
pub fn locate(cx: &Context, uri: &str, credentials_secret: Option<&str>) -> Result<Location> {
    let url = Url::parse(uri).map_err(|error| bad_uri(uri, &error.to_string()))?;
    match url.scheme() {
        "file" => {
            let path = url.to_file_path().map_err(|()| bad_uri(uri, "it names a host"))?;
            let path = cx.on_volume(&path.to_string_lossy())?;
            let absolute = std::path::absolute(&path).map_err(|error| bad_uri(uri, &error.to_string()))?;
            let url = if uri.ends_with('/') { Url::from_directory_path(&absolute) } else { Url::from_file_path(&absolute) };
            Ok(Location { url: url.map_err(|()| bad_uri(uri, "it is no path"))?, options: HashMap::new() })
        }
        scheme if CLOUD_SCHEMES.contains(&scheme) => {
            let options = credentials_secret.map(|secret| settings(cx, secret)).transpose()?.unwrap_or_default();
            Ok(Location { url, options })
        }
        _ => Err(bad_uri(uri, "its scheme is none of s3, gs, abfss, file")),
    }
}

fn bad_uri(uri: &str, why: &str) -> Failure {
    Failure::permanent(Reason::SourceNotFound, format!("cannot use the URI \"{uri}\": {why}"))
}

/// Every entry of a mounted Secret, as settings.
fn settings(cx: &Context, secret: &str) -> Result<HashMap<String, String>> {
    let folder = cx.secrets.join(secret);
    let unreadable =
        |error: std::io::Error| Failure::permanent(Reason::OfflineAuth, format!("cannot read secret \"{secret}\": {error}"));
    let mut options = HashMap::new();
    for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        // Kubernetes keeps its bookkeeping of mounted Secrets in entries that begin with two dots.
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_file() && !name.starts_with('.') {
            options.insert(name.to_lowercase(), std::fs::read_to_string(&path).map_err(unreadable)?.trim().to_owned());
        }
    }
    Ok(options)
}

impl Location {
    /// The object store and the path in it.
    pub fn store(&self) -> Result<(Arc<dyn ObjectStore>, Path)> {
        let opened = match self.url.scheme() {
            "file" => object_store::parse_url_opts(&self.url, &self.options).map(|(store, path)| (Arc::from(store), path)),
            _ => cloud(&self.url, &self.options),
        };
        opened.map_err(|error| bad_uri(self.url.as_str(), &error.to_string()))
    }

    /// The location of a folder or file below this one.
    pub fn join(&self, relative: &str) -> Self {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/{relative}", self.url.path().trim_end_matches('/')));
        Self { url, options: self.options.clone() }
    }
}

fn cloud(url: &Url, options: &HashMap<String, String>) -> object_store::Result<(Arc<dyn ObjectStore>, Path)> {
    let (_, path) = object_store::ObjectStoreScheme::parse(url).map_err(object_store::Error::from)?;
    let path = Path::parse(path)?;
    // Settings of the environment come first: cloud platforms hand a pod's identity over by environment variables.
    macro_rules! build {
        ($builder:ty) => {{
            let known = options.iter().filter_map(|(key, value)| Some((key.parse().ok()?, value)));
            let builder = known.fold(<$builder>::from_env().with_url(url.as_str()), |b, (key, value)| b.with_config(key, value));
            Arc::new(builder.build()?) as Arc<dyn ObjectStore>
        }};
    }
    let store = match url.scheme() {
        "s3" | "s3a" => build!(AmazonS3Builder),
        "gs" => build!(GoogleCloudStorageBuilder),
        _ => build!(MicrosoftAzureBuilder),
    };
    Ok((store, path))
}

/// Hands our cloud stores to delta-rs. Commits are conditional PUTs, which all three clouds have.
struct Clouds;

impl ObjectStoreFactory for Clouds {
    fn parse_url_opts(&self, url: &Url, config: &StorageConfig) -> DeltaResult<(ObjectStoreRef, Path)> {
        cloud(url, &config.raw).map_err(|source| DeltaTableError::ObjectStore { source })
    }
}

impl LogStoreFactory for Clouds {
    fn with_options(
        &self,
        prefixed: ObjectStoreRef,
        root: ObjectStoreRef,
        location: &Url,
        options: &StorageConfig,
    ) -> DeltaResult<Arc<dyn deltalake::logstore::LogStore>> {
        Ok(default_logstore(prefixed, root, location, options))
    }
}

/// Shows that the store creates an object only when there is none: the base of every commit.
///
/// Some S3 look-alikes ignore `If-None-Match` and would let two writers commit the same version.
pub async fn probe_put_if_absent(store: &dyn ObjectStore, folder: &Path) -> Result<()> {
    let probe = folder.clone().join(format!("probe-{}", uuid::Uuid::new_v4()));
    let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    store.put_opts(&probe, "a".into(), create()).await.map_err(|error| unreachable_store(&error))?;
    let second = store.put_opts(&probe, "b".into(), create()).await;
    // A probe that stays behind is harmless: folders that begin with an underscore are no data.
    if let Err(error) = store.delete(&probe).await {
        tracing::warn!(%error, %probe, "cannot delete a probe");
    }
    match second {
        Err(ObjectStoreError::AlreadyExists { .. } | ObjectStoreError::Precondition { .. }) => Ok(()),
        Ok(_) => Err(Failure::permanent(
            Reason::UnsafeObjectStore,
            "the object store overwrites an object that must only be created; use one that honours If-None-Match",
        )),
        Err(error) => Err(Failure::permanent(
            Reason::UnsafeObjectStore,
            format!("the object store cannot create an object only when there is none: {error}"),
        )),
    }
}

/// How the Delta kernel begins the text of an error of the store, which it does not hand on as a source.
const KERNEL_SAYS: &str = "Error interacting with object store";

/// The failure when an error of the offline store lies behind another error. That a file is not there is not such an error.
pub fn behind(error: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    let mut chain = std::iter::successors(Some(error), |error| error.source());
    if let Some(source) = chain.find_map(|error| error.downcast_ref::<ObjectStoreError>()) {
        return (!matches!(source, ObjectStoreError::NotFound { .. })).then(|| unreachable_store(source));
    }
    let text = error.to_string();
    let refused = ["necessary privileges", "valid authentication credentials"].iter().any(|words| text.contains(words));
    match (text.contains(KERNEL_SAYS), refused) {
        (false, _) => None,
        (true, true) => Some(refused_credentials(&text)),
        (true, false) => Some(Failure::passing(Reason::OfflineUnavailable, format!("the offline store does not answer: {text}"))),
    }
}

fn refused_credentials(error: &str) -> Failure {
    let message = format!("the offline store refuses the credentials: {error}; check the store's credentialsSecret");
    Failure::permanent(Reason::OfflineAuth, message)
}

/// What an error of the offline store means for the backfill.
pub fn unreachable_store(error: &ObjectStoreError) -> Failure {
    match error {
        ObjectStoreError::PermissionDenied { .. } | ObjectStoreError::Unauthenticated { .. } => {
            refused_credentials(&error.to_string())
        }
        _ => Failure::passing(Reason::OfflineUnavailable, format!("the offline store does not answer: {error}")),
    }
}
