//! A Redis Cluster of three primaries.

use super::redis_server::RedisServer;
use super::stores::{SECOND, key, row, view};
use crate::support::free_port;
use backfill_core::condition::Reason;
use backfill_core::feast;
use backfill_core::online::Bounds;
use backfill_worker::online::redis::RedisStore;
use backfill_worker::online::store::{Applied, Change, EntityKey, OnlineStore};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

struct Cluster(Vec<RedisServer>);

impl Cluster {
    fn start() -> Self {
        let buses: Vec<String> = (0..3).map(|_| free_port().to_string()).collect();
        let node = |bus: &String| RedisServer::start(&["--cluster-enabled", "yes", "--cluster-port", bus]);
        let nodes: Vec<RedisServer> = buses.iter().map(node).collect();
        for (node, (from, to)) in nodes.iter().zip([(0, 5460), (5461, 10922), (10923, 16383)]) {
            redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(from).arg(to).exec(&mut node.connection()).expect("slots");
        }
        for (node, bus) in nodes.iter().zip(&buses).skip(1) {
            let mut meet = redis::cmd("CLUSTER");
            meet.arg("MEET").arg("127.0.0.1").arg(node.port).arg(bus).exec(&mut nodes[0].connection()).expect("MEET");
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        for node in &nodes {
            let mut connection = node.connection();
            loop {
                let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut connection).expect("CLUSTER INFO");
                if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") {
                    break;
                }
                assert!(Instant::now() < deadline, "the cluster forms within 30 s: {info}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Self(nodes)
    }

    fn keys(&self) -> Vec<usize> {
        self.0.iter().map(|node| redis::cmd("DBSIZE").query(&mut node.connection()).expect("DBSIZE")).collect()
    }
}

fn changes(keys: &[EntityKey], tokens: Vec<Box<[u8]>>, value: i64) -> Vec<Change> {
    let change = |(key, token): (&EntityKey, Box<[u8]>)| Change { key: key.clone(), token, row: Some(row(SECOND, &[value])) };
    keys.iter().zip(tokens).map(change).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_written_slot_by_slot_behind_a_fence_in_each() {
    let cluster = Cluster::start();
    // Any node of the cluster may stand in the URL.
    let store = RedisStore::new(&cluster.0[2].url(), &view(&["f"], &[]), None).expect("a URL");
    let successor = RedisStore::new(&cluster.0[0].url(), &view(&["f"], &[]), None).expect("a URL");
    store.preflight(10, 100).await.expect("healthy");
    store.raise_fence(1).await.expect("first");
    let fences: usize = cluster.keys().into_iter().sum();
    assert_eq!(fences, 16384, "one fence in every slot");
    let keys: Vec<EntityKey> = (0..3000).map(key).collect();
    let tokens = |seen: Vec<backfill_worker::online::store::Seen>| seen.into_iter().map(|seen| seen.token).collect::<Vec<_>>();
    let asked = tokens(store.ask(&keys).await.expect("answers"));
    let applied = store.apply(1, &changes(&keys, asked, 7)).await.expect("applied");
    assert!(applied.iter().all(|applied| *applied == Applied::Written));
    assert!(cluster.keys().iter().all(|keys| *keys > 16384 / 3 + 800), "{:?}", cluster.keys());
    let back = store.read_back(1, &keys).await.expect("read");
    assert!(back.iter().all(|back| *back == Some(row(SECOND, &[7]))));
    for key in keys.iter().take(20) {
        let held = store.held(key).await.expect("an answer").expect("a row");
        assert_eq!((held.ts.map(|ts| ts.0), held.generation), (Some(SECOND), Some(1)), "looked up in its slot");
    }
    let mut found = BTreeSet::new();
    let everything = Bounds { start: None, stop: None };
    store
        .scan(everything, &mut |entity| {
            found.insert(entity.to_vec());
            Ok(())
        })
        .await
        .expect("scanned");
    assert_eq!(found.len(), 3000, "every primary is scanned");
    assert_eq!(store.histories().await.expect("three").len(), 3);
    successor.raise_fence(2).await.expect("higher");
    let asked = tokens(store.ask(&keys).await.expect("answers"));
    let failure = store.apply(1, &changes(&keys, asked, 8)).await.expect_err("refused");
    assert_eq!(failure.reason, Reason::Superseded);
    let back = store.read_back(1, &keys).await.expect("read");
    assert!(back.iter().all(|back| *back == Some(row(SECOND, &[7]))), "nothing was written, in no slot");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_is_followed() {
    let cluster = Cluster::start();
    let store = RedisStore::new(&cluster.0[0].url(), &view(&["f"], &[]), None).expect("a URL");
    let (id, slot) = (0..)
        .map(|id| {
            let slot: u16 = redis::cmd("CLUSTER")
                .arg("KEYSLOT")
                .arg(feast::redis_key(&key(id), "demo"))
                .query(&mut cluster.0[0].connection())
                .expect("KEYSLOT");
            (id, slot)
        })
        .find(|(_, slot)| *slot <= 5460)
        .expect("every third");
    let keys = [key(id)];
    let token = store.ask(&keys).await.expect("an answer")[0].token.clone();
    let name = |node: &RedisServer| -> String { redis::cmd("CLUSTER").arg("MYID").query(&mut node.connection()).expect("MYID") };
    let target = name(&cluster.0[1]);
    // An empty slot needs no migration of keys. The new owner is told first.
    for node in [&cluster.0[1], &cluster.0[0], &cluster.0[2]] {
        let mut set = redis::cmd("CLUSTER");
        set.arg("SETSLOT").arg(slot).arg("NODE").arg(&target).exec(&mut node.connection()).expect("SETSLOT");
    }
    let applied = store.apply(1, &changes(&keys, vec![token], 1)).await.expect("followed");
    assert_eq!(applied, [Applied::Written]);
    let exists: i64 =
        redis::cmd("EXISTS").arg(feast::redis_key(&keys[0], "demo")).query(&mut cluster.0[1].connection()).expect("EXISTS");
    assert_eq!(exists, 1);
}
