//! Logs of pods, which the API server fetches from the node's kubelet. Here that is a small server.

use crate::world::{PROGRAM, World, test};
use anyhow::{Context, Result};
use backfill_e2e::{Act, eventually};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Answers `/containerLogs/<namespace>/<pod>/<container>` with two lines.
async fn kubelet(world: &World) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut connection = acceptor.accept(connection).await?;
                let mut asked = vec![0; 4096];
                let length = connection.read(&mut asked).await?;
                let asked = String::from_utf8_lossy(&asked[..length]).into_owned();
                let path = asked.split_whitespace().nth(1).unwrap_or_default();
                let pod = path.split('/').nth(3).unwrap_or_default();
                let body = format!("{pod} begins\n{pod} ends\n");
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                connection.write_all(format!("{head}{body}").as_bytes()).await?;
                connection.shutdown().await
            });
        }
    });
    let nodes: Api<Node> = Api::all(world.shared.cluster.client());
    let node = nodes.list(&ListParams::default()).await?.items.pop().context("the played node")?;
    let status = json!({ "status": {
        "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
    } });
    nodes.patch_status(&node.name_any(), &PatchParams::default(), &Patch::Merge(status)).await.map(drop)?;
    Ok(())
}

#[test]
fn logs_are_those_of_the_pods_in_order() -> Result<()> {
    test(async |world| {
        kubelet(&world).await?;
        let before = world.may("held", &["--suspend"]).await?.with(0)?;
        assert!(before.stdout.contains("held created"));
        let none = world.features(&["backfill", "logs", "held"]).await?.with(1)?;
        assert!(
            none.stderr.contains("no pod of \"held\" has run") && none.stderr.contains("backfill status held"),
            "{}",
            none.stderr
        );
        world.features(&["backfill", "delete", "held", "--yes", "--wait"]).await?.with(0)?;

        world.may("may", &["--wait"]).await?.with(0)?;
        let logs = world.features(&["backfill", "logs", "may"]).await?.with(0)?;
        let lines: Vec<&str> = logs.stdout.lines().collect();
        assert_eq!(lines.len(), 4, "{}", logs.stdout);
        assert!(lines[0].starts_with("may-offline") && lines[2].starts_with("may-online"), "{lines:?}");
        let online = world.features(&["backfill", "logs", "may", "--step", "online"]).await?.with(0)?;
        assert_eq!(online.stdout.lines().collect::<Vec<_>>(), lines[2..]);
        Ok(())
    })
}

#[test]
fn logs_are_followed_until_the_end() -> Result<()> {
    test(async |world| {
        kubelet(&world).await?;
        let rule = world.pods("may", "offline", Act::run());
        let options = [
            "backfill",
            "--name",
            "user-clicks",
            "--start-time",
            "2024-05-01",
            "--backfill-name",
            "may",
            "--yes",
            "--follow-logs",
        ];
        let child = world.command(PROGRAM).args(options).args(["-n", world.name()]).spawn()?;
        world.phase("may", "Running").await?;
        let runs =
            async || Ok((!world.namespace.api::<Pod>().list(&ListParams::default()).await?.items.is_empty()).then_some(()));
        eventually("a pod", runs).await?;
        rule.remove();
        let output = tokio::time::timeout(backfill_e2e::LIMIT, child.wait_with_output()).await??;
        let (shown, said) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        assert_eq!(output.status.code(), Some(0), "{said}");
        for mark in ["[offline-0] may-offline", "[online-0] may-online"] {
            assert!(shown.contains(mark), "{mark}\n{shown}\n{said}");
        }
        Ok(())
    })
}
