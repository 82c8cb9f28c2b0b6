//! What a switch of CQL finds beside its mirror. Names are stable.

crate::check::rules! {
    SCHEMA_DIFFERS: Error "schema_differs" "this table is another one on the other side, or is not there: clients would see other columns; make both alike";
    VIEW_MISSING: Warning "view_missing" "the new primary has no such materialized view: statements that read it fail; make it there (materialized_views_enabled in cassandra.yaml), and wait until it is built";
    INDEX_MISSING: Error "index_missing" "the new primary has no index of it: statements that need it are refused there; CREATE INDEX, and wait until it is built";
    TYPE_DIFFERS: Error "type_differs" "the new primary's type has other fields, or in another order: values name none, so they change places or are refused; make it anew there, with its tables";
    CLUSTERING_ORDER_DIFFERS: Error "clustering_order_differs" "rows of a partition come in another order on the new primary: clients that take the first or the last of them get others; make the table anew there, WITH CLUSTERING ORDER BY";
    TRIGGER_UNCAPTURED: Warning "trigger_uncaptured" "what a trigger (ITrigger) writes is not captured: it is on this side only, unless a trigger there wrote the same; compare the tables that it writes to";
    MASKED_COLUMN: Error "masked_column" "a mask (MASKED WITH) hides the column's values from tandem's role, which copies and compares the mask in their place: GRANT UNMASK ON its keyspace to that role, and copy the table again";
    TIME_ZONE_DIFFERS: Warning "time_zone_differs" "nodes read timestamps as text that say no zone in their own time zone: clients that send such texts mean another time on the new primary; set the zone of their Java alike (-Duser.timezone=UTC)";
    CLOCK_BEHIND: Error "clock_behind" "the new primary's clocks are behind what clients were given: its conditional statements would lose against older writes; set its clocks";
    LOGIN_FAILS: Error "login_fails" "this user cannot log in to the new primary with what the client said: name it in [[users]], and see that its role is there";
    HISTORY_WRITES: Error "history_writes" "it has a part of a walk over history that it may still write, and clients would be held until it has not: wait until the chunk is given back, or its lease is over; a worker that hangs can be killed";
    FORCE_IMPOSSIBLE: Error "force_impossible" "CQL cannot give up the old primary: what is owed by state can be read only there";
}
