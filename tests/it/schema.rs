//! Schema changes through tandem are repeated on the target, under the names that they had in the session that made
//! them, and the rows that follow arrive.

use crate::support::{connect, pair, rows, sql, tandem::Tandem};

const TABLES: &str =
    "SELECT n.nspname, c.relname, count(a.*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind = 'r' AND n.nspname IN ('public', 'one', 'two') GROUP BY 1, 2 ORDER BY 1, 2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_changes_are_repeated_where_the_session_meant_them() {
    let (origin, target) = pair();
    let (origin_url, target_url) = (origin.url("postgres"), target.url("postgres"));
    let tandem = Tandem::start(&origin_url, &target_url, "[mirror]\nself_repair = false").await;
    sql(&tandem.url("postgres"), "CREATE SCHEMA one").await;
    sql(&tandem.url("postgres"), "CREATE SCHEMA two").await;
    let client = connect(&tandem.url("postgres")).await;
    for statement in [
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t VALUES (1)",
        "SET search_path = one, public",
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t VALUES (2)",
        "ALTER TABLE t ADD v int DEFAULT 7",
        "INSERT INTO t VALUES (3)",
        "BEGIN",
        "SET LOCAL search_path = two",
        "CREATE TABLE u (id serial PRIMARY KEY, v text)",
        "INSERT INTO u (v) VALUES ('x')",
        "COMMIT",
        "CREATE INDEX ON t (v)",
        "CREATE TABLE gone (id int PRIMARY KEY)",
        "DROP TABLE gone",
        "BEGIN",
        "CREATE TABLE never (id int PRIMARY KEY)",
        "ROLLBACK",
    ] {
        client.batch_execute(statement).await.expect(statement);
    }
    // The same by the extended protocol.
    client.execute("CREATE TABLE e (id int PRIMARY KEY)", &[]).await.expect("created");
    client.execute("INSERT INTO e VALUES ($1)", &[&5_i32]).await.expect("inserted");
    tandem.caught_up().await;
    assert_eq!(rows(&target_url, TABLES).await, rows(&origin_url, TABLES).await, "{}", tandem.log());
    for table in ["public.t", "one.t", "two.u", "one.e"] {
        let query = format!("SELECT * FROM {table} ORDER BY 1");
        assert_eq!(rows(&target_url, &query).await, rows(&origin_url, &query).await, "{table}: {}", tandem.log());
    }
    assert_eq!(rows(&target_url, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'one'").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_prepared_before_a_schema_change_captures_by_the_new_schema() {
    let (origin, target) = pair();
    let (origin_url, target_url) = (origin.url("postgres"), target.url("postgres"));
    let tandem = Tandem::start(&origin_url, &target_url, "[mirror]\nself_repair = false").await;
    let url = tandem.url("postgres");
    for statement in [
        "CREATE TABLE p (id int, k int, v int, PRIMARY KEY (id, k)) PARTITION BY RANGE (k)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
    ] {
        sql(&url, statement).await;
    }
    let client = connect(&url).await;
    let insert = client.prepare("INSERT INTO p VALUES ($1, $2, 0)").await.expect("prepared");
    client.execute(&insert, &[&1_i32, &1_i32]).await.expect("inserted");
    sql(&url, "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)").await;
    // Another session changed the schema: this one hears of it with the next catalog, for which its own change waits.
    client.batch_execute("CREATE TABLE own (id int PRIMARY KEY)").await.expect("created");
    client.batch_execute("SELECT 1").await.expect("waited for the catalog");
    client.execute(&insert, &[&2_i32, &11_i32]).await.expect("inserted");
    tandem.caught_up().await;
    let query = "SELECT * FROM p ORDER BY 1";
    assert_eq!(rows(&target_url, query).await, rows(&origin_url, query).await, "{}", tandem.log());
}
