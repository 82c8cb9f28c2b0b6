//! Everything that is looked for before a switch. Names are stable; `to` is the new primary.

crate::check::rules! {
    SEQUENCE_MISSING: Error "sequence_missing" "create it on the new primary: after the switch clients ask it for numbers";
    SEQUENCE_UNREADABLE: Error "sequence_unreadable" "tandem's role on the old primary needs SELECT on the sequence and USAGE on its schema, or its position stays unknown";
    MAY_NOT_SET_SEQUENCE: Error "may_not_set_sequence" "tandem's role on the new primary needs SELECT and UPDATE on the sequence and USAGE on its schema";
    SEQUENCE_DIFFERS: Error "sequence_differs" "it counts the other way on the new primary, or the position is outside its limits there: ALTER SEQUENCE";
}
