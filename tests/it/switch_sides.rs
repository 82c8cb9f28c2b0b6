//! What a switch does on the two servers, each part by itself: an old origin, a new target, no tandem between.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Duration;

use tandem::check::Severity;
use tandem::cutover::steps;
use tandem::journal::Journal;
use tandem::mirror::state::copier::{Copier, Error};
use tandem::protocol::postgres::client::{Client, ServerConfig};
use tandem::protocol::postgres::copier::{self, PgCopier};
use tandem::protocol::postgres::key;
use tandem::protocol::postgres::logins::Logins;
use tandem::protocol::postgres::scope::Scope;
use tandem::protocol::postgres::switch::{
    self, Bounds, barrier, findings, mark, newest, reverse, sequences, strangers, triggers,
};
use tandem::record::{Side, TableId};
use tandem::sandbox::{Options, Postgres, binaries};

use crate::support::{connect, pair, rows, server_with, sql};

fn config(server: &Postgres) -> ServerConfig {
    server.url("postgres").parse().expect("a URL")
}

/// As another role than the superuser.
fn config_of(server: &Postgres, role: &str) -> ServerConfig {
    server.url("postgres").replace("postgres@", &format!("{role}@")).parse().expect("a URL")
}

/// As a tandem with a journal of its own.
fn config_with_journal(server: &Postgres) -> ServerConfig {
    ServerConfig { logins: Some(Logins::new(Journal::in_memory())), ..config(server) }
}

async fn hand(server: &Postgres) -> Client {
    switch::connect(&config(server), Bounds::default()).await.expect("connects")
}

async fn hand_of(server: &Postgres, role: &str) -> Client {
    switch::connect(&config_of(server, role), Bounds::default()).await.expect("connects")
}

async fn both(origin: &Postgres, target: &Postgres, script: &str) {
    sql(&origin.url("postgres"), script).await;
    sql(&target.url("postgres"), script).await;
}

async fn asked(server: &Postgres, query: &str) -> Vec<String> {
    rows(&server.url("postgres"), query).await
}

/// An old server that takes two-phase transactions.
fn two_phase() -> Postgres {
    let (old, _) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    let config = ["max_prepared_transactions = 5", "xmlbinary = hex"].map(str::to_owned).to_vec();
    server_with("origin", &old, &Options { config, ..Options::default() })
}

const SEQUENCES: &str = "CREATE SCHEMA app; CREATE TABLE app.t (id serial, ident bigint GENERATED ALWAYS AS IDENTITY);
    CREATE SEQUENCE up CACHE 50; CREATE SEQUENCE down INCREMENT -1; CREATE SEQUENCE fresh; CREATE SEQUENCE set_not_given;
    CREATE SEQUENCE wheel MAXVALUE 10 CYCLE; CREATE SEQUENCE ahead; CREATE SEQUENCE \"odd \"\"'s\"";

#[tokio::test]
async fn numbers_go_on_where_the_old_primary_left_them_and_never_back() {
    let (origin, target) = pair();
    both(&origin, &target, SEQUENCES).await;
    // Owned by the same column under another name, and beside it one of the same name.
    sql(&target.url("postgres"), "ALTER SEQUENCE app.t_id_seq RENAME TO other; CREATE SEQUENCE app.t_id_seq").await;
    let moved = "INSERT INTO app.t SELECT FROM generate_series(1, 7); SELECT nextval('up'), nextval('up'); SELECT nextval('down'), \
        nextval('down'); SELECT setval('set_not_given', 500, false); SELECT setval('wheel', 3); SELECT setval('ahead', 10); \
        SELECT nextval('odd \"''s')".replace("odd \"''s", "\"odd \"\"''s\"");
    sql(&origin.url("postgres"), &moved).await;
    sql(&target.url("postgres"), "SELECT setval('ahead', 99), setval('wheel', 9)").await;

    let (mut from, mut to) = (hand(&origin).await, hand(&target).await);
    let plan = sequences::plan(
        &sequences::read(&mut from).await.expect("read"),
        &sequences::read(&mut to).await.expect("read"),
    );
    assert_eq!(plan.obstacles, []);
    assert_eq!(sequences::advance(&mut to, &plan).await.expect("advanced"), 7);
    let next = "SELECT nextval('app.other'), nextval(pg_get_serial_sequence('app.t', 'ident')), nextval('up') > 50, \
        nextval('down'), nextval('fresh'), nextval('set_not_given'), nextval('wheel'), nextval('ahead'), nextval('app.t_id_seq')";
    assert_eq!(asked(&target, next).await, ["8|8|t|-3|1|500|4|100|1"]);

    // Asked for numbers since the plan was made: it is not set back, and done twice is done once.
    sql(&target.url("postgres"), "SELECT setval('up', 1000), setval('down', -1000)").await;
    sequences::advance(&mut to, &plan).await.expect("advanced");
    assert_eq!(asked(&target, "SELECT nextval('up'), nextval('down')").await, ["1001|-1001"]);
}

#[tokio::test]
async fn advanced_numbers_survive_a_crash_of_the_new_primary() {
    let (origin, mut target) = pair();
    both(&origin, &target, "CREATE SEQUENCE s").await;
    sql(&origin.url("postgres"), "SELECT setval('s', 12345)").await;
    sql(&target.url("postgres"), "ALTER ROLE postgres SET synchronous_commit = off").await;
    let (mut from, mut to) = (hand(&origin).await, hand(&target).await);
    let read = sequences::read(&mut from).await.expect("read");
    let plan = sequences::plan(&read, &sequences::read(&mut to).await.expect("read"));
    sequences::advance(&mut to, &plan).await.expect("advanced");
    target.restart(tandem::sandbox::Stop::Kill).expect("restarts");
    assert_eq!(asked(&target, "SELECT last_value, is_called FROM s").await, ["12345|t"]);
}

#[tokio::test]
async fn what_keeps_a_sequence_from_being_set_is_found_by_name() {
    let (origin, target) = pair();
    both(
        &origin,
        &target,
        "CREATE ROLE plain LOGIN; CREATE SEQUENCE seen; CREATE SEQUENCE hidden; CREATE SEQUENCE small",
    )
    .await;
    sql(
        &origin.url("postgres"),
        "CREATE SEQUENCE gone; SELECT setval('small', 1000), setval('seen', 5); \
        GRANT SELECT ON seen, small, gone TO plain",
    )
    .await;
    sql(
        &target.url("postgres"),
        "ALTER SEQUENCE small MAXVALUE 10; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO plain",
    )
    .await;
    let (mut from, mut to) = (hand_of(&origin, "plain").await, hand_of(&target, "plain").await);
    let read = sequences::read(&mut from).await.expect("read");
    let plan = sequences::plan(&read, &sequences::read(&mut to).await.expect("read"));
    let found: HashSet<_> =
        plan.findings(Side::Origin).iter().map(|found| (found.rule.name, found.side, found.object.clone())).collect();
    let expected = [
        ("sequence_missing", Some(Side::Target), "public.gone".to_owned()),
        ("sequence_unreadable", Some(Side::Origin), "public.hidden".to_owned()),
        ("may_not_set_sequence", Some(Side::Target), "public.seen".to_owned()),
        ("sequence_differs", Some(Side::Target), "public.small".to_owned()),
    ];
    assert_eq!(found, expected.into());
    assert_eq!(sequences::advance(&mut to, &plan).await.expect("nothing to do"), 0);
}

/// Where the old primary is gone for good: what tandem's role may not set, or ask the rows of, is in nobody's way.
#[tokio::test]
async fn numbers_leap_where_the_role_may_set_them_and_others_stay() {
    let (_, target) = pair();
    sql(
        &target.url("postgres"),
        "CREATE ROLE plain LOGIN; CREATE SEQUENCE alien; CREATE SEQUENCE free; CREATE TABLE dark (id serial); \
         CREATE TABLE t (id serial); INSERT INTO t SELECT FROM generate_series(1, 7); SELECT setval('t_id_seq', 1); \
         GRANT SELECT, UPDATE ON free, dark_id_seq, t_id_seq TO plain; GRANT SELECT ON t TO plain",
    )
    .await;
    let mut to = hand_of(&target, "plain").await;
    let read = sequences::read(&mut to).await.expect("read");
    assert_eq!(sequences::forbidden(&read).collect::<Vec<_>>(), ["public.alien"]);
    assert_eq!(sequences::leap(&mut to, &read, &HashSet::new()).await.expect("leapt"), 3);
    let next = "SELECT nextval('alien'), nextval('free'), nextval('dark_id_seq'), nextval('t_id_seq')";
    assert_eq!(asked(&target, next).await, ["1|1002|1002|1008"]);
}

const TRIGGERS: &str = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TABLE plain (id int PRIMARY KEY);
    CREATE TABLE t (id int PRIMARY KEY REFERENCES plain) ;
    CREATE TRIGGER o BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
    CREATE TRIGGER d BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
    CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
    CREATE TRIGGER a BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
    ALTER TABLE t DISABLE TRIGGER d, ENABLE REPLICA TRIGGER r, ENABLE ALWAYS TRIGGER a;
    CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
    CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);
    CREATE TRIGGER p AFTER INSERT ON part FOR EACH ROW EXECUTE FUNCTION f();
    ALTER TABLE part_1 DISABLE TRIGGER p; ALTER TABLE part_2 ENABLE ALWAYS TRIGGER p;";

const STATES: &str =
    "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE tgconstraint = 0 ORDER BY 1, 2";

const AS_MADE: &[&str] = &["part|p|O", "part_1|p|D", "part_2|p|A", "t|a|A", "t|d|D", "t|o|O", "t|r|R"];
const SILENT: &[&str] = &["part|p|D", "part_1|p|D", "part_2|p|D", "t|a|D", "t|d|D", "t|o|D", "t|r|R"];

#[tokio::test]
async fn triggers_are_silenced_and_given_back_each_as_it_was_as_often_as_asked() {
    let (origin, target) = pair();
    for server in [&origin, &target] {
        sql(&server.url("postgres"), TRIGGERS).await;
        let mut conn = hand(server).await;
        for _ in 0..2 {
            triggers::still(&mut conn, Bounds::default()).await.expect("silenced");
            assert_eq!(asked(server, STATES).await, SILENT);
        }
        assert_eq!(
            asked(server, "SELECT count(*) FROM pg_trigger WHERE tgconstraint <> 0 AND tgenabled <> 'O'").await,
            ["0"]
        );
        let read = triggers::read(&mut conn).await.expect("read");
        let meant: Vec<_> = read.iter().map(|one| (one.name.trigger.as_str(), one.meant())).collect();
        assert!(meant.contains(&("a", triggers::State::Always)), "{meant:?}");
        for changed in [4, 0] {
            assert_eq!(triggers::wake(&mut conn, false, &[], Bounds::default()).await.expect("given back"), changed);
            assert_eq!(asked(server, STATES).await, AS_MADE);
        }
        assert_eq!(asked(server, "SELECT count(*) FROM tandem.trigger").await, ["0"]);
    }
}

#[tokio::test]
async fn a_trigger_that_an_operator_disabled_becomes_what_it_is_on_the_old_primary() {
    let (origin, target) = pair();
    both(&origin, &target, TRIGGERS).await;
    sql(&target.url("postgres"), "ALTER TABLE t DISABLE TRIGGER USER; ALTER TABLE part DISABLE TRIGGER USER; \
        CREATE TRIGGER own BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE plain DISABLE TRIGGER own").await;
    let (mut from, mut to) = (hand(&origin).await, hand(&target).await);
    // The old primary may be silent already.
    triggers::still(&mut from, Bounds::default()).await.expect("silenced");
    let others = triggers::read(&mut from).await.expect("read");
    triggers::wake(&mut to, true, &others, Bounds::default()).await.expect("nothing to do");
    assert!(
        asked(&target, STATES).await.contains(&"t|o|D".to_owned()),
        "who may be replica had no reason to disable it"
    );
    triggers::wake(&mut to, false, &others, Bounds::default()).await.expect("given back");
    let found = asked(&target, STATES).await;
    assert_eq!(found, [&AS_MADE[..3], &["plain|own|D"], &AS_MADE[3..]].concat());
}

#[tokio::test]
async fn a_table_that_stays_locked_is_not_waited_for_and_nothing_is_changed() {
    let (origin, _) = pair();
    sql(&origin.url("postgres"), TRIGGERS).await;
    let holder = connect(&origin.url("postgres")).await;
    // As a vacuum does.
    holder.batch_execute("BEGIN; LOCK TABLE t IN SHARE UPDATE EXCLUSIVE MODE").await.expect("locked");
    let mut conn = hand(&origin).await;
    let bounds = Bounds { lock: Duration::from_millis(50), ..Bounds::default() };
    let error = triggers::still(&mut conn, bounds).await.expect_err("locked").on(Side::Origin);
    assert!(
        matches!(&error, steps::Error::Side { side: Side::Origin, why } if why.contains("55P03") || why.contains("57014")),
        "{error}"
    );
    assert_eq!(asked(&origin, STATES).await, AS_MADE);
    holder.batch_execute("COMMIT").await.expect("released");
    triggers::still(&mut conn, bounds).await.expect("silenced on the same connection");
    assert_eq!(asked(&origin, STATES).await, SILENT);
}

#[tokio::test]
async fn a_switch_that_ends_before_its_flip_leaves_no_trigger_silent() {
    let (origin, _) = pair();
    sql(&origin.url("postgres"), TRIGGERS).await;
    let held = triggers::hold_still(hand(&origin).await, Bounds::default()).await.expect("held");
    assert_eq!(asked(&origin, STATES).await, AS_MADE);
    drop(held);
    // The server has to notice: this waits for the lock.
    sql(&origin.url("postgres"), "INSERT INTO plain VALUES (1); INSERT INTO t VALUES (1)").await;
    assert_eq!(asked(&origin, STATES).await, AS_MADE);

    let held = triggers::hold_still(hand(&origin).await, Bounds::default()).await.expect("held");
    let mut conn = held.commit().await.expect("committed");
    assert_eq!(asked(&origin, STATES).await, SILENT);
    assert_eq!(triggers::still(&mut conn, Bounds::default()).await.expect("silent already"), 0);
    let held = triggers::hold_still(conn, Bounds::default()).await.expect("nothing to hold");
    held.commit().await.expect("nothing to commit");
}

#[tokio::test]
async fn who_does_not_own_the_tables_cannot_silence_them_and_may_not_be_replica() {
    let (origin, _) = pair();
    sql(
        &origin.url("postgres"),
        &format!("{TRIGGERS} CREATE ROLE plain LOGIN; GRANT CREATE ON DATABASE postgres TO plain"),
    )
    .await;
    let mut conn = hand_of(&origin, "plain").await;
    assert!(!triggers::may_be_replica(&mut conn).await.expect("asked"));
    assert!(triggers::read(&mut conn).await.expect("read").iter().all(|one| !one.may_alter));
    triggers::still(&mut conn, Bounds::default()).await.expect_err("not ours");
    assert_eq!(asked(&origin, STATES).await, AS_MADE);
    assert_eq!(asked(&origin, "SELECT to_regnamespace('tandem') IS NULL").await, ["t"]);
    assert!(triggers::may_be_replica(&mut hand(&origin).await).await.expect("asked"));
    // What it cannot have woken is told, and in nobody's way.
    sql(&origin.url("postgres"), "ALTER TABLE t OWNER TO plain").await;
    let firing = triggers::still_again(&mut conn, Bounds::default()).await.expect("silenced");
    let firing: Vec<String> = firing.iter().map(ToString::to_string).collect();
    assert_eq!(firing, ["p on public.part", "p on public.part_2"]);
    assert_eq!(asked(&origin, STATES).await, [&AS_MADE[..3], &SILENT[3..]].concat());
}

#[tokio::test]
async fn strangers_are_waited_for_and_told_without_their_values() {
    let origin = two_phase();
    sql(&origin.url("postgres"), "CREATE ROLE app LOGIN; CREATE TABLE t (id int, v text); GRANT ALL ON t TO app").await;
    sql(&origin.url("postgres"), "CREATE DATABASE other").await;
    let mut conn = hand(&origin).await;
    let nobody = HashSet::new();
    // Neither an idle one nor one of another database is in the way.
    let elsewhere = connect(&origin.url("other")).await;
    elsewhere.batch_execute("BEGIN; SELECT 1").await.expect("begun");
    let url = format!("{}?application_name=shop", origin.url("postgres").replace("postgres@", "app@"));
    let stranger = connect(&url).await;
    strangers::quiesce(&mut conn, &nobody, strangers::Patience::default()).await.expect("quiet");
    // But the mirror may wait for the end of one that does nothing.
    let pid = strangers::all(&mut conn, &nobody).await.expect("asked").first().expect("listed").pid;
    let found = strangers::hindrances(&mut conn, &nobody, &[pid, 4_000_000]).await.expect("asked");
    assert!(found.len() == 2 && found[0].contains("of app (shop), idle: writes of a process"), "{found:?}");
    assert!(found[1].starts_with("process 4000000: writes"), "{found:?}");

    stranger.batch_execute("BEGIN; INSERT INTO t VALUES (4711, 'secret')").await.expect("begun");
    let found = strangers::hindrances(&mut conn, &nobody, &[pid]).await.expect("asked");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("of app (shop), idle in transaction for ")
            && found[0].ends_with(": BEGIN; INSERT INTO t VALUES (?, ?)"),
        "{found:?}"
    );

    // One that tandem knows is not a stranger.
    strangers::quiesce(&mut conn, &HashSet::from([pid]), strangers::Patience::default()).await.expect("ours");

    let mut waiting = Box::pin(strangers::quiesce(&mut conn, &nobody, strangers::Patience::default()));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    stranger.batch_execute("PREPARE TRANSACTION 'two'").await.expect("prepared");
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    stranger.batch_execute("COMMIT PREPARED 'two'").await.expect("committed");
    waiting.await.expect("quiet");
}

#[tokio::test]
async fn without_the_right_to_see_states_an_open_transaction_is_seen_all_the_same() {
    let origin = two_phase();
    sql(&origin.url("postgres"), "CREATE ROLE plain LOGIN; CREATE TABLE t (id int)").await;
    let mut conn = hand_of(&origin, "plain").await;
    let stranger = connect(&origin.url("postgres")).await;
    let idle = strangers::all(&mut conn, &HashSet::new()).await.expect("asked");
    assert!(idle.len() == 1 && idle[0].state.is_none() && !idle[0].open, "{idle:?}");
    strangers::quiesce(&mut conn, &HashSet::new(), strangers::Patience::default()).await.expect("quiet");
    stranger.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.expect("begun");
    let open = strangers::open(&mut conn, &HashSet::new()).await.expect("asked");
    assert!(open.sessions.len() == 1 && open.sessions[0].shape.is_none(), "{open:?}");
    let patience = strangers::Patience { terminate_after: Some(Duration::ZERO), ..strangers::Patience::default() };
    let error = strangers::quiesce(&mut conn, &HashSet::new(), patience).await.expect_err("no right");
    assert!(error.to_string().contains("cannot be terminated"), "{error}");
}

#[tokio::test]
async fn strangers_are_terminated_where_that_is_asked_for() {
    let origin = two_phase();
    sql(&origin.url("postgres"), "CREATE TABLE t (id int)").await;
    let stranger = connect(&origin.url("postgres")).await;
    stranger.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.expect("begun");
    let mut conn = hand(&origin).await;
    let patience = strangers::Patience { terminate_after: Some(Duration::ZERO), ..strangers::Patience::default() };
    strangers::quiesce(&mut conn, &HashSet::new(), patience).await.expect("quiet");
    stranger.batch_execute("COMMIT").await.expect_err("terminated");
    assert_eq!(asked(&origin, "SELECT count(*) FROM t").await, ["0"]);
}

#[tokio::test]
async fn the_old_primary_refuses_late_writers_but_not_tandem_and_forgets_nothing() {
    let (origin, target) = pair();
    both(&origin, &target, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let early = connect(&origin.url("postgres")).await;
    let mut conn = hand(&origin).await;
    assert!(barrier::raise(&mut conn).await.expect("up"));
    assert!(!barrier::raise(&mut conn).await.expect("up"), "it is up already");

    let late = connect(&origin.url("postgres")).await;
    let refused = late.batch_execute("INSERT INTO t VALUES (1)").await.expect_err("read-only");
    assert_eq!(refused.code().map(|code| code.code()), Some("25006"));
    early.batch_execute("INSERT INTO t VALUES (2)").await.expect("it began before");
    let passed = barrier::passed(&mut conn, &HashSet::new()).await.expect("asked");
    assert_eq!(passed.len(), 1, "{passed:?}");
    strangers::terminate(&mut conn, &passed[0]).await.expect("ended");
    early.batch_execute("INSERT INTO t VALUES (3)").await.expect_err("ended");

    // The reverse mirror writes there.
    use tandem::mirror::state::copier::Copier;
    let mut copier =
        tandem::protocol::postgres::copier::PgCopier::new(config(&target), config(&origin), Default::default());
    let payments = copier.open().await.expect("opens").payments;
    copier.snapshot().await.expect("taken");
    let owed = tandem::mirror::state::copier::Owed {
        tables: vec![tandem::record::TableId::of("public", "t")],
        ..Default::default()
    };
    assert_eq!(copier.pay(&owed, false).await.expect("paid").payments, payments + 1);
    assert_eq!(asked(&origin, "SELECT * FROM t").await, Vec::<String>::new());

    let mut conn = hand(&origin).await;
    assert!(barrier::lift(&mut conn).await.expect("down"));
    assert!(!barrier::lift(&mut conn).await.expect("down"));
    sql(&origin.url("postgres"), "INSERT INTO t VALUES (4)").await;
    assert_eq!(asked(&origin, "SELECT count(*) FROM pg_db_role_setting").await, ["0"]);
}

#[tokio::test]
async fn a_connection_whose_process_vanished_without_a_word_holds_up_no_switch() {
    let (origin, _target) = pair();
    // As its server sees it: open, and silent.
    let mut vanished = hand(&origin).await;
    switch::alone(&mut hand(&origin).await).await.expect("it is ended");
    assert!(vanished.simple("SELECT 1").await.is_err());
}

#[tokio::test]
async fn a_walk_of_another_tandem_is_not_ended_however_long_it_says_nothing() {
    let (origin, _target) = pair();
    let (ours, theirs) = (config_with_journal(&origin), config_with_journal(&origin));
    let mut walking = switch::connect(&theirs, Bounds::default()).await.expect("connects");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let mut looking = switch::connect(&ours, Bounds::default()).await.expect("connects");
    switch::alone(&mut looking).await.expect("none of ours is there");
    walking.simple("SELECT 1").await.expect("it is left alone");
    let who = switch::walked(&mut looking).await.expect("asked").expect("it is told");
    assert!(who.contains(&walking.pid().to_string()), "{who}");
    let here = strangers::tandems(&mut looking).await.expect("asked");
    let theirs = theirs.logins.as_ref().expect("it has one").journal();
    assert_eq!(here, [format!("journal {theirs:016x}, from 127.0.0.1")], "it is not another to itself");
}

#[tokio::test]
async fn two_connections_that_want_to_be_alone_do_not_wait_for_each_other() {
    let (origin, _target) = pair();
    let ours = config_with_journal(&origin);
    let mut first = switch::connect(&ours, Bounds::default()).await.expect("connects");
    let mut second = switch::connect(&ours, Bounds::default()).await.expect("connects");
    let both = async { tokio::join!(switch::alone(&mut first), switch::alone(&mut second)) };
    let (first, second) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("they resolve");
    first.expect("it was there first");
    second.expect("the first is done");
}

#[tokio::test]
async fn a_side_that_is_anothers_primary_is_marked_by_nobody_else_until_that_one_lets_go() {
    let (origin, target) = pair();
    let mut conn = hand(&target).await;
    // Nothing is there, not even tandem's schema.
    assert_eq!(mark::other(&mut conn, Some(7)).await.expect("asked"), None);
    mark::clear(&mut conn, 7).await.expect("there is none");
    let journal = u64::MAX - 1;
    for epoch in [2, 4] {
        mark::set(&mut conn, journal, epoch).await.expect("marked");
        assert_eq!(mark::other(&mut conn, Some(journal)).await.expect("asked"), None);
    }
    for journal in [Some(7), None] {
        let why = mark::other(&mut conn, journal).await.expect("asked").expect("another's");
        assert!(why.contains("fffffffffffffffe, since its epoch 4"), "{why}");
    }
    let refused = mark::set(&mut conn, 7, 9).await.expect_err("another's");
    assert!(refused.to_string().contains("fffffffffffffffe"), "{refused}");
    mark::clear(&mut conn, 7).await.expect("nothing of its own");
    let fenced = proved(config(&target), config(&origin)).await;
    assert!(
        fenced.iter().any(|(name, _, why)| *name == "reverse_fenced" && why.contains("fffffffffffffffe")),
        "{fenced:?}"
    );

    let (from, to) = (config_with_journal(&origin), config_with_journal(&target));
    let mut copier = PgCopier::new(from.clone(), to.clone(), copier::Options::default());
    let error = copier.open().await.expect_err("another's primary");
    assert!(matches!(&error, Error::Fenced(why) if why.contains("DELETE FROM tandem.primary_of")), "{error}");
    // It took no lock that others would wait for, and a control state that says so is believed.
    let own = to.logins.as_ref().expect("it has one").journal();
    mark::renew(&mut conn, own, 3).await.expect("marked");
    copier.open().await.expect("its own is not in its way");
    drop(copier);
    mark::renew(&mut conn, journal, 4).await.expect("marked");
    mark::clear(&mut conn, journal).await.expect("cleared");
    let mut second = PgCopier::new(from, to, copier::Options::default());
    while let Err(error) = second.open().await {
        assert!(matches!(&error, Error::Fenced(why) if why.contains("applier")), "{error}");
    }
}

#[tokio::test]
async fn an_operators_own_setting_is_kept_behind_the_barrier() {
    let (origin, _) = pair();
    let setting = "SELECT unnest(setconfig) FROM pg_db_role_setting";
    let mut conn = hand(&origin).await;
    for before in ["off", "on"] {
        let own = format!("default_transaction_read_only={before}");
        sql(
            &origin.url("postgres"),
            &format!("SET default_transaction_read_only = off; ALTER DATABASE postgres SET {own}"),
        )
        .await;
        barrier::raise(&mut conn).await.expect("up");
        assert_eq!(asked(&origin, setting).await, ["default_transaction_read_only=on"]);
        barrier::lift(&mut conn).await.expect("down");
        assert_eq!(asked(&origin, setting).await, [own]);
    }
    // Changed behind our back: theirs.
    conn.simple("ALTER DATABASE postgres RESET default_transaction_read_only").await.expect("reset");
    barrier::raise(&mut conn).await.expect("up");
    conn.simple("ALTER DATABASE postgres SET default_transaction_read_only = off").await.expect("set");
    barrier::lift(&mut conn).await.expect("down");
    assert_eq!(asked(&origin, setting).await, ["default_transaction_read_only=off"]);
}

#[tokio::test]
async fn who_does_not_own_the_database_cannot_raise_the_barrier_and_a_standby_is_no_primary() {
    let (mut origin, _) = pair();
    sql(&origin.url("postgres"), "CREATE ROLE plain LOGIN; GRANT CREATE ON DATABASE postgres TO plain").await;
    let mut conn = hand_of(&origin, "plain").await;
    assert!(!barrier::look(&mut conn).await.expect("asked").may_change);
    barrier::raise(&mut conn).await.expect_err("not its owner");
    assert_eq!(asked(&origin, "SELECT to_regnamespace('tandem') IS NULL").await, ["t"]);
    let sandbox = tandem::sandbox::Sandbox::new(false).expect("a temp folder");
    let standby = origin.start_standby(&sandbox, "standby").expect("a standby");
    let error = switch::connect(&config(&standby), Bounds::default()).await.expect_err("a standby");
    assert!(error.to_string().contains("read-only"), "{error}");
}

/// A key of these columns, each given as name, type and value.
fn key_of(columns: &[(&str, &str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    key::Layout::of(columns.iter().map(|(name, ty, _)| (*name, *ty))).begin(&mut out);
    columns.iter().for_each(|(_, _, value)| key::push(&mut out, value));
    out
}

fn int_key(id: i32) -> Vec<u8> {
    key_of(&[("id", "pg_catalog.int4", &id.to_be_bytes())])
}

/// Both connections, and what compares.
struct Newest {
    from: Client,
    to: Client,
    comparison: newest::Comparison,
}

impl Newest {
    async fn new(origin: &Postgres, target: &Postgres) -> Newest {
        let (mut from, mut to) = (hand(origin).await, hand(target).await);
        let scope = Scope::default();
        let comparison = newest::Comparison::prepare(Side::Origin, &scope, &mut from, &mut to).await.expect("prepared");
        Newest { from, to, comparison }
    }

    /// Keys compared, keys that differ, and the tables.
    async fn compare(&mut self, keys: &[(&str, Vec<u8>)]) -> (u64, u64, Vec<String>) {
        let keys = keys.iter().map(|(table, key)| (TableId::of("public", table), &key[..]));
        let found = self.comparison.compare(&mut self.from, &mut self.to, keys).await.expect("compared");
        (found.compared.keys, found.compared.different, found.tables)
    }
}

const TYPES: &str = "CREATE TYPE mood AS ENUM ('ok', 'bad'); CREATE TYPE two AS (a int, b mood); CREATE DOMAIN pos AS int CHECK (VALUE > 0);
    CREATE EXTENSION citext;
    CREATE TABLE b (id int PRIMARY KEY, f float8, n numeric(10,2), ts timestamptz, d date, m mood, ms mood[], r int4range, p two, o pos,
        j jsonb, c char(5), i interval, u uuid, y bytea, a int[], x text, k regclass, e money, q float4,
        g int GENERATED ALWAYS AS (o + 1) STORED);";

#[tokio::test]
async fn rows_of_all_types_are_the_same_on_both_versions_whatever_their_oids_are() {
    let (origin, target) = pair();
    sql(&origin.url("postgres"), TYPES).await;
    sql(&target.url("postgres"), &format!("CREATE TYPE shift AS ENUM ('x'); CREATE TABLE gone (id int); {TYPES}"))
        .await;
    let insert = "INSERT INTO b VALUES (1, 0.1, 1.50, '2024-03-02 10:00:00.123456+00', '0044-03-15 BC', 'bad', '{ok,NULL}', '[1,5)', \
        '(7,ok)', 3, '{\"a\":[1,null]}', 'ab', '1 mon 2 days', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\\x00ff', '{1,NULL,3}', \
        'it''s \"q\", (a)', 'b', 12.34, 1e-10), (2, 'NaN', NULL, 'infinity', 'infinity', NULL, NULL, 'empty', NULL, NULL, NULL, NULL, \
        NULL, NULL, '', '{}', '', NULL, NULL, '-infinity')";
    both(&origin, &target, insert).await;
    // What roles set changes the text that their sessions see.
    sql(
        &target.url("postgres"),
        "ALTER ROLE postgres SET datestyle = 'SQL, DMY'; ALTER ROLE postgres SET timezone = 'Asia/Kolkata'; \
        ALTER ROLE postgres SET extra_float_digits = -5; ALTER ROLE postgres SET bytea_output = 'escape'; \
        ALTER ROLE postgres SET intervalstyle = 'iso_8601'",
    )
    .await;
    let mut newest = Newest::new(&origin, &target).await;
    let keys: Vec<_> = [1, 2, 3].map(|id| ("b", int_key(id))).into();
    assert_eq!(newest.compare(&keys).await, (3, 0, vec![]));
    for (column, value) in
        [("f", "0.10000000000000002"), ("ms", "'{ok}'"), ("x", "NULL"), ("c", "'abc'"), ("p", "'(7,bad)'")]
    {
        sql(&target.url("postgres"), &format!("BEGIN; UPDATE b SET {column} = {value} WHERE id = 1; COMMIT")).await;
        assert_eq!(newest.compare(&keys).await, (3, 1, vec!["\"public\".\"b\"".to_owned()]), "{column}");
        sql(&target.url("postgres"), &format!("DELETE FROM b; {insert}")).await;
    }
}

#[tokio::test]
async fn rows_that_are_missing_extra_or_other_are_counted_and_their_tables_named() {
    let (origin, target) = pair();
    let schema = "CREATE EXTENSION citext; CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE same (id int PRIMARY KEY); \
        CREATE TABLE c (k citext, n numeric, PRIMARY KEY (k, n)); CREATE TABLE part (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); \
        CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100); INSERT INTO same SELECT generate_series(1, 5000); \
        INSERT INTO part SELECT g, g FROM generate_series(1, 9) g; INSERT INTO c VALUES ('Ab', 1.0)";
    both(&origin, &target, schema).await;
    sql(&origin.url("postgres"), "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')").await;
    sql(
        &target.url("postgres"),
        "INSERT INTO t VALUES (1, 'a'), (2, 'x'), (4, 'd'); UPDATE part SET v = 0 WHERE id = 4",
    )
    .await;
    let mut newest = Newest::new(&origin, &target).await;
    let keys: Vec<_> = (1..=5).map(|id| ("t", int_key(id))).collect();
    assert_eq!(newest.compare(&keys).await, (5, 3, vec!["\"public\".\"t\"".to_owned()]));

    let citext = [("k", "public.citext", &b"aB"[..]), ("n", "pg_catalog.\"numeric\"", &[0, 1, 0, 0, 0, 0, 0, 0, 0, 1])];
    assert_eq!(newest.compare(&[("c", key_of(&citext))]).await, (1, 0, vec![]));
    sql(&target.url("postgres"), "UPDATE c SET k = 'ab'").await;
    assert_eq!(newest.compare(&[("c", key_of(&citext))]).await.1, 2, "another spelling is another row");

    assert_eq!(
        newest.compare(&[("part_1", int_key(3)), ("part_1", int_key(4))]).await,
        (2, 1, vec!["\"public\".\"part\"".to_owned()])
    );

    let many: Vec<_> = (1..=3000).map(|id| ("same", int_key(id))).collect();
    assert_eq!(newest.compare(&many).await, (newest::KEYS_MAX as u64, 0, vec![]));
}

#[tokio::test]
async fn a_schema_change_before_the_comparison_is_noticed() {
    let (origin, target) = pair();
    both(&origin, &target, "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)").await;
    let mut newest = Newest::new(&origin, &target).await;
    both(&origin, &target, "CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)").await;
    assert_eq!(newest.compare(&[("late", int_key(1)), ("t", int_key(1))]).await, (2, 0, vec![]));
    both(&origin, &target, "ALTER TABLE t RENAME v TO w").await;
    assert_eq!(newest.compare(&[("t", int_key(1))]).await, (1, 0, vec![]));
    sql(&target.url("postgres"), "DROP TABLE t").await;
    let (keys, different, tables) = newest.compare(&[("t", int_key(1))]).await;
    assert_eq!((keys, different), (1, 1));
    assert!(tables[0].contains("the secondary has no such table"), "{tables:?}");
}

/// Name and object of what is found before a switch from the origin to the target, notes left out unless asked for.
async fn found(question: findings::Question<'_>, notes: bool) -> HashSet<(&'static str, String)> {
    let report = findings::find(question).await;
    assert_eq!(report.unreachable, Vec::<String>::new());
    assert!(report.findings.iter().all(|found| switch::RULES.contains(&found.rule)));
    let counts = |severity| notes || severity > Severity::Note;
    let found = report.findings.into_iter().filter(|found| counts(found.rule.severity));
    found.map(|found| (found.rule.name, found.object)).collect()
}

struct Asking {
    old: ServerConfig,
    new: ServerConfig,
}

impl Asking {
    fn question(&self) -> findings::Question<'_> {
        let Asking { old, new } = self;
        let max_hold = Duration::from_millis(100);
        static PLAIN: LazyLock<Scope> = LazyLock::new(Scope::default);
        findings::Question {
            from: Side::Origin,
            scope: &PLAIN,
            old,
            new,
            ours: &HashSet::new,
            max_hold,
            barrier: true,
            terminate: true,
        }
    }
}

#[tokio::test]
async fn a_clean_pair_has_nothing_worse_than_notes_in_either_direction() {
    let (origin, target) = pair();
    let schema = "CREATE TABLE acc (id bigserial PRIMARY KEY, v text UNIQUE, CHECK (id > 0)); CREATE INDEX \"o\"\"d ON d\" ON acc (v, id) WHERE id > 5; \
        CREATE TABLE ref (id int PRIMARY KEY, acc bigint REFERENCES acc ON DELETE CASCADE); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
        CREATE TRIGGER o BEFORE INSERT ON acc FOR EACH ROW EXECUTE FUNCTION f(); CREATE VIEW seen AS SELECT v FROM acc; \
        CREATE TABLE filled (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, d int DEFAULT 5, g int GENERATED ALWAYS AS (1 + 1) STORED); \
        ALTER TABLE filled ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON filled FOR SELECT TO public, postgres \
            USING (d IN (SELECT id FROM ref WHERE acc > 3) AND (current_setting('app.who', true))::int = d); \
        CREATE TABLE parts (id bigint GENERATED BY DEFAULT AS IDENTITY, PRIMARY KEY (id)) PARTITION BY RANGE (id); \
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)";
    both(&origin, &target, schema).await;
    let asking = Asking { old: config(&origin), new: config(&target) };
    assert_eq!(found(asking.question(), false).await, HashSet::new());
    let back = Asking { old: config(&target), new: config(&origin) };
    barrier::raise(&mut hand(&origin).await).await.expect("up");
    assert_eq!(found(back.question(), false).await, HashSet::new(), "a barrier of ours is no finding");
}

const OLD: &str = "
    CREATE ROLE clerk LOGIN; CREATE ROLE app LOGIN; ALTER ROLE app SET work_mem = '8MB'; CREATE TYPE mood AS ENUM ('a'); CREATE TYPE fewer AS ENUM ('a', 'b'); CREATE DOMAIN above AS int;
    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TABLE keyless (v int); CREATE TABLE gone (id int PRIMARY KEY);
    CREATE TABLE t (id int PRIMARY KEY, a int UNIQUE, b int CHECK (b > 0), c int CONSTRAINT short CHECK (c > 0));
    CREATE INDEX slow ON t (b); CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t, u int REFERENCES t ON DELETE CASCADE, w int CONSTRAINT one REFERENCES t);
    CREATE TABLE fired (id int PRIMARY KEY);
    CREATE TRIGGER here BEFORE INSERT ON fired FOR EACH ROW EXECUTE FUNCTION f();
    CREATE TRIGGER odd BEFORE INSERT ON fired FOR EACH ROW EXECUTE FUNCTION f();
    CREATE TRIGGER twice BEFORE INSERT ON fired FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE fired ENABLE ALWAYS TRIGGER twice;
    CREATE TABLE loud (id int PRIMARY KEY); CREATE TABLE order_matters (a int PRIMARY KEY, b int);
    CREATE TABLE filled (id bigserial PRIMARY KEY, d int DEFAULT 5, n int, plain int, g int GENERATED ALWAYS AS (1 + 1) STORED);
    CREATE TABLE hidden (id int PRIMARY KEY); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; CREATE POLICY gone ON hidden USING (id > 0);
    CREATE TABLE ruled (id int PRIMARY KEY); ALTER TABLE ruled ENABLE ROW LEVEL SECURITY; CREATE POLICY gone ON ruled USING (id > 0);
    CREATE POLICY other ON ruled USING (id > 1); CREATE POLICY same ON ruled USING (id > 2); CREATE POLICY whose ON ruled TO app USING (true);
    CREATE POLICY unused ON t USING (true); CREATE VIEW gone_view AS SELECT 1 AS one; CREATE FUNCTION gone(int, mood) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE TABLE strict (id int PRIMARY KEY, v int NOT NULL, w int); GRANT SELECT ON t TO clerk; CREATE SEQUENCE gone_numbers; CREATE SEQUENCE small; SELECT setval('small', 1000), lo_create(0);";

const NEW: &str = "
    CREATE ROLE filler; CREATE ROLE clerk LOGIN; CREATE TYPE shift AS ENUM ('x'); CREATE TYPE mood AS ENUM ('a'); CREATE TYPE fewer AS ENUM ('b'); CREATE DOMAIN above AS int NOT NULL;
    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TABLE keyless (v int);
    CREATE TABLE t (id int PRIMARY KEY, a int, b int, c int); ALTER TABLE t ADD CONSTRAINT short CHECK (c > 0) NOT VALID;
    CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t, u int REFERENCES t, w int CONSTRAINT other REFERENCES t); ALTER TABLE child DISABLE TRIGGER ALL;
    CREATE TABLE fired (id int PRIMARY KEY);
    CREATE TRIGGER odd BEFORE INSERT ON fired FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE fired ENABLE ALWAYS TRIGGER odd;
    CREATE TRIGGER twice BEFORE INSERT ON fired FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE fired ENABLE ALWAYS TRIGGER twice;
    CREATE UNLOGGED TABLE loud (id int PRIMARY KEY); CREATE TABLE order_matters (b int, a int PRIMARY KEY);
    CREATE TABLE filled (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, d int, n int GENERATED ALWAYS AS IDENTITY, plain int DEFAULT 1, g int);
    CREATE TABLE hidden (id int PRIMARY KEY); CREATE TABLE ruled (id int PRIMARY KEY); ALTER TABLE ruled ENABLE ROW LEVEL SECURITY;
    CREATE POLICY other ON ruled USING (id > 2); CREATE POLICY same ON ruled USING (id > 2); CREATE POLICY whose ON ruled USING (true);
    CREATE POLICY extra ON ruled AS RESTRICTIVE USING (false);
    CREATE TABLE strict (id int PRIMARY KEY, v int, w int NOT NULL); CREATE SEQUENCE small MAXVALUE 10; CREATE ROLE stuck LOGIN; ALTER ROLE stuck SET default_transaction_read_only = on;
    CREATE TABLE broken (v int); INSERT INTO broken VALUES (1), (1);
    ALTER DATABASE postgres SET default_transaction_read_only = on";

#[tokio::test]
async fn every_planted_obstacle_to_a_switch_is_found_by_name() {
    let origin = two_phase();
    let target = crate::support::server("target");
    sql(&origin.url("postgres"), OLD).await;
    sql(&target.url("postgres"), NEW).await;
    let concurrently = connect(&target.url("postgres")).await;
    concurrently.batch_execute("SET default_transaction_read_only = off").await.expect("set");
    concurrently.batch_execute("CREATE UNIQUE INDEX CONCURRENTLY half ON broken (v)").await.expect_err("duplicates");
    let writer = connect(&format!("{}?application_name=shop", origin.url("postgres"))).await;
    writer
        .batch_execute(
            "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'left'; BEGIN; INSERT INTO t (id) VALUES (4711)",
        )
        .await
        .expect("open");
    let _idle = connect(&format!("{}?application_name=psql", origin.url("postgres"))).await;
    // They are as old as clients may be held.
    sql(&origin.url("postgres"), "SELECT pg_sleep(0.2)").await;

    let asking = Asking { old: config(&origin), new: config(&target) };
    let found = found(asking.question(), true).await;
    let expected = [
        ("column_default_differs", "public.filled.d"),
        ("column_default_differs", "public.filled.n"),
        ("column_default_differs", "public.filled.g"),
        ("column_order_differs", "public.order_matters"),
        ("constraint_missing", "public.t (t_b_check)"),
        ("constraint_not_valid", "public.t (short)"),
        ("domain_differs", "public.above: () -> (NOT NULL)"),
        ("foreign_key_differs", "public.child (child_u_fkey)"),
        ("foreign_key_off", "public.child (child_t_fkey)"),
        ("function_missing", "public.gone(integer,public.mood)"),
        ("index_invalid", "public.half"),
        ("index_missing", "INDEX ON public.t USING btree (b)"),
        ("large_objects", "postgres"),
        ("not_null_differs", "public.strict.v"),
        ("not_null_differs", "public.strict.w"),
        ("policy_differs", "public.ruled (gone)"),
        ("policy_differs", "public.ruled (other)"),
        ("policy_differs", "public.ruled (whose)"),
        ("policy_differs", "public.ruled (extra)"),
        ("prepared_transactions_differ", "max_prepared_transactions"),
        ("privilege_missing", "clerk: SELECT on table public.t"),
        ("read_only_by_default", "postgres"),
        ("read_only_by_default", "role stuck"),
        ("role_missing", "app"),
        ("role_setting_differs", "role app: work_mem"),
        ("row_security_differs", "public.hidden"),
        ("sequence_differs", "public.small"),
        ("sequence_missing", "public.gone_numbers"),
        ("setting_differs", "xmlbinary: hex -> base64"),
        ("table_missing", "public.gone"),
        ("table_without_key", "public.keyless"),
        ("trigger_differs", "odd on public.fired"),
        ("trigger_missing", "here on public.fired"),
        ("trigger_on_mirrored_rows", "twice on public.fired"),
        ("type_differs", "public.fewer: lacks (a)"),
        ("type_oid_differs", "public.mood"),
        ("unique_missing", "UNIQUE INDEX ON public.t USING btree (a)"),
        ("unlogged_table", "public.loud"),
        ("view_missing", "public.gone_view"),
    ];
    for (name, object) in expected {
        assert!(found.contains(&(name, object.to_owned())), "{name} {object} in {found:#?}");
    }
    for (name, objects) in
        [("column_default_differs", 3), ("foreign_key_differs", 1), ("policy_differs", 4), ("row_security_differs", 1)]
    {
        assert_eq!(found.iter().filter(|(other, _)| *other == name).count(), objects, "{name} in {found:#?}");
    }
    let like = |name, parts: &[&str]| {
        found.iter().any(|(other, object)| *other == name && parts.iter().all(|part| object.contains(part)))
    };
    assert!(like("long_transaction", &["(shop)", "idle in transaction", "VALUES (?)"]), "{found:#?}");
    assert!(like("prepared_transaction", &["\"left\" of postgres"]), "{found:#?}");
    assert!(like("bypassing", &["(psql), idle"]), "{found:#?}");
    assert!(!found.iter().any(|(_, object)| object.contains("4711")), "promise 13");
    assert!(
        !found.contains(&("unique_missing", "UNIQUE INDEX ON public.gone USING btree (id)".to_owned())),
        "one finding is enough"
    );
}

#[tokio::test]
async fn what_a_plain_role_may_not_is_found() {
    let (origin, target) = pair();
    let schema = format!(
        "{TRIGGERS} CREATE SEQUENCE s; CREATE TABLE ruled (id int PRIMARY KEY); CREATE RULE r AS ON DELETE TO ruled DO INSTEAD NOTHING; \
        CREATE ROLE plain LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO plain"
    );
    both(&origin, &target, &schema).await;
    sql(&origin.url("postgres"), "SELECT setval('s', 9); GRANT SELECT ON s TO plain").await;
    sql(&target.url("postgres"), "ALTER TABLE t DISABLE TRIGGER o").await;
    let asking = Asking { old: config_of(&origin, "plain"), new: config_of(&target, "plain") };
    let found = found(asking.question(), false).await;
    let expected = [
        ("may_not_see_stats", "postgres"),
        ("may_not_set_read_only", "postgres"),
        ("may_not_set_sequence", "public.s"),
        ("may_not_switch_trigger", "a on public.t"),
        ("may_not_switch_trigger", "o on public.t"),
        ("may_not_switch_trigger", "p on public.part"),
        ("may_not_switch_trigger", "p on public.part_2"),
        ("may_not_terminate", "postgres"),
        ("rules_act", "public.ruled"),
    ];
    assert_eq!(found, expected.map(|(name, object)| (name, object.to_owned())).into());
}

#[tokio::test]
async fn a_side_that_does_not_answer_is_told() {
    let (origin, mut target) = pair();
    target.stop(tandem::sandbox::Stop::Fast).expect("stops");
    let asking = Asking { old: config(&origin), new: config(&target) };
    let report = findings::find(asking.question()).await;
    assert!(report.unreachable.len() == 1 && report.unreachable[0].starts_with("target: "), "{:?}", report.unreachable);
}

async fn proved(old: ServerConfig, new: ServerConfig) -> HashSet<(&'static str, Side, String)> {
    let scope = Scope::default();
    let found = reverse::prove(Side::Origin, &old, &new, (&scope, Bounds::default())).await.expect("both answer");
    found.into_iter().map(|found| (found.rule.name, found.side.expect("a side"), found.object)).collect()
}

/// Everything of ours on a server.
const TRACES: &str = "SELECT nspname FROM pg_namespace WHERE nspname = 'tandem' UNION ALL SELECT relname FROM pg_class \
    WHERE relnamespace = to_regnamespace('tandem')";

#[tokio::test]
async fn the_way_back_is_proven_and_leaves_no_trace() {
    let (origin, target) = pair();
    both(&origin, &target, &format!("{TYPES} {TRIGGERS} CREATE TABLE keyless (v int); \
        CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''fired''; END'; \
        CREATE TRIGGER s BEFORE INSERT OR DELETE ON plain EXECUTE FUNCTION loud(); \
        CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY); CREATE TABLE c (k citext, n numeric, PRIMARY KEY (k, n))")).await;
    assert_eq!(proved(config(&origin), config(&target)).await, HashSet::new());
    assert_eq!(asked(&origin, TRACES).await, Vec::<String>::new());
    assert_eq!(asked(&target, TRACES).await, Vec::<String>::new());

    // With tandem's tables there, one of them left by a crash, and behind the barrier.
    both(&origin, &target, "CREATE SCHEMA tandem; CREATE TABLE tandem.probe (left_by_a_crash int)").await;
    barrier::raise(&mut hand(&origin).await).await.expect("up");
    assert_eq!(proved(config(&origin), config(&target)).await, HashSet::new());
    assert_eq!(
        asked(&origin, "SELECT relname FROM pg_class WHERE relnamespace = 'tandem'::regnamespace AND relkind = 'r'")
            .await,
        ["barrier"]
    );
}

#[tokio::test]
async fn what_the_way_back_lacks_is_found() {
    let (origin, target) = pair();
    let schema = "CREATE ROLE plain LOGIN; CREATE TABLE fine (id int PRIMARY KEY); CREATE TABLE dark (id int PRIMARY KEY); \
        CREATE TABLE hidden (id int PRIMARY KEY); CREATE TABLE narrow (id int PRIMARY KEY, v int); \
        GRANT SELECT, INSERT, UPDATE, DELETE ON fine, hidden, narrow TO plain; GRANT SELECT ON dark TO plain; \
        ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON hidden USING (id > 5); GRANT CREATE ON DATABASE postgres TO plain";
    both(&origin, &target, schema).await;
    sql(&target.url("postgres"), "ALTER TABLE narrow ADD COLUMN more int").await;
    let (old, new) = (config_of(&origin, "plain"), config_of(&target, "plain"));
    let found = proved(old.clone(), new.clone()).await;
    let like = |side, parts: &[&str]| {
        found.iter().any(|(name, at, object)| {
            *name == "reverse_table" && *at == side && parts.iter().all(|part| object.contains(part))
        })
    };
    assert!(like(Side::Origin, &["dark", "may not SELECT, INSERT and DELETE", "old primary"]), "{found:#?}");
    assert!(like(Side::Origin, &["narrow", "more"]), "{found:#?}");
    assert!(
        like(Side::Origin, &["hidden", "row-level security"]) && like(Side::Target, &["hidden", "row-level security"]),
        "{found:#?}"
    );
    assert!(found.iter().all(|(name, _, object)| *name == "reverse_table" && !object.contains("fine")), "{found:#?}");
    assert_eq!(asked(&origin, TRACES).await, Vec::<String>::new());

    let holder = connect(&origin.url("postgres")).await;
    holder
        .batch_execute(&format!(
            "SELECT pg_advisory_lock({}, {})",
            tandem::protocol::postgres::copier::LOCK_CLASS,
            tandem::protocol::postgres::copier::LOCK_APPLIER
        ))
        .await
        .expect("locked");
    assert!(
        proved(old.clone(), new.clone())
            .await
            .iter()
            .any(|(name, side, _)| (*name, *side) == ("reverse_fenced", Side::Origin))
    );
    sql(&origin.url("postgres"), "REVOKE CREATE ON DATABASE postgres FROM plain").await;
    assert!(proved(old, new).await.iter().any(|(name, side, _)| (*name, *side) == ("reverse_store", Side::Origin)));
}
