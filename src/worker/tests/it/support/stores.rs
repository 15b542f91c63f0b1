//! Tests that hold for every kind of online store.

/// Runs tests with a world on SQLite and again with one on Redis.
macro_rules! on_both_stores {
    ($($(#[$doc:meta])* async fn $name:ident($world:ident) $body:block)+) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::support::World::on(crate::support::Kind::Sqlite)).await;
            })+
        }
        mod on_redis {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::support::World::on(crate::support::Kind::Redis)).await;
            })+
        }
        $($(#[$doc])* async fn $name(#[allow(unused_mut)] mut $world: crate::support::World) $body)+
    };
}

/// The same, and once more with rows that Spark computes.
macro_rules! on_both_stores_and_by_spark {
    ($($(#[$doc:meta])* async fn $name:ident($world:ident) $body:block)+) => {
        on_both_stores! { $($(#[$doc])* async fn $name($world) $body)+ }
        mod by_spark {
            $(#[tokio::test]
            async fn $name() {
                let mut world = crate::support::World::on(crate::support::Kind::Redis);
                world.template = crate::spark::alone();
                super::$name(world).await;
            })+
        }
    };
}

pub(crate) use {on_both_stores, on_both_stores_and_by_spark};
