//! What tandem itself finds before a switch, of its sessions and of what would be lost. Names are stable. What it finds of the
//! mirror is the same for all wires: [`crate::cutover::mirror`].

crate::check::rules! {
    KEYS_LOST: Warning "keys_lost" "the last values of these rows are on the old primary only, and are lost with it: they are kept as a list in journal.dir (switch-lost), and their tables are dirty";
    MORE_KEYS_LOST: Error "more_keys_lost" "more keys are owed than you said may be lost: look again with --dry-run";
    PARKED_LOST: Warning "parked_lost" "the secondary refused these rows: what the old primary has of them is lost with it; `tandem parked list` names them";
    DIRTY_LOST: Warning "dirty_lost" "these tables may differ from the old primary's in any of their rows, and it is lost: nobody can copy or compare them any more";
    HISTORY_LOST: Warning "history_lost" "nobody knows whether the new primary has all rows of these tables that were there before tandem: those that it lacks are lost";
    SEQUENCE_UNKNOWN: Error "sequence_unknown" "nobody knows which numbers of it were given out: no column takes them, and the old primary was not asked in time; ignore this, and setval() it above all of them before clients come";
    TABLE_COPIED_HELD: Warning "table_copied_held" "it has no key and mirror.keyless is \"copy\": all its rows are copied while clients are held";
    SESSION_IMMOVABLE: Error "session_immovable" "this session holds what no other server can be given: end it, wait for it, or set cutover.immovable = \"close\"";
    SESSION_CLOSED: Warning "session_closed" "this session holds what no other server can be given: it is closed at the switch, with an error that pools understand";
    SESSION_NOT_READY: Error "session_not_ready" "no second connection could be opened and filled for this session: its user needs a place in [[users]], may log in to the new primary, and everything that it has set must be known there";
    SESSION_ELSEWHERE: Note "session_elsewhere" "its database is not the mirrored one: it stays on the origin";
}
