//! What others commit between the pin and the publish of a backfill.

use crate::faults::{corrected, filled, filled_in, january, outside, publishes, replaced, sorted, ten_days};
use crate::support::{Kind, Ride, World, at, object, ride};
use serde_json::json;
use std::cell::Cell;

/// Runs an action of others at the first stop only.
fn once(act: impl AsyncFn(&World)) -> impl FnMut(&World) {
    let first = Cell::new(true);
    move |world| {
        if first.replace(false) {
            now(act(world));
        }
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}

fn landing() -> Vec<Ride> {
    vec![ride(1, "2024-01-05 12:00:00", 1), ride(2, "2024-01-15 12:00:00", 2), ride(5, "2024-01-10", 3), ride(5, "2024-01-20", 4)]
}

fn with(rides: impl IntoIterator<Item = Ride>, more: &[Ride]) -> Vec<Ride> {
    sorted(rides.into_iter().chain(more.iter().copied()))
}

fn worlds() -> [World; 2] {
    [filled(), filled_in(World::new().partitioned_by("Day"))]
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_land_after_the_pin_survive_inside_and_outside() {
    for world in worlds() {
        let ended = world.replaced_while(once(async |world| world.append(&landing()).await));
        ended.succeeded();
        assert_eq!(world.rides().await, with(replaced(), &landing()));
        assert_eq!(ended.proof()["verdict"], "Passed");
        assert_eq!(world.online(5), Some((at("2024-01-20") / 1_000_000, 4)), "and come online");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_after_the_pin_loses_and_doubles_nothing() {
    for world in worlds() {
        world.append(&[ride(6, "2024-01-09", 6), ride(6, "2024-01-15", 66)]).await;
        let ended = world.replaced_while(once(async |world| {
            world.append(&landing()).await;
            world.compact().await;
        }));
        ended.succeeded();
        let expected = replaced().into_iter().chain([ride(6, "2024-01-09", 6)]);
        assert_eq!(world.rides().await, with(expected, &landing()));
        assert_eq!(ended.proof()["verdict"], "Passed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_compactions_and_appends_between_them_lose_and_double_nothing() {
    for world in worlds() {
        let later = [ride(3, "2024-01-16 06:00:00", 7), ride(3, "2024-02-03", 8)];
        world
            .replaced_while(once(async |world| {
                world.append(&landing()).await;
                world.compact().await;
                world.append(&later).await;
                world.compact().await;
            }))
            .succeeded();
        assert_eq!(world.rides().await, with(with(replaced(), &landing()), &later));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_at_every_try_still_ends_well() {
    let world = filled();
    let tries = Cell::new(0);
    let ended = world.replaced_while(|world| {
        tries.set(tries.get() + 1);
        if tries.get() <= 3 {
            now(async {
                world.append(&[ride(5, &format!("2024-01-{:02}", 10 + tries.get()), tries.get())]).await;
                world.compact().await;
            });
        }
    });
    ended.succeeded();
    assert_eq!(tries.get(), 4, "three tries find their version taken");
    let landed: Vec<Ride> = (1..=3).map(|n| ride(5, &format!("2024-01-{:02}", 10 + n), n)).collect();
    assert_eq!(world.rides().await, with(replaced(), &landed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_inside_the_interval_makes_the_backfill_stage_again() {
    for world in worlds() {
        let seen = Cell::new(0);
        let act = once(async |world: &World| _ = world.delete("driver = 2").await);
        let mut act = act;
        let ended = world.replaced_while(|world| {
            seen.set(seen.get() + 1);
            act(world);
        });
        ended.succeeded();
        assert!(seen.get() >= 2, "tried, staged again and tried again");
        let kept = outside(&january(), 10, 20).into_iter().filter(|ride| ride.0 != Some(2));
        assert_eq!(world.rides().await, with(kept, &corrected()));
        assert_eq!(ended.offline("rowsRemoved"), 31, "the pin is that of the table without driver 2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_deleted_from_again_and_again_is_contended_and_unharmed() {
    let world = filled();
    let served = world.served();
    let next = Cell::new(1);
    let ended = world.replaced_while(|world| {
        now(world.delete(&format!("driver = {}", next.get())));
        next.set(next.get() + 1);
    });
    ended.failed("TableContended", &["3 times", "removed rows of the interval", "nothing was changed"]);
    assert_eq!(next.get(), 4, "it is tried three times");
    assert_eq!(world.rides().await, sorted(january().into_iter().filter(|ride| ride.0 > Some(3))));
    assert_eq!(world.served(), served);
    assert_eq!(publishes(&world, ended.json["key"].as_str()), Vec::<usize>::new());
    let named: Vec<String> = world.files().await.into_iter().map(|file| file.add.path).collect();
    let left: Vec<String> = world.staged_files().into_iter().filter(|file| !named.contains(file)).collect();
    assert!(left.iter().all(|file| !file.contains(&ended.json["key"].as_str().expect("a key")[..16])), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_outside_the_interval_changes_nothing_for_the_backfill() {
    for world in worlds() {
        world.append(&[ride(5, "2024-01-28", 5), ride(6, "2024-01-28", 6)]).await;
        let staged = Cell::new(0);
        world
            .replaced_while(|world| match staged.replace(world.staged_files().len()) {
                0 => _ = now(world.delete("driver = 5")),
                before => assert_eq!(before, world.staged_files().len(), "nothing is staged again"),
            })
            .succeeded();
        assert_eq!(world.rides().await, with(replaced(), &[ride(6, "2024-01-28", 6)]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_column_and_a_property_of_others_stay() {
    let world = filled();
    world
        .replaced_while(once(async |world| {
            world.add_column("note").await;
            world.set_property("delta.logRetentionDuration", "interval 60 days").await;
        }))
        .succeeded();
    assert_eq!(world.rides().await, replaced());
    let metadata = world.data().await.metadata;
    assert!(metadata.contains("note") && metadata.contains("interval 60 days"), "{metadata}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_backfill_cannot_honour_fails_it_and_changes_nothing() {
    for (key, value, words) in [
        ("delta.appendOnly", "true", ["changed during the backfill", "appendOnly"]),
        ("featureset.owner", "other/rides", ["changed during the backfill", "belongs to other/rides"]),
    ] {
        let world = filled();
        let (rides, served) = (world.rides().await, world.served());
        let ended = world.replaced_while(once(async |world| _ = world.set_property(key, value).await));
        ended.failed("TableChanged", &words);
        assert_eq!((world.rides().await, world.served()), (rides, served));
        assert_eq!(publishes(&world, None).len(), 1, "only the fill");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_feature_set_cannot_have_the_table() {
    let mut world = filled();
    let before = (world.rides().await, world.version().await);
    let mut other = world.feature_set["spec"].clone();
    other["offline"]["table"] = json!("rides");
    world.feature_set = object("FeatureSet", "other", other);
    world.backfill("theirs", ten_days()).failed("TableOwned", &["demo/rides", "offline.table"]);
    world.feature_set["metadata"]["name"] = json!("rides");
    assert_eq!(world.rides().await, before.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_an_event_time_stay() {
    for world in [filled(), filled_in(World::new().partitioned_by("Day"))] {
        let (early, late) = ((Some(1), None, Some(1)), (Some(2), None, Some(2)));
        world.append(&[early, ride(1, "2024-01-12 01:00:00", 1)]).await;
        world
            .replaced_while(once(async |world| {
                world.append(&[late]).await;
                world.compact().await;
            }))
            .succeeded();
        assert_eq!(world.rides().await, with(replaced(), &[early, late]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_row_that_is_not_in_the_table_yet_survives() {
    for kind in [Kind::Sqlite, Kind::Redis] {
        let world = filled_in(World::on(kind));
        let live = [(1, "2024-02-15", 11), (9, "2024-01-13", 99), (7, "2024-01-16", 77)];
        let seconds = |time: &str| at(time) / 1_000_000;
        let ended = world.replaced_while(once(async |world| {
            live.iter().for_each(|(driver, time, trips)| world.ingest(*driver, at(time), *trips));
        }));
        ended.succeeded();
        for (driver, time, trips) in live {
            assert_eq!(world.online(driver), Some((seconds(time), trips)), "driver {driver}");
        }
        assert_eq!(world.online(2), Some((seconds("2024-01-30"), 230)), "the others are as the table says");
        assert_eq!(world.rides().await, replaced(), "the table has none of them yet");
    }
}
