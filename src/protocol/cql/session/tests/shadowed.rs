//! Reads that are repeated on the other side: the client and its server see nothing of it.

use super::*;
use crate::config::{self, Config, Live};
use crate::protocol::cql::shadow::Read;
use crate::shadow::{Board, Skip};

/// A board that chooses this share of reads, with settings changed.
pub(super) fn board(share: &str, gate: &Gate, change: impl FnOnce(&mut config::Shadow)) -> Board {
    let mut config = Config::from_text("proxy.toml", &config::example(), []).expect("valid");
    change(&mut config.shadow);
    let live = Live::new(&config);
    live.change([("shadow.sample", share)].into_iter()).expect("allowed");
    Board::new(&config.shadow, "cql", live, gate.clone(), Journal::in_memory())
}

/// What sessions have of it. Nobody compares.
pub(super) fn watch(board: &Board) -> Watch {
    let (handle, queue) = board.open::<Read>();
    // It would say that tandem ends.
    std::mem::forget(queue);
    Watch::new(board.config(), handle)
}

/// A session whose reads are all chosen.
fn rig(framing: Framing, change: impl FnOnce(&mut config::Shadow)) -> (Rig, Board) {
    let ballots = Ballots::default();
    let mut made = None;
    let shared = shared(Some(Journal::in_memory()), &ballots, |gate| watch(made.insert(board("100%", gate, change))));
    (Rig::with(shared, ballots, framing), made.expect("just made"))
}

const V5: Framing = Framing { version: Version::V5, compression: None };
const READ: &str = "SELECT v FROM t WHERE k = 1";

fn skips(board: &Board) -> Vec<(Skip, u64)> {
    board.shapes().total().skips().collect()
}

fn reads(board: &Board) -> usize {
    board.queued().0
}

fn execute(rig: &mut Rig, id: &[u8]) {
    let parameters = Parameters::new(Consistency::LocalQuorum);
    rig.ask(3, &Request::Execute(Execute { id, result_metadata_id: Some(b"m"), parameters }));
}

#[tokio::test]
async fn what_is_chosen_goes_through_as_it_came() {
    for (version, compression) in [
        (Version::V3, None),
        (Version::V4, Some(Compression::Lz4)),
        (Version::V4, Some(Compression::Snappy)),
        (Version::V5, None),
        (Version::V5, Some(Compression::Lz4)),
    ] {
        let framing = Framing { version, compression };
        let (mut chosen, board) = rig(framing, |_| {});
        let mut plain = Rig::new(version, compression);
        for rig in [&mut chosen, &mut plain] {
            rig.prepare(&[7; 16], READ);
            rig.told();
            rig.query(2, READ);
            execute(rig, &[7; 16]);
            rig.void(3);
            rig.void(2);
        }
        assert_eq!(chosen.session.to_server.ready(), plain.session.to_server.ready(), "{framing:?}");
        assert_eq!(chosen.session.to_client.ready(), plain.session.to_client.ready(), "{framing:?}");
        assert_eq!((reads(&board), skips(&board)), (2, vec![]), "{framing:?}");
    }
}

#[tokio::test]
async fn only_reads_of_tables_that_are_mirrored_are_chosen() {
    let (mut rig, board) = rig(V5, |_| {});
    for text in [
        "INSERT INTO t (k, v) VALUES (1, 'x')",
        "SELECT * FROM system.local",
        "SELECT * FROM system_schema.tables",
        "USE shop",
        "LIST ROLES",
    ] {
        rig.query(2, text);
        rig.void(2);
        assert_eq!((reads(&board), skips(&board)), (0, vec![]), "{text}");
    }
    rig.query(2, "SELECT now() FROM t");
    rig.void(2);
    assert_eq!((reads(&board), skips(&board)), (0, vec![(Skip::Volatile, 1)]));
}

#[tokio::test]
async fn a_later_page_is_a_read_of_its_own_if_that_is_wanted() {
    for (pages, expected) in
        [(config::Pages::First, (0, vec![(Skip::LaterPage, 1)])), (config::Pages::All, (1, vec![]))]
    {
        let (mut rig, board) = rig(V5, |shadow| shadow.pages = pages);
        let parameters = Parameters { paging_state: Some(b"there"), ..Parameters::new(Consistency::One) };
        rig.ask(2, &Request::Query(Query { text: READ.as_bytes(), parameters }));
        rig.void(2);
        assert_eq!((reads(&board), skips(&board)), expected);
    }
}

#[tokio::test]
async fn without_room_a_read_goes_on_as_ever() {
    for (change, why) in [
        ((|shadow| shadow.queue = 1) as fn(&mut config::Shadow), Skip::QueueFull),
        (|shadow| shadow.max_answer = config::Size(40), Skip::AnswerTooLarge),
    ] {
        let (mut rig, board) = rig(V5, change);
        for stream in [2, 3] {
            rig.query(stream, READ);
        }
        rig.void(3);
        rig.void(2);
        assert_eq!(rig.told().len(), 2);
        assert!(skips(&board).iter().any(|(skip, _)| *skip == why), "{why}: {:?}", skips(&board));
    }
}

#[tokio::test]
async fn a_read_that_the_server_does_not_answer_is_not_compared() {
    let (mut rig, board) = rig(V5, |_| {});
    rig.query(2, READ);
    rig.session.lose_server();
    assert_eq!(rig.told().len(), 1, "the client is told");
    assert_eq!((reads(&board), skips(&board)), (0, vec![(Skip::PrimaryFailed, 1)]));
}
