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

pub(crate) use on_both_stores;
