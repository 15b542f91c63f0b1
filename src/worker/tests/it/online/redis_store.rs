//! What only Redis can get wrong.

use super::feast::{Feast, FeastRedis};
use super::redis_server::RedisServer;
use super::stores::{SECOND, key, number, row, view};
use backfill_core::condition::Reason;
use backfill_core::feast;
use backfill_worker::online::redis::RedisStore;
use backfill_worker::online::store::{Applied, Change, OnlineStore};

fn store(server: &RedisServer) -> RedisStore {
    RedisStore::new(&server.url(), &view(&["f", "g"], &[]), None).expect("a URL")
}

async fn write(store: &RedisStore, id: i64, ts: i64) -> Applied {
    let token = store.ask(&[key(id)]).await.expect("an answer")[0].token.clone();
    let changes = [Change { key: key(id), token, row: Some(row(ts, &[1, 2])) }];
    store.apply(1, &changes).await.expect("applied")[0]
}

fn ttl(server: &RedisServer, id: i64) -> i64 {
    let key = feast::redis_key(&key(id), "demo");
    redis::cmd("TTL").arg(key).query(&mut server.connection()).expect("TTL")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_are_feasts() {
    let server = RedisServer::start(&[]);
    assert_eq!(write(&store(&server), 1, 1_767_312_000 * SECOND).await, Applied::Written);
    let key = feast::redis_key(&key(1), "demo");
    let mut fields: Vec<(Vec<u8>, Vec<u8>)> = redis::cmd("HGETALL").arg(key).query(&mut server.connection()).expect("HGETALL");
    fields.sort();
    let time = [0x08, 0x80, 0x95, 0xdc, 0xca, 0x06];
    let mut expected = vec![
        (feast::field("trips", "f").to_vec(), number(1)),
        (feast::field("trips", "g").to_vec(), number(2)),
        (b"_ts:trips".to_vec(), time.to_vec()),
        (
            b"_fsb:trips".to_vec(),
            [&1_u64.to_le_bytes()[..], &row(1_767_312_000 * SECOND, &[1, 2]).digest().to_le_bytes(), &time].concat(),
        ),
    ];
    expected.sort();
    assert_eq!(fields, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_the_server_forgot_are_loaded_again() {
    let server = RedisServer::start(&[]);
    let store = store(&server);
    for id in 0..3 {
        redis::cmd("SCRIPT").arg("FLUSH").exec(&mut server.connection()).expect("SCRIPT FLUSH");
        assert_eq!(write(&store, id, SECOND).await, Applied::Written);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_only_ever_lengthened() {
    let server = RedisServer::start(&[]);
    let view = view(&["f", "g"], &[]);
    let short = RedisStore::new(&server.url(), &view, Some(100)).expect("a URL");
    let long = RedisStore::new(&server.url(), &view, Some(1000)).expect("a URL");
    write(&short, 1, SECOND).await;
    assert!((90..=100).contains(&ttl(&server, 1)), "a new key gets one");
    write(&long, 1, 2 * SECOND).await;
    assert!((990..=1000).contains(&ttl(&server, 1)), "lengthened");
    write(&short, 1, 3 * SECOND).await;
    assert!((900..=1000).contains(&ttl(&server, 1)), "not shortened");
    redis::cmd("EXPIRE").arg(feast::redis_key(&key(1), "demo")).arg(50).exec(&mut server.connection()).expect("EXPIRE");
    assert_eq!(write(&short, 1, 3 * SECOND).await, Applied::Unchanged);
    assert!(ttl(&server, 1) <= 50, "nothing is touched when nothing is written");
    FeastRedis::of(&server).ingest("rides", &key(2), SECOND, &[("f", number(1))]);
    write(&short, 2, SECOND).await;
    assert_eq!(ttl(&server, 2), -1, "a key of other views that lives for ever does so on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_ends_alike_is_another_project() {
    let server = RedisServer::start(&[]);
    let mut other = view(&["f", "g"], &[]);
    other.project = "xdemo".to_owned();
    let other = RedisStore::new(&server.url(), &other, None).expect("a URL");
    let ours = store(&server);
    write(&other, 1, SECOND).await;
    write(&ours, 2, SECOND).await;
    let everything = backfill_core::online::Bounds { start: None, stop: None };
    let mut found = Vec::new();
    ours.scan(everything, &mut |entity| {
        found.push(entity.to_vec());
        Ok(())
    })
    .await
    .expect("scanned");
    assert_eq!(found, [key(2).to_vec()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_said_and_not_tried_again() {
    let server = RedisServer::start(&["--requirepass", "secret"]);
    for url in [server.url(), server.url().replace("redis://", "redis://:wrong@")] {
        let store = RedisStore::new(&url, &view(&["f"], &[]), None).expect("a URL");
        let failure = store.preflight(0, 0).await.expect_err("refused");
        assert_eq!((failure.reason, failure.retry), (Reason::OnlineAuth, false));
        assert!(!failure.message.contains("wrong@"), "no secret is shown: {}", failure.message);
    }
    let url = server.url().replace("redis://", "redis://:secret@");
    RedisStore::new(&url, &view(&["f"], &[]), None).expect("a URL").preflight(0, 0).await.expect("accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_unavailable_for_now() {
    let url = RedisServer::start(&[]).url();
    let store = RedisStore::new(&url, &view(&["f"], &[]), None).expect("a URL");
    let failure = store.preflight(0, 0).await.expect_err("nobody is there any more");
    assert_eq!((failure.reason, failure.retry), (Reason::OnlineUnavailable, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn eviction_is_warned_of_and_a_lack_of_memory_refused() {
    let server = RedisServer::start(&["--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"]);
    let store = store(&server);
    let notices = store.preflight(1000, 100).await.expect("healthy");
    assert_eq!(notices.iter().map(|notice| notice.reason).collect::<Vec<_>>(), [Reason::EvictionPolicy]);
    let failure = store.preflight(10_000_000, 100).await.expect_err("too much");
    assert_eq!((failure.reason, failure.retry), (Reason::OnlineCapacity, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn full_memory_is_waited_for_and_leaves_no_half_row() {
    let server = RedisServer::start(&["--maxmemory-policy", "noeviction"]);
    let store = store(&server);
    store.raise_fence(1).await.expect("first");
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1).exec(&mut server.connection()).expect("CONFIG");
    let token = store.ask(&[key(1)]).await.expect("an answer")[0].token.clone();
    let changes = [Change { key: key(1), token, row: Some(row(SECOND, &[1, 2])) }];
    let raised = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let exists: i64 =
            redis::cmd("EXISTS").arg(feast::redis_key(&key(1), "demo")).query(&mut server.connection()).expect("EXISTS");
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(0).exec(&mut server.connection()).expect("CONFIG");
        exists
    };
    let (applied, exists) = tokio::join!(store.apply(1, &changes), raised);
    assert_eq!(exists, 0, "nothing is written while memory is out");
    assert_eq!(applied.expect("applied in the end"), [Applied::Written]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_made_again() {
    let server = RedisServer::start(&[]);
    let store = store(&server);
    write(&store, 1, SECOND).await;
    redis::cmd("CLIENT")
        .arg("KILL")
        .arg("TYPE")
        .arg("normal")
        .arg("SKIPME")
        .arg("yes")
        .exec(&mut server.connection())
        .expect("KILL");
    assert_eq!(write(&store, 2, SECOND).await, Applied::Written);
}
