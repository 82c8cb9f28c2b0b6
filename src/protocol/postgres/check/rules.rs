//! Everything that is looked for in PostgreSQL, with what to do about it. Names are stable.

crate::check::rules! {
    VERSION_UNSUPPORTED: Error "version_unsupported" "tandem supports PostgreSQL 14 to 18";
    SAME_DATABASE: Error "same_database" "origin and target are one and the same database: correct the configuration";
    SAME_SYSTEM_ID: Warning "same_system_id" "the target is a physical copy of the origin: make sure that it was promoted and no longer follows";
    POOLER: Error "pooler" "a pooler or another proxy is on the way: tandem needs its locks and process ids to be the server's own; connect directly";
    ENCODING_DIFFERS: Error "encoding_differs" "create the target database with the origin's encoding";
    COLLATION_DIFFERS: Warning "collation_differs" "text sorts differently on the target, and unique or ordered queries may answer differently after the switch: use the same locale, provider and version, or know that you do not mind";
    TRACK_COUNTS_OFF: Warning "track_counts_off" "hidden writes are found by the server's counts: set track_counts = on";
    IDLE_TIMEOUT: Note "idle_timeout" "the server ends idle sessions of clients; tandem passes that on and sets its own for itself";
    PREPARED_TRANSACTIONS_DIFFER: Warning "prepared_transactions_differ" "two-phase transactions that the origin takes will be refused after the switch: raise max_prepared_transactions on the target";

    TABLE_WITHOUT_KEY: Error "table_without_key" "its rows cannot be told apart, so it is not mirrored: add a primary key, or a unique index over columns that are all NOT NULL";
    DEFERRABLE_KEY: Warning "deferrable_key" "a deferrable constraint cannot serve as the mirror's key: where the table has no other, add one that is not";
    TRIGGERS: Warning "triggers" "what a trigger writes to other tables is not captured but counted: those tables become dirty and are repaired";
    RULES_ON_TABLE: Warning "rules" "statements that a rule rewrites are not captured but counted: replace rules by triggers or functions";
    EVENT_TRIGGER: Warning "event_trigger" "what it writes where a schema changes is not captured but counted: those tables become dirty and are repaired";
    LOGIN_TRIGGER: Warning "login_trigger" "what it writes when a client logs in is neither captured nor counted: exclude those tables, or write nothing there that matters on the other side";
    ROW_SECURITY: Warning "row_security" "keys of a table with row security are never asked for: statements that do not name them make it dirty";
    UNLOGGED_TABLE: Warning "unlogged_table" "its rows are lost when a side where it is unlogged crashes, and it is dirty behind each of its restarts: SET LOGGED if they matter";
    FOREIGN_TABLE: Warning "foreign_table" "not mirrored: its rows are elsewhere; the target needs a foreign table of its own";
    MATERIALIZED_VIEW: Note "materialized_view" "not mirrored: REFRESH it on the target";
    TABLE_MISSING: Error "table_missing" "create it on the target: keys owed to it are parked until then";
    NOT_A_TABLE: Error "not_a_table" "it is a table on the origin and something else on the target";
    PARTITION_MISSING: Note "partition_missing" "the target is partitioned differently: fine as long as every row finds a partition there";
    COLUMN_MISSING: Error "column_missing" "add it on the target";
    COLUMN_UNKNOWN: Error "column_unknown" "the target has a column that is NOT NULL without a default and that the origin has not: rows are refused";
    COLUMN_TYPE_DIFFERS: Warning "column_type_differs" "values are copied as text and may be refused or rounded: use the same type";
    COLUMN_COLLATION_DIFFERS: Warning "column_collation_differs" "the column sorts and compares by another collation on the target: ORDER BY, ranges and unique indexes of it answer differently after the switch; ALTER COLUMN .. TYPE .. COLLATE";
    COLUMN_COMPUTED: Error "column_computed" "the target computes what the origin stores (GENERATED ALWAYS AS): its values are not copied, and after the switch clients may not write them; make it a plain column there";
    COLUMN_ORDER_DIFFERS: Warning "column_order_differs" "SELECT * and INSERT without a column list mean something else after the switch: create the table in the origin's order";
    NOT_NULL_DIFFERS: Warning "not_null_differs" "the target refuses rows that the origin takes: drop NOT NULL there, or set it on the origin";

    FOREIGN_KEY_FROM_OUTSIDE: Error "foreign_key_from_outside" "a foreign key deletes or changes its rows with those of a table that is left out, and nobody would know which: it is not mirrored; include both, or exclude both";
    TABLE_MAP: Error "table_map" "tandem does not start with it: correct [[tables]]";

    TYPE_MISSING: Error "type_missing" "create the type on the target";
    TYPE_DIFFERS: Error "type_differs" "the target's type lacks labels, or is made of other fields, or in another order: values are refused there, or mean something else; ALTER TYPE, until it is made as the origin's";
    ENUM_ORDER_DIFFERS: Warning "enum_order_differs" "labels sort otherwise on the target: ORDER BY, ranges and comparisons answer differently after the switch; make the type anew there, in the origin's order";
    DOMAIN_DIFFERS: Warning "domain_differs" "the domain is over another type on the target, or takes other values: ALTER DOMAIN, until both say the same";
    TYPE_OID_DIFFERS: Note "type_oid_differs" "drivers remember oids by connection: clients that use this type should reconnect after the switch";
    EXTENSION_MISSING: Error "extension_missing" "CREATE EXTENSION on the target";
    EXTENSION_VERSION_DIFFERS: Note "extension_version_differs" "ALTER EXTENSION .. UPDATE, or know that both versions do the same";
    EXTENSION_FUNCTIONS: Note "extension_functions" "nobody knows what its volatile functions in C write: a statement that calls one is counted, which costs two queries more, and with mirror.on_uncaptured = \"refuse\" it is refused";
    SEQUENCE_MISSING: Warning "sequence_missing" "create it on the target: after the switch clients ask it for numbers";
    COLLATION_MISSING: Warning "collation_missing" "create it on the target";
    LARGE_OBJECTS: Warning "large_objects" "large objects are in use and are not mirrored: copy them at the switch, or move them into bytea columns";
    ROLE_MISSING: Warning "role_missing" "this role can log in to the origin and is not on the target: its clients will be refused after the switch";
    SETTING_DIFFERS: Warning "setting_differs" "the servers are set otherwise, and a session that says nothing means something else after the switch: set it in postgresql.conf or by ALTER DATABASE .. SET on the target, or know that clients say it themselves";
    ROLE_SETTING_DIFFERS: Warning "role_setting_differs" "ALTER ROLE or ALTER DATABASE .. SET differs: sessions mean something else after the switch; set it on both";
    PRIVILEGE_MISSING: Warning "privilege_missing" "this role may do so on the origin and not on the target: its clients will be refused after the switch; GRANT it there (pg_dump --schema-only has all grants of the origin)";

    MAY_NOT_READ: Error "may_not_read" "tandem's role on the origin needs SELECT on the table and USAGE on its schema: it is not mirrored else";
    MAY_NOT_WRITE: Error "may_not_write" "tandem's role on the target needs SELECT, INSERT, UPDATE and DELETE on the table and USAGE on its schema";
    MAY_NOT_CREATE: Error "may_not_create" "tandem's role on the target makes the schema tandem: GRANT CREATE ON DATABASE";
    MAY_NOT_SEE_STATS: Warning "may_not_see_stats" "GRANT pg_read_all_stats to tandem's role: without it a lost session's end is not seen and its keys stay owed for longer";
    ROW_SECURITY_APPLIES: Error "row_security_applies" "policies hide rows from tandem's role, so the table cannot be copied: give the role BYPASSRLS";
    MAY_NOT_BE_REPLICA: Warning "may_not_be_replica" "triggers and foreign keys of the target act on mirrored rows: GRANT SET ON PARAMETER session_replication_role (15 and later), or use a superuser";
}
