//! What tandem itself finds before a switch: the mirror, and its sessions. Names are stable.

crate::check::rules! {
    SIDE_FAILED: Error "side_failed" "a side does not answer, or refuses what a switch needs of it: mend that first";
    MIRROR_DOWN: Error "mirror_down" "the mirror does not run: `tandem status` says why; without it the new primary lacks writes";
    MIRROR_BEHIND: Error "mirror_behind" "the secondary is further behind than cutover.max_lag: wait until it has caught up, or raise the limit; clients would be held for as long as it takes";
    ROWS_PARKED: Error "rows_parked" "the secondary refuses these rows and lacks them: `tandem parked list`, then retry or discard";
    TABLES_DIRTY: Error "tables_dirty" "these tables are known to differ, or not known to agree: `tandem dirty repair`, and wait";
    HISTORY_UNDER_WAY: Error "history_under_way" "history is being copied: the new primary would lack what is not there yet: wait for `tandem backfill wait`, or cancel it";
    HISTORY_UNVERIFIED: Warning "history_unverified" "the history of these tables was copied and not compared since: `tandem verify`";
    HISTORY_DIFFERS: Warning "history_differs" "the last comparison found rows that differ: `tandem repair`, then this finding is gone";
    KEYS_LOST: Warning "keys_lost" "the last values of these rows are on the old primary only, and are lost with it: they are kept as a list in journal.dir (switch-lost), and their tables are dirty";
    MORE_KEYS_LOST: Error "more_keys_lost" "more keys are owed than you said may be lost: look again with --dry-run";
    SESSION_IMMOVABLE: Error "session_immovable" "this session holds what no other server can be given: end it, wait for it, or set cutover.immovable = \"close\"";
    SESSION_CLOSED: Warning "session_closed" "this session holds what no other server can be given: it is closed at the switch, with an error that pools understand";
    SESSION_NOT_READY: Error "session_not_ready" "no second connection could be opened and filled for this session: its user needs a place in [[users]], may log in to the new primary, and everything that it has set must be known there";
    SESSION_ELSEWHERE: Note "session_elsewhere" "its database is not the mirrored one: it stays on the origin";
}
