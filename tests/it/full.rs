//! A journal without room: clients go on, tables are dirty, and it heals by itself (promises 6 and 7).

use ::tandem::sandbox::Stop;

use crate::support::{connect, pair, rows, sql, tandem::Tandem};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_go_on_when_the_journal_is_full_and_both_sides_are_equal_in_the_end() {
    let (origin, mut target) = pair();
    let (origin_url, target_url) = (origin.url("postgres"), target.url("postgres"));
    for url in [&origin_url, &target_url] {
        sql(url, "CREATE TABLE large (k text PRIMARY KEY); CREATE TABLE small (id int PRIMARY KEY)").await;
    }
    target.stop(Stop::Fast).expect("it stops");
    let tandem = Tandem::start(&origin_url, &target_url, "[journal]\nsize_limit = \"128MB\"").await;
    let client = connect(&tandem.url("postgres")).await;
    // Keys of two kilobytes, which only the server knows: more than the journal takes, in one answer.
    let many = "INSERT INTO large SELECT repeat('k', 2000) || n FROM generate_series(1, 75000) n";
    assert_eq!(client.execute(many, &[]).await.expect("inserted"), 75_000);
    tandem.status_is("behind", |status| status["mirror"]["lag_bytes"].as_u64() > Some(64 << 20)).await;
    for id in 0..200_i32 {
        client.execute("INSERT INTO small VALUES ($1)", &[&id]).await.expect("inserted");
    }
    let dirty = tandem.client().get("/v1/dirty").await.expect("it answers");
    let tables = dirty.as_array().expect("a list");
    let large = tables.iter().find(|entry| entry["table"] == "public.large").expect("it is dirty");
    assert!(large["reasons"]["journal"].as_u64() > Some(0), "{dirty}");
    target.start().expect("it comes back");
    tandem.settled().await;
    for table in ["large", "small"] {
        let query = format!("SELECT count(*), sum(hashtext(t::text)) FROM {table} t");
        assert_eq!(rows(&target_url, &query).await, rows(&origin_url, &query).await, "{table}: {}", tandem.log());
    }
}
