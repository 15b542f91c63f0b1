//! Spark as it runs for one order, or in one process for several after each other.

use super::app::{App, Installed};
use super::cluster::Daemon;
use super::settings::{self, Places, Properties, Role};
use crate::failure::Result;
use backfill_core::contract::Size;
use std::path::PathBuf;
use tempfile::TempDir;
use tokio::sync::Mutex;

/// All that Spark is started with. Orders that want the same can share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Alone, or with others.
    pub role: Role,
    /// What the pod may use.
    pub size: Size,
    /// The template's further settings.
    pub conf: Properties,
    /// How stores are reached.
    pub store: Properties,
}

/// Spark, with the master beside it when there are several nodes.
#[derive(Debug)]
pub struct Running {
    /// The program that is talked to.
    pub app: App,
    setup: Setup,
    master: Option<Daemon>,
    // The last to be dropped: the others write into it.
    _scratch: TempDir,
}

impl Running {
    /// Starts it, and waits until it has what it computes with.
    pub async fn start(setup: Setup, scratch: TempDir) -> Result<Self> {
        let installed = Installed::find();
        let master = match &setup.role {
            Role::Alone => None,
            Role::Driver(cluster) => Some(Daemon::master(&installed, cluster, scratch.path()).await?),
        };
        let places = Places { jars: installed.jars.clone(), scratch: scratch.path().to_path_buf() };
        let mut properties = settings::properties(&setup.role, &setup.size, &setup.conf, &places);
        properties.extend(setup.store.clone());
        let file = scratch.path().join("spark.properties");
        settings::write_private(&file, &settings::file_of(&properties))?;
        let app = App::start(&installed, &file, scratch.path())?;
        let mut running = Self { app, setup, master, _scratch: scratch };
        match running.app.ready(installed.patience).await {
            Ok(()) => Ok(running),
            Err(failure) => {
                running.end().await;
                Err(failure)
            }
        }
    }

    /// Ends it. Executors end when their driver is gone or their master says so: then nothing is written any more.
    pub async fn end(self) {
        self.app.end().await;
        if let Some(master) = self.master {
            master.end().await;
        }
    }
}

/// Where a process that runs several orders keeps Spark between them.
#[derive(Debug)]
pub struct Shelf {
    /// Where it has its scratch space.
    pub folder: PathBuf,
    running: Mutex<Option<Running>>,
}

impl Shelf {
    /// An empty one.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, running: Mutex::new(None) }
    }

    /// What lies there, when it was started with the same. What was not is ended.
    pub async fn take(&self, setup: &Setup) -> Option<Running> {
        let running = self.running.lock().await.take()?;
        if running.setup == *setup {
            return Some(running);
        }
        running.end().await;
        None
    }

    /// Ends what lies there.
    pub async fn clear(&self) {
        if let Some(running) = self.running.lock().await.take() {
            running.end().await;
        }
    }

    /// Leaves it for the next order.
    pub async fn put(&self, running: Running) {
        *self.running.lock().await = Some(running);
    }
}
