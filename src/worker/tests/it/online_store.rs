//! Online stores that cannot or should not be written to: seen before anything is replaced offline.

use crate::online::redis_server::RedisServer;
use crate::support::{Ride, World, ride};
use serde_json::{Value, json};

fn april(guards: Value) -> Value {
    json!({ "startTime": "2024-04-01", "stopTime": "2024-05-01", "guards": guards })
}

fn rides(drivers: i64, trips: i64) -> Vec<Ride> {
    (0..drivers).map(|driver| ride(driver, "2024-04-01", trips)).collect()
}

fn filled(arguments: &[&str]) -> World {
    let world = World::on_redis(arguments);
    world.fill(&rides(3, 1), "2024-04-01", "2024-05-01");
    world.source(&rides(3, 2));
    world
}

#[tokio::test]
async fn nothing_is_published_while_the_online_store_is_down() {
    let mut world = filled(&[]);
    let version = world.version().await;
    drop(world.server.take());
    let ended = world.backfill("down", april(json!({})));
    ended.failed("OnlineUnavailable", &["does not answer"]);
    for kind in ["OfflineReplaced", "OnlineReplaced"] {
        assert_eq!((ended.condition(kind).0, ended.condition(kind).1), ("False", "OnlineUnavailable"));
    }
    assert_eq!((world.version().await, world.rides().await), (version, rides(3, 1)), "not even the fence is raised");
}

#[tokio::test]
async fn nothing_is_published_when_the_online_store_goes_down_before_the_commit() {
    let mut world = filled(&[]);
    let running = world.stopped_at("staged", "down", april(json!({})));
    drop(world.server.take());
    let ended = running.ends();
    ended.failed("OnlineUnavailable", &["does not answer"]);
    assert_eq!((ended.condition("OfflineReplaced").0, world.rides().await), ("False", rides(3, 1)));
    let server = RedisServer::start(&[]);
    world.file("secrets/redis/url", server.url().as_bytes());
    world.server = Some(server);
    world.backfill("down", april(json!({}))).succeeded();
    assert_eq!((world.rides().await, world.online(2).map(|row| row.1)), (rides(3, 2), Some(2)), "the same backfill goes on");
}

#[tokio::test]
async fn an_online_store_that_goes_down_after_the_commit_is_caught_up_by_the_same_backfill() {
    let mut world = filled(&[]);
    let running = world.stopped_at("published", "down", april(json!({})));
    drop(world.server.take());
    let ended = running.ends();
    ended.failed("OnlineUnavailable", &["does not answer"]);
    assert_eq!((ended.condition("OfflineReplaced").0, ended.condition("OnlineReplaced").0), ("True", "False"));
    assert_eq!(world.rides().await, rides(3, 2));
    let server = RedisServer::start(&[]);
    world.file("secrets/redis/url", server.url().as_bytes());
    world.server = Some(server);
    let version = ended.offline("versionAfter");
    let ended = world.backfill("down", april(json!({})));
    ended.succeeded();
    assert_eq!((ended.offline("versionAfter"), world.online(1).map(|row| row.1)), (version, Some(2)), "published once");
}

#[tokio::test]
async fn an_online_store_without_room_is_refused_before_the_commit() {
    let world = filled(&["--maxmemory", "2mb"]);
    let before = world.data().await;
    world.source(&rides(30_000, 2));
    world.backfill("large", april(json!({}))).failed("OnlineCapacity", &["30000 more entities", "MiB are free", "maxmemory"]);
    assert_eq!(world.data().await, before);
}

#[tokio::test]
async fn an_online_store_that_evicts_is_warned_of_or_refused() {
    let world = filled(&["--maxmemory-policy", "allkeys-lru"]);
    let before = world.data().await;
    let words = ["may evict rows by itself (maxmemory-policy allkeys-lru)", "noeviction"];
    world.backfill("strict", april(json!({ "evictionPolicy": "Fail" }))).failed("EvictionPolicy", &words);
    assert_eq!(world.data().await, before);
    let ended = world.backfill("warned", april(json!({})));
    ended.succeeded();
    assert!(ended.warning("EvictionPolicy").contains(words[0]));
    let times = ended.warnings().iter().filter(|reason| **reason == "EvictionPolicy").count();
    assert_eq!((times, world.rides().await), (1, rides(3, 2)), "once is enough");
}

#[tokio::test]
async fn credentials_that_are_refused_are_not_tried_again() {
    let world = filled(&[]);
    let before = world.data().await;
    let server = world.server.as_ref().expect("a server");
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("secret").exec(&mut server.connection()).expect("CONFIG");
    let ended = world.backfill("auth", april(json!({})));
    ended.failed("OnlineAuth", &[]);
    assert_eq!(ended.json["offline"]["outcome"]["retry"], false);
    world.file("secrets/redis/url", server.url().replace("//", "//:wrong@").as_bytes());
    let ended = world.backfill("auth", april(json!({})));
    assert!(!ended.failed("OnlineAuth", &[]).contains("wrong"), "the message has no password");
    std::fs::remove_file(world.path("secrets/redis/url")).expect("removed");
    world.backfill("auth", april(json!({}))).failed("SecretNotFound", &["entry \"url\" of secret \"redis\""]);
    let mut open =
        redis::Client::open(server.url().replace("//", "//:secret@")).and_then(|c| c.get_connection()).expect("a server");
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("").exec(&mut open).expect("CONFIG");
    assert_eq!(world.data().await, before);
}
