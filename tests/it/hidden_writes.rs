//! Writes that no key names (functions, triggers, DO, CALL) are counted by the primary itself: exactly the tables that
//! they wrote are dirty, and a call that writes nothing leaves no mark (promise 6).

use tandem::sandbox::{Options, binaries};

use crate::support::{connect, newest, rows, server_with, sql, stage::Stage, tandem::Tandem};

const SCHEMA: &str = "
    CREATE TABLE acc (id int PRIMARY KEY, v int);
    CREATE TABLE audit (id serial PRIMARY KEY, what text);
    CREATE TABLE calm (id int PRIMARY KEY);
    DO $$ BEGIN CREATE ROLE auditor; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
    GRANT INSERT ON audit TO auditor; GRANT USAGE ON SEQUENCE audit_id_seq TO auditor;
    CREATE FUNCTION pure(x int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN x + 1; END $$;
    CREATE FUNCTION hidden(x int) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO audit (what) VALUES ('hidden'); RETURN x; END $$;
    CREATE PROCEDURE two() LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO audit (what) VALUES ('1'); COMMIT; INSERT INTO audit (what) VALUES ('2'); END $$;
    CREATE PROCEDURE one() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit (what) VALUES ('one'); END $$;
    CREATE PROCEDURE failing() LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO audit (what) VALUES ('lost'); RAISE 'no'; END $$;
    CREATE PROCEDURE half() LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO audit (what) VALUES ('half'); COMMIT; RAISE 'no'; END $$;
    CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO audit (what) VALUES ('trigger'); RETURN NULL; END $$;
    CREATE TABLE watched (id int PRIMARY KEY, v int);
    CREATE TABLE emptied (id int PRIMARY KEY);
    CREATE TRIGGER note BEFORE TRUNCATE ON emptied FOR EACH STATEMENT EXECUTE FUNCTION log();
    CREATE TRIGGER watch AFTER INSERT OR UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION log();
";

/// The tables that are dirty after these statements, each on a connection of its own, went through tandem.
async fn dirty_after(tandem: &Tandem, statements: &[&str]) -> Vec<String> {
    for statement in statements {
        rows(&tandem.url("postgres"), statement).await;
    }
    tandem.caught_up().await;
    let listed = tandem.client().get("/v1/dirty").await.expect("the API answers");
    let tables = listed.as_array().expect("a list");
    let mut names: Vec<String> =
        tables.iter().map(|entry| entry["table"].as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_tables_that_hidden_writes_changed_are_dirty() {
    let stage = Stage::new(SCHEMA, "[mirror]\nself_repair = false", &[]).await;
    let (tandem, target_url) = (&stage.tandem, stage.target.url("postgres"));
    let none: Vec<String> = Vec::new();
    let calm = ["SELECT pure(1)", "DO $$ BEGIN PERFORM 1; END $$", "VACUUM calm", "INSERT INTO calm VALUES (1)"];
    assert_eq!(dirty_after(tandem, &calm).await, none);
    let client = connect(&tandem.url("postgres")).await;
    for statement in ["BEGIN", "SELECT hidden(1)", "ROLLBACK"] {
        client.batch_execute(statement).await.expect(statement);
    }
    assert_eq!(dirty_after(tandem, &[]).await, none);
    let audit = vec!["public.audit".to_owned()];
    assert_eq!(dirty_after(tandem, &["SELECT hidden(1)"]).await, audit);
    clear(tandem).await;
    // A cursor runs when it is read; one WITH HOLD when it is committed, and then nobody can count.
    let unread = "BEGIN; DECLARE c CURSOR FOR SELECT hidden(1); COMMIT";
    assert_eq!(dirty_after(tandem, &[unread]).await, none);
    for script in [
        &["BEGIN", "DECLARE c CURSOR FOR SELECT hidden(1)", "FETCH ALL FROM c", "COMMIT"][..],
        &["BEGIN; DECLARE c CURSOR FOR SELECT hidden(1); FETCH ALL FROM c; COMMIT"],
    ] {
        for statement in script {
            client.batch_execute(statement).await.expect(statement);
        }
        assert_eq!(dirty_after(tandem, &[]).await, audit, "{script:?}");
        clear(tandem).await;
    }
    let held = "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT hidden(1); COMMIT";
    assert!(dirty_after(tandem, &[held]).await.contains(&audit[0]));
    clear(tandem).await;
    assert_eq!(dirty_after(tandem, &["DO $$ BEGIN UPDATE acc SET v = 1; END $$"]).await, none, "no row was there");
    for statement in [
        "INSERT INTO watched VALUES (1, 1)",
        "CALL two()",
        "CALL one()",
        "TRUNCATE emptied",
        "BEGIN; INSERT INTO emptied VALUES (1); TRUNCATE emptied; INSERT INTO emptied VALUES (2); COMMIT",
        "DO $$ BEGIN INSERT INTO audit (what) VALUES ('DO'); END $$",
        "BEGIN; SELECT hidden(1); COMMIT; SELECT 1",
    ] {
        assert_eq!(dirty_after(tandem, &[statement]).await, audit, "{statement}");
        clear(tandem).await;
    }
    for refused in [
        "CALL nothing()",
        "CALL failing()",
        "CALL two(1)",
        "DO $$ BEGIN INSERT INTO audit (what) VALUES ('lost'); RAISE 'no'; END $$",
        "DO $$ BEGIN COMMITS; END $$",
        "SELECT hidden(1); SELECT 1/0",
        "BEGIN; SELECT hidden(1); ROLLBACK; SELECT 1/0",
    ] {
        client.batch_execute(refused).await.expect_err(refused);
        assert!(client.query(refused, &[]).await.is_err());
        assert_eq!(dirty_after(tandem, &[]).await, none, "{refused}");
    }
    for undone in ["BEGIN; SELECT hidden(1); ROLLBACK", "SELECT hidden(1); ROLLBACK; SELECT 1"] {
        assert_eq!(dirty_after(tandem, &[undone]).await, none, "{undone}");
    }
    assert_eq!(
        rows(&target_url, "SELECT v FROM watched").await,
        ["1"],
        "the statement's own row is mirrored all the same"
    );
    // Where a hidden RETURNING would fail, the rows are counted.
    for own in ["CREATE TEMP TABLE calm (x int)", "INSERT INTO calm SELECT 1", "UPDATE calm SET x = 2"] {
        client.batch_execute(own).await.expect(own);
    }
    assert_eq!(dirty_after(tandem, &[]).await, none, "the session's own table");
    client.batch_execute("SET ROLE auditor").await.expect("a role that may only write");
    client.batch_execute("INSERT INTO audit (what) VALUES ('blind')").await.expect("as without tandem");
    assert_eq!(dirty_after(tandem, &[]).await, audit);
    clear(tandem).await;
    client.batch_execute("RESET ROLE").await.expect("back");
    // It committed before it failed, and nobody could count.
    client.batch_execute("CALL half()").await.expect_err("it fails");
    assert!(dirty_after(tandem, &[]).await.contains(&audit[0]));
    let log = tandem.log();
    assert!(!log.contains("ERROR"), "{log}");
}

const UNSEEN: &str = "
    CREATE TABLE acc (id int PRIMARY KEY, v int);
    INSERT INTO acc SELECT i, 0 FROM generate_series(1, 9) i;
    CREATE TABLE audit (id serial PRIMARY KEY, what text);
    CREATE FUNCTION \"PlaceOrder\"(x int) RETURNS int LANGUAGE sql AS
        $$ INSERT INTO audit (what) VALUES ('order') RETURNING id $$;
    CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO audit (what) VALUES ('trigger'); RETURN NULL; END $$;
    CREATE TABLE docs (url text, h text GENERATED ALWAYS AS (md5(url)) STORED PRIMARY KEY);
    CREATE TABLE root (id int PRIMARY KEY) PARTITION BY LIST (id);
    CREATE TABLE leaf PARTITION OF root FOR VALUES IN (1);
    CREATE TABLE other PARTITION OF root FOR VALUES IN (2);
    CREATE TABLE refers (id int PRIMARY KEY, root int REFERENCES root);
    CREATE SCHEMA shop;
    CREATE DOMAIN uid AS uuid DEFAULT gen_random_uuid();
    CREATE TABLE moving (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
    CREATE TABLE moving_1 PARTITION OF moving FOR VALUES IN (1);
    CREATE TABLE moving_2 PARTITION OF moving FOR VALUES IN (2);
    CREATE FUNCTION renumber() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := NEW.id + 100; RETURN NEW; END $$;
    CREATE TRIGGER renumber BEFORE INSERT ON moving FOR EACH ROW EXECUTE FUNCTION renumber();
";

/// A temporary view is of tables that are mirrored, and bears the name of another one; a trigger of a temporary or a foreign
/// table writes where it likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_by_way_of_temporary_and_foreign_tables_is_counted() {
    let schema = format!(
        "{SCHEMA} CREATE SCHEMA archive; CREATE TABLE archive.older (id int PRIMARY KEY, v int);
        INSERT INTO acc VALUES (1, 1); INSERT INTO archive.older VALUES (1, 1);"
    );
    let stage = Stage::new(&schema, "[mirror]\nself_repair = false", &[]).await;
    let tandem = &stage.tandem;
    sql(
        &stage.origin.url("postgres"),
        "CREATE EXTENSION postgres_fdw;
        DO $$ BEGIN EXECUTE format('CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw
            OPTIONS (host ''127.0.0.1'', port %L, dbname ''postgres'')', current_setting('port')); END $$;
        CREATE USER MAPPING FOR CURRENT_USER SERVER here OPTIONS (user 'postgres');
        CREATE FOREIGN TABLE far (id int) SERVER here OPTIONS (table_name 'calm');
        CREATE TRIGGER watch BEFORE INSERT ON far FOR EACH STATEMENT EXECUTE FUNCTION log();",
    )
    .await;
    for (statements, dirty) in [
        ("CREATE TEMP VIEW v AS SELECT * FROM acc; UPDATE pg_temp.v SET v = 2", "public.acc"),
        ("CREATE TEMP VIEW acc AS SELECT * FROM archive.older; UPDATE acc SET v = 2 WHERE id = 1", "archive.older"),
        (
            "CREATE TEMP TABLE acc (id int, v int);
            CREATE TRIGGER t AFTER INSERT ON pg_temp.acc FOR EACH ROW EXECUTE FUNCTION log();
            INSERT INTO acc (id, v) VALUES (7, 7)",
            "public.audit",
        ),
        (
            "CREATE TEMP TABLE stage (id int DEFAULT hidden(1));
            INSERT INTO pg_temp.stage DEFAULT VALUES",
            "public.audit",
        ),
    ] {
        let client = connect(&tandem.url("postgres")).await;
        for statement in statements.split(';') {
            client.batch_execute(statement).await.expect(statement);
        }
        drop(client);
        assert_eq!(dirty_after(tandem, &[]).await, [dirty], "{statements}");
        clear(tandem).await;
    }
    // By parameters, also where it was prepared before, or under an older schema; and by SQL's EXECUTE, where nobody counts.
    let client = connect(&tandem.url("postgres")).await;
    let update = client.prepare("UPDATE acc SET v = $1 WHERE id = $2").await.expect("prepared");
    client.batch_execute("PREPARE p AS UPDATE acc SET v = 5 WHERE id = 1").await.expect("prepared");
    client.batch_execute("CREATE TEMP VIEW acc AS SELECT * FROM archive.older").await.expect("made");
    for v in [3, 4] {
        assert_eq!(client.execute(&update, &[&v, &1]).await.expect("written"), 1);
        assert_eq!(dirty_after(tandem, &[]).await, ["archive.older"]);
        clear(tandem).await;
        rows(&tandem.url("postgres"), &format!("ALTER TABLE calm ADD COLUMN v{v} int")).await;
        tandem.caught_up().await;
    }
    client.batch_execute("EXECUTE p").await.expect("written");
    assert!(dirty_after(tandem, &[]).await.contains(&"archive.older".to_owned()));
    clear(tandem).await;
    client.batch_execute("INSERT INTO far VALUES (1)").await.expect("it is far");
    assert_eq!(dirty_after(tandem, &[]).await, ["public.audit"]);
}

/// What the name means decides whose rows were counted: one row that a trigger wrote instead looks like the statement's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_written_in_place_of_the_named_one_is_counted() {
    let schema = "
        CREATE SCHEMA data; CREATE SCHEMA api; CREATE SCHEMA other;
        CREATE TABLE data.orders (id int PRIMARY KEY, ref int, total int);
        CREATE VIEW api.orders AS SELECT ref AS id, total FROM data.orders;
        CREATE FUNCTION api.place() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO data.orders VALUES (NEW.id + 1000, NEW.id, NEW.total); RETURN NEW; END $$;
        CREATE TRIGGER place INSTEAD OF INSERT ON api.orders FOR EACH ROW EXECUTE FUNCTION api.place();
        CREATE TABLE data.noted (id int PRIMARY KEY, v int); CREATE TABLE other.noted (id int PRIMARY KEY, v int);
        CREATE RULE elsewhere AS ON INSERT TO data.noted
            DO INSTEAD INSERT INTO other.noted VALUES (NEW.id + 1000, NEW.v);
        CREATE TABLE acc (id int PRIMARY KEY, v int);
        CREATE FUNCTION stray() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO public.acc VALUES (NEW.id + 1000, NEW.v); RETURN NULL; END $$;";
    let stage = Stage::new(schema, "[mirror]\nself_repair = false", &[]).await;
    let tandem = &stage.tandem;
    let insert = "INSERT INTO orders (id, total) VALUES ($1, $2)";
    for (script, dirty) in [
        (&["SET search_path = api; INSERT INTO orders (id, total) VALUES (5, 10)"][..], &["data.orders"][..]),
        (&["SET search_path = api, data", "INSERT INTO orders (id, total) VALUES (6, 10)"], &["data.orders"]),
        (&["SET search_path = data, api", "INSERT INTO orders (id, total) VALUES (7, 10)"], &[]),
        (&["INSERT INTO data.orders (id, total) VALUES (8, 10)"], &[]),
        (&["SET search_path = data", "INSERT INTO noted VALUES (5, 1)"], &["other.noted"]),
        (&["INSERT INTO other.noted VALUES (6, 1)"], &[]),
        (
            &[
                "CREATE TEMP TABLE acc (id int, v int)",
                "CREATE TRIGGER t AFTER INSERT ON acc FOR EACH ROW EXECUTE FUNCTION stray()",
                "INSERT INTO acc VALUES (7, 7)",
            ],
            &["public.acc"],
        ),
    ] {
        let client = connect(&tandem.url("postgres")).await;
        for statement in script {
            client.batch_execute(statement).await.expect(statement);
        }
        drop(client);
        assert_eq!(dirty_after(tandem, &[]).await, dirty, "{script:?}");
        tandem.repair_all().await;
        stage.assert_equal(&["data.orders", "data.noted", "other.noted", "acc"]).await;
    }
    // Prepared once, it is run under either path.
    let client = connect(&tandem.url("postgres")).await;
    client.batch_execute("SET search_path = data, api").await.expect("set");
    let prepared = client.prepare(insert).await.expect("prepared");
    for (id, path, dirty) in [(20, "data, api", &[][..]), (21, "api", &["data.orders"]), (22, "data", &[])] {
        client.batch_execute(&format!("SET search_path = {path}")).await.expect("set");
        client.execute(&prepared, &[&id, &1]).await.expect("written");
        assert_eq!(dirty_after(tandem, &[]).await, dirty, "{path}");
        tandem.repair_all().await;
        stage.assert_equal(&["data.orders"]).await;
    }
}

/// No count says what is in a table that nobody knew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_code_makes_and_fills_is_dirty() {
    let schema = "
        CREATE TABLE ev (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
        CREATE TABLE ev_1 PARTITION OF ev FOR VALUES IN (1); CREATE TABLE ev_rest PARTITION OF ev DEFAULT;
        CREATE FUNCTION pure(x int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN x + 1; END $$;
        CREATE FUNCTION own() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE mine AS SELECT 1; END $$;
        CREATE FUNCTION put(d int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            EXECUTE format('CREATE TABLE IF NOT EXISTS ev_%s PARTITION OF ev FOR VALUES IN (%s)', d, d);
            INSERT INTO ev SELECT n, d FROM generate_series(1, 3) n; END $$;";
    let stage = Stage::new(schema, "[mirror]\nself_repair = false", &[]).await;
    let tandem = &stage.tandem;
    for (statement, dirty) in [
        ("SELECT put(2)", &["public.ev_2"][..]),
        ("DO $$ BEGIN PERFORM put(3); COMMIT; PERFORM pure(1); END $$", &["public.ev_3"]),
        ("BEGIN; CREATE TABLE told (id int PRIMARY KEY); INSERT INTO told VALUES (1); SELECT pure(1); COMMIT", &[]),
        ("SELECT own()", &[]),
    ] {
        assert_eq!(dirty_after(tandem, &[statement]).await, dirty, "{statement}\n{}", tandem.log());
        tandem.repair_all().await;
        stage.assert_equal(&["ev"]).await;
    }
    stage.assert_equal(&["told"]).await;
    let filled = "DO $$ BEGIN CREATE TABLE made (id int PRIMARY KEY); INSERT INTO made VALUES (1); END $$";
    assert_eq!(dirty_after(tandem, &[filled]).await, ["public.made"]);
}

/// Each session writes dates as it likes, and a cast to text may be anybody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_asked_for_in_no_sessions_own_words() {
    let schema = "
        CREATE TABLE spans (during tstzrange PRIMARY KEY, v int); CREATE TABLE days (ds date[] PRIMARY KEY, v int);
        CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE TABLE moods (m mood PRIMARY KEY, v int);
        CREATE FUNCTION shout(mood) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'loud' $$;
        CREATE CAST (mood AS text) WITH FUNCTION shout(mood);";
    let stage = Stage::new(schema, "[mirror]\nself_repair = false", &[]).await;
    let client = connect(&stage.url()).await;
    for statement in [
        "SET datestyle = 'SQL, DMY'",
        "SET timezone = 'Asia/Kolkata'",
        "INSERT INTO spans SELECT tstzrange('2026-01-02', '2026-03-04'), 1",
        "UPDATE spans SET v = 2",
        "INSERT INTO moods SELECT 'glad', 1",
        "UPDATE moods SET v = 2",
        "INSERT INTO days SELECT ARRAY[date '2026-02-01'], 1",
    ] {
        client.batch_execute(statement).await.expect(statement);
    }
    assert_eq!(dirty_after(&stage.tandem, &[]).await, ["public.days"]);
    stage.tandem.repair_all().await;
    stage.assert_equal(&["spans", "moods", "days"]).await;
}

/// A RETURNING has the policies for SELECT apply as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_policies_of_a_partitioned_table_hide_are_written_as_without_tandem() {
    let schema = "
        DO $$ BEGIN CREATE ROLE tenant; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
        CREATE TABLE secured (id int, day int, v int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
        CREATE TABLE secured_1 PARTITION OF secured FOR VALUES IN (1);
        CREATE TABLE secured_2 PARTITION OF secured FOR VALUES IN (2);
        INSERT INTO secured VALUES (1, 1, 0), (2, 2, 0);
        ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
        CREATE POLICY reads ON secured FOR SELECT USING (id = 1);
        CREATE POLICY writes ON secured FOR UPDATE USING (true);
        CREATE POLICY goes ON secured FOR DELETE USING (true);
        GRANT SELECT, UPDATE, DELETE ON secured TO tenant;";
    let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    for origin in [old, new] {
        let stage = Stage::between([&origin, &newest()], schema, "[mirror]\nself_repair = false", &[]).await;
        let client = connect(&stage.url()).await;
        client.batch_execute("SET ROLE tenant").await.expect("a member of every role");
        for statement in ["UPDATE secured SET v = 7", "DELETE FROM secured"] {
            assert_eq!(client.execute(statement, &[]).await.expect(statement), 2, "{statement}");
            assert_eq!(dirty_after(&stage.tandem, &[]).await, ["public.secured_1", "public.secured_2"], "{statement}");
            stage.tandem.repair_all().await;
            stage.assert_equal(&["secured"]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_transaction_makes_and_runs_at_once_is_counted() {
    let stage = Stage::new(UNSEEN, "[mirror]\nself_repair = false", &[]).await;
    let tandem = &stage.tandem;
    let client = connect(&tandem.url("postgres")).await;
    let named = |names: &[&str]| names.iter().map(|name| format!("public.{name}")).collect::<Vec<_>>();
    let make = "CREATE FUNCTION mig() RETURNS void LANGUAGE sql AS 'UPDATE acc SET v = v + 1'";
    let own = make.replace("mig", "pg_temp.mig");
    let watch = "CREATE TRIGGER watch AFTER UPDATE ON acc FOR EACH ROW EXECUTE FUNCTION log()";
    for (script, dirty) in [
        (&["SELECT \"PlaceOrder\"(7)"][..], &["audit"][..]),
        (&[&format!("{make}; SELECT mig(); DROP FUNCTION mig()")], &["acc"]),
        (&["BEGIN", make, "SELECT mig()", "DROP FUNCTION mig()", "COMMIT"], &["acc"]),
        (&["BEGIN", &own, "SELECT pg_temp.mig()", "COMMIT"], &["acc"]),
        (&["BEGIN", watch, "UPDATE acc SET v = 5 WHERE id = 1", "COMMIT"], &["acc", "audit"]),
        (&["DROP TRIGGER watch ON acc"], &[]),
        (&["BEGIN", "CREATE VIEW calm AS SELECT 1", "UPDATE acc SET v = 6 WHERE id = 1", "COMMIT"], &[]),
        (&["CREATE TEMP TABLE gone AS WITH d AS (DELETE FROM acc WHERE id = 2 RETURNING *) SELECT * FROM d"], &["acc"]),
    ] {
        for statement in script {
            client.batch_execute(statement).await.expect(statement);
        }
        assert_eq!(dirty_after(tandem, &[]).await, named(dirty), "{script:?}");
        clear(tandem).await;
    }
    let log = tandem.log();
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_no_key_of_the_statement_names_arrive() {
    let stage = Stage::new(UNSEEN, "[mirror]\nself_repair = false", &[]).await;
    let (tandem, origin_url, target_url) = (&stage.tandem, stage.origin.url("postgres"), stage.target.url("postgres"));
    let client = connect(&tandem.url("postgres")).await;
    for statement in [
        "INSERT INTO docs (url) VALUES ('a'), ('b')",
        "UPDATE docs SET url = 'c' WHERE h = '0cc175b9c0f1b6a831c399e269772661'",
        "INSERT INTO root VALUES (1), (2)",
        "INSERT INTO refers VALUES (1, 1), (2, 2)",
        "TRUNCATE leaf CASCADE",
        "SET search_path = shop; CREATE TABLE cart (id int PRIMARY KEY); INSERT INTO cart VALUES (7); RESET search_path",
        "ALTER TABLE acc ADD COLUMN u uid",
        "INSERT INTO acc VALUES (10, 1)",
        "INSERT INTO moving VALUES (1, 1)",
        "UPDATE moving SET day = 2 WHERE id = 101 AND day = 1",
    ] {
        client.batch_execute(statement).await.expect(statement);
    }
    assert_eq!(dirty_after(tandem, &[]).await, Vec::<String>::new());
    assert_eq!(rows(&target_url, "SELECT id, day FROM moving").await, ["201|2"]);
    for table in ["docs", "root", "refers", "shop.cart", "acc"] {
        let all = format!("SELECT t::text FROM {table} t ORDER BY 1");
        assert_eq!(rows(&target_url, &all).await, rows(&origin_url, &all).await, "{table}");
    }
    assert_eq!(rows(&target_url, "SELECT url FROM docs ORDER BY 1").await, ["b", "c"]);
    assert_eq!(rows(&target_url, "SELECT id::text FROM shop.cart").await, ["7"]);
}

const EMPTIED: &str = "
    CREATE TABLE stock (id int PRIMARY KEY, v int);
    CREATE TABLE poke (id int PRIMARY KEY);
    CREATE FUNCTION empty() RETURNS int LANGUAGE plpgsql AS $$ BEGIN TRUNCATE stock; RETURN 1; END $$;
    CREATE FUNCTION rebuild() RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN TRUNCATE stock; INSERT INTO stock VALUES (9); RETURN 1; END $$;
    CREATE PROCEDURE one() LANGUAGE plpgsql AS $$ BEGIN TRUNCATE stock; END $$;
    CREATE PROCEDURE two() LANGUAGE plpgsql AS $$ BEGIN TRUNCATE stock; COMMIT; PERFORM 1; END $$;
    CREATE PROCEDURE idle() LANGUAGE plpgsql AS $$ BEGIN PERFORM 1; COMMIT; PERFORM 2; END $$;
    CREATE FUNCTION poked() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN TRUNCATE stock; RETURN NULL; END $$;
    CREATE TRIGGER poked AFTER INSERT ON poke FOR EACH ROW EXECUTE FUNCTION poked();
    CREATE FUNCTION opens(c refcursor, write boolean) RETURNS refcursor LANGUAGE plpgsql AS $$ BEGIN
        IF write THEN OPEN c FOR UPDATE stock SET v = v + 1 RETURNING id; ELSE OPEN c FOR SELECT id FROM stock; END IF;
        RETURN c; END $$;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_code_empties_is_dirty() {
    let stage = Stage::new(EMPTIED, "[mirror]\nself_repair = false", &[]).await;
    let tandem = &stage.tandem;
    let client = connect(&tandem.url("postgres")).await;
    let fill = "DELETE FROM stock WHERE id < 3; INSERT INTO stock VALUES (1, 0), (2, 0)";
    for (script, is_dirty) in [
        (&["SELECT empty()"][..], true),
        (&["DO $$ BEGIN TRUNCATE stock; END $$"], true),
        (&["DO $$ BEGIN TRUNCATE stock; COMMIT; END $$"], true),
        (&["CALL one()"], true),
        (&["CALL two()"], true),
        (&["INSERT INTO poke VALUES (1)"], true),
        (&["BEGIN", "INSERT INTO stock VALUES (3, 0), (4, 0)", "SELECT rebuild()", "COMMIT"], true),
        (&["BEGIN; INSERT INTO stock VALUES (5, 0), (6, 0); SELECT rebuild(); COMMIT"], true),
        (&["BEGIN", "CALL one()", "ROLLBACK"], false),
    ] {
        sql(&tandem.url("postgres"), fill).await;
        for (number, statement) in script.iter().enumerate() {
            // Some by the extended protocol.
            let done = if number % 2 == 0 {
                client.batch_execute(statement).await
            } else {
                client.execute(*statement, &[]).await.map(drop)
            };
            done.expect(statement);
        }
        let dirty = dirty_after(tandem, &[]).await;
        assert_eq!(dirty, if is_dirty { &["public.stock"][..] } else { &[] }, "{script:?}");
        tandem.repair_all().await;
        stage.assert_equal(&["stock", "poke"]).await;
    }
    // The file that it has then no catalog knows.
    assert_eq!(dirty_after(tandem, &[fill, "TRUNCATE stock", fill, "CALL idle()"]).await, Vec::<String>::new());
    let other = connect(&tandem.url("postgres")).await;
    other.execute("CALL idle()", &[]).await.expect("by the extended protocol");
    assert_eq!(dirty_after(tandem, &[]).await, Vec::<String>::new());
    other.execute("CALL two()", &[]).await.expect("by the extended protocol");
    assert_eq!(dirty_after(tandem, &[]).await, ["public.stock"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_fetched_from_a_cursor_that_code_opened_is_counted() {
    let stage = Stage::new(EMPTIED, "[mirror]\nself_repair = false", &[]).await;
    let tandem = &stage.tandem;
    let client = connect(&tandem.url("postgres")).await;
    client.batch_execute("INSERT INTO stock VALUES (1, 0), (2, 0)").await.expect("rows");
    for (script, is_dirty) in [
        (&["BEGIN", "SELECT opens('c', true)", "FETCH ALL FROM c", "COMMIT"][..], true),
        (&["BEGIN; SELECT opens('c', true); FETCH ALL FROM c; COMMIT"], true),
        (&["BEGIN", "SELECT opens('c', false)", "FETCH ALL FROM c", "COMMIT"], false),
        (&["BEGIN", "SELECT opens('c', true)", "FETCH ALL FROM c", "ROLLBACK"], false),
    ] {
        for statement in script {
            client.batch_execute(statement).await.expect(statement);
        }
        let dirty = dirty_after(tandem, &[]).await;
        assert_eq!(dirty, if is_dirty { &["public.stock"][..] } else { &[] }, "{script:?}");
        tandem.repair_all().await;
        stage.assert_equal(&["stock"]).await;
    }
    // By the extended protocol, in one transaction.
    client.batch_execute("BEGIN").await.expect("begun");
    client.query("SELECT opens('c', true)", &[]).await.expect("opened");
    assert_eq!(client.query("FETCH ALL FROM c", &[]).await.expect("fetched").len(), 2);
    client.batch_execute("COMMIT").await.expect("committed");
    assert_eq!(dirty_after(tandem, &[]).await, ["public.stock"]);
}

/// Since 18 what runs behind another message of its group is in a transaction block.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rolls_back_on_its_way_runs_as_without_tandem() {
    let schema = "CREATE TABLE audit (id serial PRIMARY KEY, what text);
        CREATE PROCEDURE undone() LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO audit (what) VALUES ('undone'); ROLLBACK; END $$;
        CREATE PROCEDURE half() LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO audit (what) VALUES ('undone'); ROLLBACK; INSERT INTO audit (what) VALUES ('kept'); END $$;";
    let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    for version in [old, new] {
        let servers = ["origin", "target"].map(|name| server_with(name, &version, &Options::default()));
        let urls = servers.each_ref().map(|server| server.url("postgres"));
        for url in &urls {
            sql(url, schema).await;
        }
        let tandem = Tandem::start(&urls[0], &urls[1], "[mirror]\nself_repair = false").await;
        let client = connect(&tandem.url("postgres")).await;
        let block = "DO $$ BEGIN INSERT INTO audit (what) VALUES ('undone'); ROLLBACK; END $$";
        for statement in ["CALL undone()", block] {
            client.batch_execute(statement).await.expect(statement);
            client.execute(statement, &[]).await.expect(statement);
        }
        client.batch_execute("CALL half()").await.expect("a part of it stays");
        assert_eq!(dirty_after(&tandem, &[]).await, ["public.audit"]);
        assert_eq!(rows(&urls[0], "SELECT what FROM audit").await, ["kept"]);
    }
}

async fn clear(tandem: &Tandem) {
    let listed = tandem.client().get("/v1/dirty").await.expect("the API answers");
    for table in listed.as_array().expect("a list") {
        let action = serde_json::json!({"action": "clear", "table": table["id"]});
        tandem.client().post("/v1/dirty", &action).await.expect("it was dirty");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_event_triggers_write_behind_schema_changes_is_counted() {
    let schema =
        "CREATE TABLE acc (id int PRIMARY KEY, v int); CREATE TABLE ddl_audit (id serial PRIMARY KEY, tag text);
        CREATE TABLE junk (id int PRIMARY KEY); INSERT INTO junk VALUES (1);";
    let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    for origin in [old, new] {
        let stage = Stage::between([&origin, &newest()], schema, "[mirror]\nself_repair = false", &[]).await;
        let tandem = &stage.tandem;
        let client = connect(&stage.url()).await;
        for statement in [
            "CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO public.ddl_audit (tag) VALUES (tg_tag); END $$",
            "CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION note()",
            "CREATE EVENT TRIGGER note_drops ON sql_drop WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION note()",
        ] {
            client.batch_execute(statement).await.expect(statement);
        }
        assert_eq!(dirty_after(tandem, &[]).await, Vec::<String>::new());
        for script in [
            &["ALTER TABLE acc ADD COLUMN x int"][..],
            &["BEGIN", "ALTER TABLE acc ADD COLUMN y int", "INSERT INTO acc (id) VALUES (1)", "COMMIT"],
            &["CREATE TEMP TABLE mine (id int)"],
            &["SELECT 1 AS one INTO TEMP other"],
            &["COMMENT ON TABLE acc IS 'accounts'"],
            &["DROP TABLE junk"],
        ] {
            for statement in script {
                client.batch_execute(statement).await.expect(statement);
            }
            assert_eq!(dirty_after(tandem, &[]).await, ["public.ddl_audit"], "{script:?}\n{}", tandem.log());
            tandem.repair_all().await;
            stage.assert_equal(&["acc", "ddl_audit"]).await;
        }
        // It commits by itself, and is not repeated: its table is noted.
        let index = "CREATE INDEX CONCURRENTLY ON acc (v)";
        assert_eq!(dirty_after(tandem, &[index]).await, ["public.acc", "public.ddl_audit"]);
        tandem.repair_all().await;
        let plain = ["BEGIN", "ALTER TABLE acc ADD COLUMN z int", "ROLLBACK", "INSERT INTO acc (id) VALUES (2)"];
        for statement in plain {
            client.batch_execute(statement).await.expect(statement);
        }
        assert_eq!(dirty_after(tandem, &[]).await, Vec::<String>::new());
        stage.assert_equal(&["acc", "ddl_audit"]).await;
    }
}

/// A name that hides the rows that a hidden RETURNING asks for, or a row that becomes several values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_arrive_whatever_a_statement_calls_its_tables_and_values() {
    let schema = "CREATE TABLE acc (id int PRIMARY KEY, bal int); CREATE TABLE map (id int PRIMARY KEY, to_id int);
        CREATE TABLE messages (id int PRIMARY KEY, body text, words tsvector);
        CREATE TRIGGER words BEFORE INSERT OR UPDATE ON messages
            FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger(words, 'pg_catalog.english', body);
        CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.twin (id int PRIMARY KEY, v int);
        CREATE TABLE b.twin (id int PRIMARY KEY, v int);
        CREATE TYPE xy AS (x int, id int); CREATE TABLE points (x int, id int PRIMARY KEY, y int);";
    let stage = Stage::between([&newest(), &newest()], schema, "", &[]).await;
    let tables = &["acc", "messages", "points", "a.twin", "b.twin"];
    let client = connect(&stage.url()).await;
    client.batch_execute("INSERT INTO acc VALUES (5, 1), (6, 1); INSERT INTO map VALUES (6, 60)").await.expect("rows");
    client.batch_execute("INSERT INTO messages VALUES (1, 'a cat')").await.expect("a row");
    client.batch_execute("INSERT INTO a.twin VALUES (1, 1); INSERT INTO b.twin VALUES (1, 2)").await.expect("twins");
    stage.assert_equal(tables).await;
    for statement in [
        "UPDATE a.twin SET v = b.twin.v FROM b.twin WHERE a.twin.v < b.twin.v RETURNING b.twin.v",
        "DELETE FROM a.twin USING b.twin WHERE a.twin.v = b.twin.v RETURNING b.twin.v",
        "UPDATE acc AS old SET id = old.id + 1000 WHERE old.id = 5 RETURNING bal",
        "UPDATE acc SET id = new.to_id FROM map AS new WHERE acc.id = new.id RETURNING acc.id",
        "UPDATE messages SET body = new.body FROM (VALUES (1, 'a dog')) AS new (id, body) WHERE messages.id = new.id
            RETURNING messages.id",
        "UPDATE acc SET id = id + 1 WHERE bal = 1 RETURNING id",
        "INSERT INTO points VALUES (('(1,2)'::xy).*, 7) RETURNING id",
    ] {
        assert!(!client.query(statement, &[]).await.expect(statement).is_empty());
        stage.tandem.repair_all().await;
        stage.assert_equal(tables).await;
    }
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT id FROM points").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_a_conflict_meets_by_another_collation_arrives() {
    let stage = Stage::new("CREATE TABLE words (k text PRIMARY KEY, v int)", "", &[]).await;
    let origin = connect(&stage.origin.url("postgres")).await;
    let icu = "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    match origin.batch_execute(icu).await {
        // A server that was built without ICU has no such collations.
        Err(error) if error.code().is_some_and(|code| code.code() == "0A000") => return,
        other => other.expect("a collation"),
    }
    let client = connect(&stage.url()).await;
    origin.batch_execute("CREATE UNIQUE INDEX ON words (k COLLATE loose)").await.expect("an index");
    client.batch_execute("CREATE TABLE noted (id int PRIMARY KEY)").await.expect("the catalog is read anew");
    client.batch_execute("INSERT INTO words VALUES ('ABC', 1)").await.expect("a row");
    stage.assert_equal(&["words"]).await;
    let upsert = "INSERT INTO words VALUES ('abc', 2) ON CONFLICT (k) DO UPDATE SET v = excluded.v";
    client.batch_execute(upsert).await.expect("it meets the row");
    stage.assert_equal(&["words"]).await;
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT k, v FROM words").await, ["ABC|2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_select_whose_with_writes_does_not_claim_what_a_trigger_wrote() {
    let schema = "CREATE TABLE tree (id int PRIMARY KEY, v int, up int);
        INSERT INTO tree VALUES (2, 0, NULL), (5, 0, 2);
        CREATE FUNCTION grow() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN UPDATE tree SET v = v + 1 WHERE id = NEW.up; RETURN NULL; END $$;
        CREATE TRIGGER grow AFTER UPDATE ON tree FOR EACH ROW EXECUTE FUNCTION grow();";
    let stage = Stage::new(schema, "[mirror]\nself_repair = false", &[]).await;
    let statement =
        "WITH u AS (UPDATE tree SET v = 1 WHERE id = 5 RETURNING id) SELECT id FROM tree WHERE id IN (5, 2)";
    assert_eq!(dirty_after(&stage.tandem, &[statement]).await, ["public.tree"]);
}

/// Tables that refer to each other, and triggers that write to them.
const REFERRED: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, placed date, state text);
    CREATE TABLE lines (id int PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE);
    CREATE TABLE history (id serial PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE, state text);
    CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO history (order_id, state) VALUES (NEW.id, NEW.state); RETURN NULL; END $$;
    CREATE TRIGGER remember AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION remember();
    CREATE VIEW old_orders AS SELECT * FROM orders WHERE placed < '2020-01-01';
    CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE, below int DEFAULT 0);
    CREATE FUNCTION grow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN UPDATE tree SET below = below + 1 WHERE id = NEW.up; RETURN NULL; END $$;
    CREATE TRIGGER grow AFTER INSERT ON tree FOR EACH ROW EXECUTE FUNCTION grow();
    CREATE TABLE item (id int PRIMARY KEY, code text UNIQUE, v int);
    CREATE TABLE offer (id int PRIMARY KEY, code text REFERENCES item (code) ON UPDATE CASCADE);
    CREATE FUNCTION recode() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.code := NEW.code || NEW.v; RETURN NEW; END $$;
    CREATE TRIGGER recode BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION recode();
    CREATE TABLE users (id int PRIMARY KEY);
    CREATE TABLE posts (id int PRIMARY KEY, comments int DEFAULT 0);
    CREATE TABLE comments (id int PRIMARY KEY, post int, by_user int REFERENCES users ON DELETE CASCADE)
        PARTITION BY RANGE (id);
    CREATE TABLE all_comments PARTITION OF comments DEFAULT;
    CREATE FUNCTION fewer() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN UPDATE posts SET comments = comments - 1 WHERE id = OLD.post; RETURN NULL; END $$;
    CREATE TRIGGER fewer AFTER DELETE ON comments FOR EACH ROW EXECUTE FUNCTION fewer();
    INSERT INTO orders SELECT n, '2019-01-01', 'new' FROM generate_series(1, 5) n;
    INSERT INTO lines SELECT n, n FROM generate_series(1, 5) n;
    INSERT INTO tree VALUES (1, NULL); INSERT INTO item VALUES (1, 'a', 1); INSERT INTO offer VALUES (1, 'a');
    INSERT INTO users VALUES (1), (2); INSERT INTO posts VALUES (1, 2); INSERT INTO comments VALUES (1, 1, 1), (2, 1, 2);
";
const REFERRED_TABLES: &[&str] = &["orders", "lines", "history", "tree", "item", "offer", "users", "posts", "comments"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_trigger_writes_is_dirty_where_foreign_keys_could_have_written_it_too() {
    let stage = Stage::new(REFERRED, "[mirror]\nself_repair = false", &[]).await;
    for (statement, dirty) in [
        ("UPDATE orders SET state = 'paid' WHERE id = 5", &["public.history"][..]),
        ("INSERT INTO tree VALUES (2, 1)", &["public.tree"]),
        ("UPDATE item SET v = 2 WHERE id = 1", &["public.offer"]),
        // The trigger of a table that a foreign key reaches.
        ("DELETE FROM users WHERE id = 1", &["public.all_comments", "public.posts"]),
    ] {
        assert_eq!(dirty_after(&stage.tandem, &[statement]).await, dirty, "{statement}");
        stage.tandem.repair_all().await;
        stage.assert_equal(REFERRED_TABLES).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_it_is_not_known_which_rows_went_nor_is_it_what_foreign_keys_did_to_others() {
    let stage = Stage::new(REFERRED, "[mirror]\nself_repair = false", &[]).await;
    for (statements, sure) in [
        (&["WITH gone AS (DELETE FROM orders WHERE id % 5 = 0 RETURNING id) SELECT count(*) FROM gone"][..], true),
        (&["DELETE FROM old_orders WHERE id % 5 = 1"], true),
        (&["PREPARE gone AS DELETE FROM orders WHERE id % 5 = 2; EXECUTE gone"], false),
        (&["PREPARE gone(int) AS DELETE FROM orders WHERE id = $1; EXECUTE gone(1 + 2)"], false),
    ] {
        let dirty = dirty_after(&stage.tandem, statements).await;
        let expected = ["public.lines", "public.orders"];
        assert!(expected.iter().all(|table| dirty.iter().any(|known| known == table)), "{statements:?}: {dirty:?}");
        assert!(!sure || dirty == expected, "{statements:?}: {dirty:?}");
        stage.tandem.repair_all().await;
        stage.assert_equal(REFERRED_TABLES).await;
    }
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT count(*) FROM lines").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_foreign_keys_do_is_exact_beside_triggers_that_write_nothing_else() {
    let schema = "
        CREATE TABLE team (id int PRIMARY KEY, v int, updated_at timestamptz);
        CREATE TABLE member (id int PRIMARY KEY, team int REFERENCES team ON DELETE SET NULL, updated_at timestamptz);
        CREATE TABLE badge (id int PRIMARY KEY, team int REFERENCES team ON DELETE CASCADE);
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.updated_at = clock_timestamp(); RETURN NEW; END $$;
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_notify('team', OLD.id::text); RETURN NULL; END $$;
        CREATE TRIGGER touch BEFORE UPDATE ON team FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
            EXECUTE FUNCTION touch();
        CREATE TRIGGER tell AFTER UPDATE OR DELETE ON team FOR EACH ROW EXECUTE FUNCTION tell();
        CREATE TRIGGER touch BEFORE UPDATE ON member FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE TABLE log (id serial PRIMARY KEY, team int REFERENCES team ON DELETE CASCADE);
        CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO log (team) VALUES (NEW.id); RETURN NULL; END $$;
        CREATE TRIGGER log AFTER INSERT ON team FOR EACH ROW EXECUTE FUNCTION log();
        CREATE TABLE stock (id int PRIMARY KEY, code int, UNIQUE (id, code)) PARTITION BY LIST (id);
        CREATE TABLE stock_1 PARTITION OF stock FOR VALUES IN (1, 2);
        CREATE TABLE bin (id int PRIMARY KEY, stock int, code int,
            FOREIGN KEY (stock, code) REFERENCES stock (id, code) ON UPDATE CASCADE);
        INSERT INTO stock VALUES (1, 1), (2, 2); INSERT INTO bin VALUES (1, 1, 1), (2, 2, 2);
        INSERT INTO team SELECT n, 1 FROM generate_series(1, 4) n;
        INSERT INTO member SELECT n, n FROM generate_series(1, 4) n;
        INSERT INTO badge SELECT n, n FROM generate_series(1, 4) n;";
    let stage = Stage::new(schema, "[mirror]\nself_repair = false", &[]).await;
    let statements = [
        "UPDATE team SET v = 2 WHERE id = 1",
        "DELETE FROM team WHERE id = 1",
        "DELETE FROM team WHERE v = 1 AND id < 4",
        "UPDATE stock_1 SET code = 7 WHERE id = 1",
        "UPDATE stock SET code = 8 WHERE id = 2",
    ];
    assert!(dirty_after(&stage.tandem, &statements).await.is_empty());
    stage.assert_equal(&["team", "member", "badge", "log", "stock", "bin"]).await;
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT code FROM bin ORDER BY id").await, ["7", "8"]);
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT count(*), count(team) FROM member").await, ["4|1"]);
    assert_eq!(dirty_after(&stage.tandem, &["INSERT INTO team VALUES (9, 1)"]).await, ["public.log"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_deferred_trigger_writes_in_the_commit_may_be_anywhere() {
    let schema = "
        CREATE TABLE audit (id serial PRIMARY KEY, what text);
        CREATE TABLE ledger (id int PRIMARY KEY, v int);
        CREATE TABLE late (id int PRIMARY KEY);
        CREATE FUNCTION balanced() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF (SELECT sum(v) FROM ledger) <> 0 THEN RAISE 'not balanced'; END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER balanced AFTER INSERT ON ledger DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION balanced();
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO audit (what) VALUES ('late'); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER note AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION note();";
    let stage = Stage::new(schema, "[mirror]\nself_repair = false", &[]).await;
    let (none, both) =
        (Vec::<String>::new(), "BEGIN; INSERT INTO ledger VALUES (1, 5); INSERT INTO ledger VALUES (2, -5); COMMIT");
    assert_eq!(dirty_after(&stage.tandem, &[both]).await, none, "a trigger that only looks");
    for statement in ["INSERT INTO late VALUES (1)", "BEGIN; INSERT INTO late VALUES (2); COMMIT"] {
        assert!(dirty_after(&stage.tandem, &[statement]).await.contains(&"public.audit".to_owned()), "{statement}");
        stage.tandem.repair_all().await;
        stage.assert_equal(&["audit", "ledger", "late"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_hidden_code_changed_is_known_at_once() {
    let schema = format!(
        "{SCHEMA} CREATE TABLE t (old_id int, id int PRIMARY KEY, v int);
        CREATE FUNCTION watches() RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN CREATE TRIGGER watch AFTER INSERT ON calm FOR EACH ROW EXECUTE FUNCTION log(); END $$"
    );
    let stage = Stage::new(&schema, "[mirror]\nself_repair = false", &[]).await;
    let tandem = &stage.tandem;
    let client = connect(&tandem.url("postgres")).await;
    client.batch_execute("INSERT INTO acc VALUES (1, 1)").await.expect("a row");
    let watch = "DO $$ BEGIN CREATE TRIGGER watch AFTER UPDATE ON acc FOR EACH ROW EXECUTE FUNCTION log(); END $$";
    for script in [
        &[watch, "UPDATE acc SET v = 2 WHERE id = 1"][..],
        &[
            "DO $$ BEGIN DROP TRIGGER watch ON acc; END $$",
            "BEGIN",
            watch,
            "COMMIT",
            "UPDATE acc SET v = 3 WHERE id = 1",
        ],
        &["SELECT watches()", "INSERT INTO calm VALUES (1)"],
    ] {
        for statement in script {
            client.batch_execute(statement).await.expect(statement);
        }
        assert_eq!(dirty_after(tandem, &[]).await, ["public.audit"], "{script:?}");
        clear(tandem).await;
    }
    client.execute("DO $$ BEGIN ALTER TABLE t DROP COLUMN old_id; END $$", &[]).await.expect("dropped");
    client.batch_execute("INSERT INTO t VALUES (5, 9)").await.expect("inserted");
    assert_eq!(dirty_after(tandem, &[]).await, Vec::<String>::new());
    assert_eq!(rows(&stage.target.url("postgres"), "SELECT id, v FROM t").await, ["5|9"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_schema_change_calls_is_counted_and_mended() {
    let schema = "CREATE TABLE cats (id serial PRIMARY KEY, name text);
        CREATE TABLE items (id int PRIMARY KEY, cat text); CREATE TABLE filled (id int PRIMARY KEY);
        CREATE FUNCTION category(called text) RETURNS int LANGUAGE plpgsql AS $$ DECLARE found int; BEGIN
            SELECT id INTO found FROM public.cats WHERE name = called;
            IF found IS NULL THEN INSERT INTO public.cats (name) VALUES (called) RETURNING id INTO found; END IF;
            RETURN found; END $$;
        CREATE DOMAIN fresh AS int DEFAULT category('fresh');";
    let stage = Stage::new(schema, "[mirror]\nself_repair = false", &[]).await;
    let tandem = &stage.tandem;
    // What is there now has other numbers on the target.
    sql(&stage.target.url("postgres"), "SELECT setval('cats_id_seq', 70)").await;
    let fill = "INSERT INTO items VALUES (1, 'a'), (2, 'b'), (3, 'a')";
    let types = "ALTER TABLE items ALTER COLUMN cat TYPE int USING category(cat)";
    let checks = "ALTER TABLE items ADD CONSTRAINT known CHECK (category('c') > 0)";
    for (script, is_dirty) in [
        (&[fill, types][..], true),
        (&[checks], true),
        (&["ALTER TABLE items ADD COLUMN note text"], false),
        (&["CREATE MATERIALIZED VIEW m AS SELECT category('d')"], true),
        (&["DELETE FROM cats WHERE name = 'd'", "REFRESH MATERIALIZED VIEW m"], true),
        (&["ALTER TABLE filled ADD COLUMN f fresh"], false),
        (&["INSERT INTO filled VALUES (1)"], true),
    ] {
        let dirty = dirty_after(tandem, script).await;
        assert_eq!(dirty, if is_dirty { &["public.cats"][..] } else { &[] }, "{script:?}\n{}", tandem.log());
        tandem.repair_all().await;
        stage.assert_equal(&["cats", "items"]).await;
    }
    stage.assert_equal(&["filled"]).await;
}
