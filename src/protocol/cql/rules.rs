//! What a switch of CQL finds beside its mirror. Names are stable.

crate::check::rules! {
    SCHEMA_DIFFERS: Error "schema_differs" "this table is another one on the other side, or is not there: clients would see other columns; make both alike";
    VIEW_MISSING: Warning "view_missing" "the new primary has no such materialized view: statements that read it fail; make it there (materialized_views_enabled in cassandra.yaml), and wait until it is built";
    CLOCK_BEHIND: Error "clock_behind" "the new primary's clocks are behind what clients were given: its conditional statements would lose against older writes; set its clocks";
    LOGIN_FAILS: Error "login_fails" "this user cannot log in to the new primary with what the client said: name it in [[users]], and see that its role is there";
    FORCE_IMPOSSIBLE: Error "force_impossible" "CQL cannot give up the old primary: what is owed by state can be read only there";
}
