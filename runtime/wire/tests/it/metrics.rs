//! What the listener counts is what `docs/metrics.md` lists.

use std::collections::BTreeSet;
use std::path::Path;

use crate::client::{open_to_all, wire_counted};

#[tokio::test]
async fn the_list_of_metrics_is_whole() {
    let registry = prometheus::Registry::new();
    let _wire = wire_counted(open_to_all(), registry.clone()).await;
    let families = registry.gather();
    let shown: BTreeSet<&str> = families.iter().map(|family| family.name()).collect();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let listed: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| name.starts_with("cloudlet_mongo_"))
        .collect();
    assert_eq!(shown, listed);
}
