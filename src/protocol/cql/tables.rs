//! What a cluster's schema was when somebody looked: a value, shared by everybody who plans by it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::text::schema;
use crate::record::TableId;

/// One look at the schema of a cluster.
#[derive(Debug, Default)]
pub struct Tables {
    /// Grows with every look that found something else, at whichever cluster: both sides' tables have one memory of plans, and
    /// no plan of the one may pass for the other's. 0: nobody looked yet.
    pub epoch: u64,
    /// `system.local.schema_version`: the same on all nodes of a cluster that agrees with itself.
    pub version: [u8; 16],
    by_name: HashMap<String, HashMap<String, Arc<Table>>>,
}

/// A table.
#[derive(Debug)]
pub struct Table {
    /// Keyspace, name and columns.
    pub shape: schema::Table,
    /// What records call it.
    pub label: TableId,
    /// The server's own id: another one after the table was dropped and made again.
    pub id: [u8; 16],
    /// Seconds for which deletes are remembered. 0: late writes bring back what was deleted.
    pub gc_grace_seconds: i32,
    /// Seconds that rows live if a write does not say; 0: for ever.
    pub default_ttl: i32,
}

impl Table {
    /// With the label that belongs to its name.
    pub fn new(shape: schema::Table, id: [u8; 16], gc_grace_seconds: i32, default_ttl: i32) -> Table {
        let label = TableId::of(&shape.keyspace, &shape.name);
        Table { shape, label, id, gc_grace_seconds, default_ttl }
    }
}

impl Tables {
    /// As of this look.
    pub fn new(version: [u8; 16], tables: impl IntoIterator<Item = Table>) -> Tables {
        static LOOKS: AtomicU64 = AtomicU64::new(1);
        let mut by_name: HashMap<String, HashMap<String, Arc<Table>>> = HashMap::new();
        for table in tables {
            let keyspace = by_name.entry(table.shape.keyspace.clone()).or_default();
            keyspace.insert(table.shape.name.clone(), Arc::new(table));
        }
        Tables { epoch: LOOKS.fetch_add(1, Relaxed), version, by_name }
    }

    /// The table of this name; names as the server keeps them, case rules applied.
    pub fn table(&self, keyspace: &str, name: &str) -> Option<&Arc<Table>> {
        self.by_name.get(keyspace)?.get(name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.by_name.values().flat_map(HashMap::values)
    }
}

/// Keyspaces that belong to a node or to the cluster's own machinery: never mirrored.
pub fn is_own(keyspace: &str) -> bool {
    matches!(
        keyspace,
        "system"
            | "system_schema"
            | "system_auth"
            | "system_traces"
            | "system_distributed"
            | "system_views"
            | "system_virtual_schema"
            | "system_cluster_metadata"
    )
}
