//! What a power loss takes away: the ring is never synced, so without it a journal is what the machine would find.

use crate::support::{pair, sql, tandem::Tandem};

/// Promise 3: which tables were written of late is durable before they are, so only those are dirty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_power_loss_the_tables_that_were_written_are_dirty_and_no_others() {
    let (origin, target) = pair();
    let (origin_url, target_url) = (origin.url("postgres"), target.url("postgres"));
    for url in [&origin_url, &target_url] {
        for table in ["written", "read", "idle"] {
            sql(url, &format!("CREATE TABLE {table} (id int PRIMARY KEY)")).await;
        }
        sql(url, "CREATE TABLE along (id int PRIMARY KEY, w int REFERENCES written ON DELETE CASCADE)").await;
    }
    let mut tandem = Tandem::start(&origin_url, &target_url, "[mirror]\nself_repair = false").await;
    sql(&tandem.url("postgres"), "INSERT INTO written VALUES (1)").await;
    sql(&tandem.url("postgres"), "SELECT * FROM read").await;
    tandem.settled().await;
    tandem.kill();
    let journals: Vec<_> = walk(tandem.dir()).into_iter().filter(|path| path.ends_with("ring")).collect();
    let [ring] = &journals[..] else { panic!("one ring, not {journals:?}") };
    std::fs::remove_file(ring).expect("removed");
    tandem.launch().await;
    let dirty = tandem.client().get("/v1/dirty").await.expect("it answers");
    let names: Vec<_> = dirty.as_array().expect("a list").iter().map(|entry| entry["table"].clone()).collect();
    let named = |name: &str| names.iter().any(|one| one == name);
    // Its rows may have gone with those of the other.
    let expected = names.len() == 2 && named("public.written") && named("public.along");
    assert!(expected, "{names:?}\n{}", tandem.log());
    tandem.repair_all().await;
    tandem.settled().await;
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
