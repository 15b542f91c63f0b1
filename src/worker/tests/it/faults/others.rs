//! What other programs do to the table.

use crate::support::World;
use deltalake::DeltaTable;
use deltalake::kernel::{DataType, PrimitiveType, StructField};
use std::collections::HashMap;

impl World {
    /// Others compact all small files.
    pub async fn compact(&self) {
        let (_, metrics) = self.table().await.optimize().await.expect("compacted");
        assert!(metrics.num_files_removed > 0, "something was compacted");
    }

    /// Others delete rows by a predicate; how many files that rewrote.
    pub async fn delete(&self, predicate: &str) -> u64 {
        let (_, metrics) = self.table().await.delete().with_predicate(predicate).await.expect("deleted");
        assert!(metrics.num_deleted_rows > Some(0), "rows were deleted");
        (metrics.num_added_files + metrics.num_removed_files) as u64
    }

    /// Others add a nullable column of whole numbers.
    pub async fn add_column(&self, name: &str) -> DeltaTable {
        let field = StructField::new(name, DataType::Primitive(PrimitiveType::Long), true);
        self.table().await.add_columns().with_fields([field]).await.expect("a column")
    }

    /// Others set a property of the table.
    pub async fn set_property(&self, key: &str, value: &str) -> DeltaTable {
        let properties = HashMap::from([(key.to_owned(), value.to_owned())]);
        self.table()
            .await
            .set_tbl_properties()
            .with_properties(properties)
            .with_raise_if_not_exists(false)
            .await
            .expect("a property")
    }

    /// Others delete every file that the newest version does not name.
    pub async fn vacuum(&self) {
        let vacuum =
            self.table().await.vacuum().with_retention_period(chrono::Duration::zero()).with_enforce_retention_duration(false);
        let (_, metrics) = vacuum.with_mode(deltalake::operations::vacuum::VacuumMode::Full).await.expect("vacuumed");
        assert!(!metrics.files_deleted.is_empty(), "something was deleted");
    }
}
