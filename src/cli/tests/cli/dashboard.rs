//! The dashboard as it is served and written. What the page does with it is tested in a browser (`tests/dashboard`).

use crate::world::{PROGRAM, World, test};
use anyhow::{Context, Result};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;

/// Serves the environment's dashboard; returns the address.
async fn served(world: &World) -> Result<(Child, String)> {
    let mut child = world.command(PROGRAM).args(["dashboard", "--port", "0", "-n", world.name()]).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
    let line = tokio::time::timeout(backfill_e2e::LIMIT, lines.next_line()).await??.context("an address")?;
    let address = line.strip_prefix("http://").and_then(|line| line.strip_suffix('/')).context(line.clone())?.to_owned();
    Ok((child, address))
}

/// Status line and headers, and the body.
async fn get(address: &str, host: &str, path: &str) -> Result<(String, String)> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a head")?;
    Ok((head.to_lowercase(), body.to_owned()))
}

#[test]
fn the_page_is_served_on_loopback_to_who_asks_for_it() -> Result<()> {
    test(async |world| {
        world.may("may", &["--wait"]).await?.with(0)?;
        let (_child, address) = served(&world).await?;
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        let (head, page) = get(&address, &address, "/").await?;
        assert!(head.starts_with("http/1.0 200") || head.starts_with("http/1.1 200"), "{head}");
        let nonce = head.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).context("a nonce")?;
        assert!(nonce.len() == 32 && page.contains(&format!("nonce=\"{nonce}\"")) && !page.contains("NONCE"), "{head}");
        assert!(head.contains("default-src 'none'") && head.contains("frame-ancestors 'none'"), "{head}");
        assert_ne!(get(&address, &address, "/").await?.0, head, "each answer has a nonce of its own");
        let (_, data) =
            get(&address, &format!("localhost:{}", address.rsplit_once(':').context("a port")?.1), "/data.json").await?;
        let data: Value = serde_json::from_str(&data)?;
        assert_eq!((&data["namespace"], &data["backfills"][0]["metadata"]["name"]), (&json!(world.name()), &json!("may")));
        assert_eq!(data["featureSets"][0]["status"]["ledger"][0]["backfill"], "may");
        // A name of somebody else's that points to loopback.
        for path in ["/", "/data.json"] {
            let (head, body) = get(&address, "evil.example", path).await?;
            assert!(head.contains(" 403 ") && !body.contains("may"), "{head}\n{body}");
        }
        assert!(get(&address, &address, "/other").await?.0.contains(" 404 "));
        Ok(())
    })
}

#[test]
fn a_snapshot_is_one_file_from_which_nothing_breaks_out() -> Result<()> {
    test(async |world| {
        world.may("may", &["--suspend"]).await?.with(0)?;
        let comment = json!({ "spec": { "comment": "</script><script>alert(1)</script>" } });
        world.backfills().patch("may", &PatchParams::default(), &Patch::Merge(comment)).await?;
        let file = world.shared.cluster.folder().join(format!("{}.html", world.name()));
        let written = world.features(&["dashboard", "-o", &file.display().to_string()]).await?.with(0)?;
        assert!(written.stderr.contains("Wrote"), "{}", written.stderr);
        let page = std::fs::read_to_string(&file)?;
        assert!(!page.contains("<script>alert(1)"), "the comment stays text");
        let data = page
            .split("id=\"snapshot\"")
            .nth(1)
            .and_then(|rest| rest.split_once('>')?.1.split("</script>").next())
            .context("the snapshot")?;
        let data: Value = serde_json::from_str(data)?;
        assert_eq!(data["backfills"][0]["spec"]["comment"], "</script><script>alert(1)</script>");
        Ok(())
    })
}

#[test]
fn who_may_not_look_hears_it_before_a_page_is_served() -> Result<()> {
    test(async |world| {
        let refused =
            world.command(PROGRAM).args(["dashboard", "--port", "0", "--as", "jane", "-n", world.name()]).output().await?;
        let said = String::from_utf8(refused.stderr)?;
        assert!(refused.status.code() == Some(1) && said.contains("not allowed to list"), "{said}");
        Ok(())
    })
}
