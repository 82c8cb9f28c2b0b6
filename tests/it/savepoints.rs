//! What lies before a savepoint outlives whatever happened behind it.

use tandem::protocol::postgres::wire::back;

use crate::support::raw::{M, Raw};
use crate::support::rows;
use crate::support::stage::Stage;

const DIVIDE: [M; 3] = [M::P("", "SELECT 1/0"), M::B("", "", &[], &[]), M::E("", 0)];
const ROLLBACK: [M; 3] = [M::P("", "ROLLBACK"), M::B("", "", &[], &[]), M::E("", 0)];
const BACK: [M; 3] = [M::P("", "ROLLBACK TO s"), M::B("", "", &[], &[]), M::E("", 0)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_from_before_a_savepoint_is_mirrored_whatever_failed_behind_it() {
    let stage = Stage::new("CREATE TABLE t (id int PRIMARY KEY, v int)", "", &[]).await;
    let copy = [M::Q("COPY t FROM STDIN"), M::Until(back::COPY_IN_RESPONSE), M::Data("7\t7\n"), M::Fail];
    // A Query behind an error is skipped too.
    let scripts: [(&str, &[M]); 4] = [
        ("INSERT INTO t VALUES (1, 1)", &copy),
        ("INSERT INTO t VALUES (2, 2)", &[&DIVIDE[..], &ROLLBACK, &[M::S]].concat()),
        ("INSERT INTO t VALUES (3, 3)", &[&DIVIDE[..], &[M::Q("ROLLBACK"), M::Ignored]].concat()),
        ("INSERT INTO t VALUES (4, 4)", &[&DIVIDE[..], &[M::S, M::Wait], &BACK, &DIVIDE, &ROLLBACK, &[M::S]].concat()),
    ];
    for (insert, fails) in scripts {
        let begins = [M::Q("BEGIN"), M::Q(insert), M::Q("SAVEPOINT s"), M::Wait];
        let ends = [M::Wait, M::Q("ROLLBACK TO s"), M::Wait, M::Q("COMMIT")];
        let script = [&begins[..], fails, &ends].concat();
        let client = tokio::task::spawn_blocking({
            let port = stage.tandem.port;
            move || drop(Raw::connect(port).run(&script))
        });
        client.await.expect("it is answered");
    }
    assert_eq!(rows(&stage.origin.url("postgres"), "SELECT id FROM t ORDER BY id").await, ["1", "2", "3", "4"]);
    stage.assert_equal(&["t"]).await;
}
