//! What pods print. The API server fetches logs from the node's kubelet; here that is a small server.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// What pods print, by namespace; elsewhere they print two lines with their name.
#[derive(Clone, Default)]
pub struct Logs(Arc<Mutex<HashMap<String, String>>>);

impl Logs {
    /// Serves the logs of the pods of the played node.
    pub async fn serve(client: Client) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let logs = Self::default();
        let served = logs.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (acceptor, logs) = (acceptor.clone(), served.clone());
                tokio::spawn(async move { logs.answer(&acceptor, connection).await });
            }
        });
        let nodes: Api<Node> = Api::all(client);
        let node = nodes.list(&ListParams::default()).await?.items.pop().context("the played node")?;
        let status = json!({ "status": {
            "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
        } });
        nodes.patch_status(&node.name_any(), &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(logs)
    }

    /// All pods of a namespace print this from now on.
    pub fn set(&self, namespace: &str, log: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(namespace.to_owned(), log.to_owned());
    }

    /// Answers `/containerLogs/<namespace>/<pod>/<container>`.
    async fn answer(&self, acceptor: &TlsAcceptor, connection: TcpStream) -> std::io::Result<()> {
        let mut connection = acceptor.accept(connection).await?;
        let mut asked = vec![0; 4096];
        let length = connection.read(&mut asked).await?;
        let asked = String::from_utf8_lossy(&asked[..length]).into_owned();
        let path = asked.split_whitespace().nth(1).unwrap_or_default();
        let part = |at: usize| path.split('/').nth(at).unwrap_or_default();
        let (namespace, pod) = (part(2), part(3));
        let set = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(namespace).cloned();
        let body = set.unwrap_or_else(|| format!("{pod} begins\n{pod} ends\n"));
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        connection.write_all(format!("{head}{body}").as_bytes()).await?;
        connection.shutdown().await
    }
}
