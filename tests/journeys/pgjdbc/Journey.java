import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.UUID;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

/** The journey with pgjdbc: batches (rewritten and not), generated keys, server-side statements, fetch size, COPY, cancel. */
public class Journey {
    interface Part {
        void run(Connection connection) throws Exception;
    }

    public static void main(String[] args) throws Exception {
        logins();
        List<Part> parts = List.of(Journey::types, Journey::prepared, Journey::cursor, Journey::copy, Journey::cancel,
            Journey::errors, Journey::transactions);
        for (Part part : parts) {
            with(part, "sslmode", "verify-full");
        }
        // Twice: as INSERT statements one by one in a pipeline, and as the driver rewrites them into few.
        with(Journey::batch, "reWriteBatchedInserts", "false");
        with(Journey::batch, "reWriteBatchedInserts", "true");
        // Simple query protocol only.
        with(Journey::simple, "preferQueryMode", "simple");
    }

    static Connection connect(String... more) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("sslmode", "disable");
        properties.setProperty("sslrootcert", System.getenv("PGSSLROOTCERT"));
        properties.setProperty("channelBinding", "disable");
        properties.setProperty("prepareThreshold", "3");
        for (int at = 0; at < more.length; at += 2) {
            properties.setProperty(more[at], more[at + 1]);
        }
        String place = System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");
        return DriverManager.getConnection("jdbc:postgresql://" + place, properties);
    }

    static void with(Part part, String... more) throws Exception {
        try (Connection connection = connect(more)) {
            part.run(connection);
        }
    }

    static void logins() throws Exception {
        for (String user : List.of(System.getenv("PGUSER"), "by_md5")) {
            for (String sslmode : List.of("disable", "verify-full")) {
                with(c -> say("login", sslmode, query(c, "SELECT current_user")), "user", user, "sslmode", sslmode);
            }
        }
        failing("wrong password", () -> connect("password", "wrong").close());
    }

    static void types(Connection c) throws Exception {
        byte[] all = new byte[256];
        for (int at = 0; at < 256; at++) {
            all[at] = (byte) at;
        }
        String insert = "INSERT INTO typed VALUES (?, ?, ?, ?, ?, ?, ?, ?::json, ?::jsonb, ?, ?, ?, ?)";
        try (PreparedStatement p = c.prepareStatement(insert)) {
            for (int id = 1; id <= 6; id++) { // The last ones as a named statement, in binary.
                p.setInt(1, id);
                p.setShort(2, Short.MIN_VALUE);
                p.setLong(3, Long.MAX_VALUE);
                p.setBigDecimal(4, new BigDecimal("-12345678901234567890.123456789"));
                p.setString(5, "naïve 🐘 'quote' \\ back");
                p.setObject(6, OffsetDateTime.parse("2024-02-29T23:59:59.123456Z"));
                p.setObject(7, UUID.fromString("80000000-0000-0000-0000-000000000001"));
                p.setString(8, "{\"a\": [1, null]}");
                p.setString(9, "{\"b\": \"ü\"}");
                p.setArray(10, c.createArrayOf("int4", new Integer[] {1, null, -3}));
                p.setArray(11, c.createArrayOf("text", new String[] {"a", "{,}", null}));
                p.setBytes(12, all);
                p.setBoolean(13, true);
                p.executeUpdate();
            }
            p.setInt(1, 7);
            int[] kinds = {Types.SMALLINT, Types.BIGINT, Types.NUMERIC, Types.VARCHAR, Types.TIMESTAMP_WITH_TIMEZONE,
                Types.OTHER, Types.VARCHAR, Types.VARCHAR, Types.ARRAY, Types.ARRAY, Types.BINARY, Types.BOOLEAN};
            for (int at = 0; at < kinds.length; at++) {
                p.setNull(at + 2, kinds[at]);
            }
            p.executeUpdate();
        }
        try (PreparedStatement p = c.prepareStatement("SELECT * FROM typed ORDER BY id")) {
            for (int n = 0; n < 5; n++) {
                say("types", rows(p.executeQuery()));
            }
        }
    }

    static void prepared(Connection c) throws Exception {
        List<Object> keys = new ArrayList<>();
        String insert = "INSERT INTO item (name, qty) VALUES (?, ?)";
        try (PreparedStatement p = c.prepareStatement(insert, Statement.RETURN_GENERATED_KEYS)) {
            for (int n = 0; n < 6; n++) {
                p.setString(1, "p" + n);
                p.setInt(2, n);
                p.executeUpdate();
                keys.add(rows(p.getGeneratedKeys())); // All columns: RETURNING *.
            }
        }
        try (PreparedStatement p = c.prepareStatement(insert, new String[] {"id"})) {
            p.setString(1, "only id");
            p.setInt(2, 1);
            p.executeUpdate();
            keys.add(rows(p.getGeneratedKeys()));
        }
        try (PreparedStatement p = c.prepareStatement("UPDATE item SET qty = qty + 1 WHERE qty > ?")) {
            for (int n = 0; n < 5; n++) {
                p.setInt(1, n);
                keys.add(p.executeUpdate());
            }
        }
        say("prepared", keys);
    }

    static void batch(Connection c) throws Exception {
        c.setAutoCommit(false);
        String insert = "INSERT INTO item (name, qty) VALUES (?, ?)";
        try (PreparedStatement p = c.prepareStatement(insert, new String[] {"id"})) {
            for (int n = 0; n < 300; n++) {
                p.setString(1, "b" + n);
                p.setInt(2, n);
                p.addBatch();
            }
            say("batch", Arrays.toString(p.executeBatch()), rows(p.getGeneratedKeys()));
        }
        c.commit();
        int base = Integer.parseInt(query(c, "SELECT 10000 + count(*) FROM bulk").replaceAll("[^0-9]", ""));
        try (PreparedStatement p = c.prepareStatement("INSERT INTO bulk VALUES (?, ?)")) {
            for (int n = 0; n < 300; n++) { // The key is given: it is evident.
                p.setInt(1, base + n);
                p.setString(2, "b" + n);
                p.addBatch();
            }
            say("batch", Arrays.toString(p.executeBatch()));
        }
        c.commit();
        try (PreparedStatement p = c.prepareStatement("INSERT INTO account VALUES (?, 1)")) {
            for (int id : new int[] {50, 1, 51}) {
                p.setInt(1, id);
                p.addBatch();
            }
            failing("batch error", p::executeBatch);
        }
        c.rollback();
        try (Statement s = c.createStatement()) {
            s.addBatch("UPDATE item SET qty = 0 WHERE id = 1");
            s.addBatch("INSERT INTO item (name, qty) VALUES ('s', 1)");
            s.addBatch("DELETE FROM item WHERE name = 'b1'");
            say("statements", Arrays.toString(s.executeBatch()));
        }
        c.commit();
    }

    static void cursor(Connection c) throws Exception {
        c.setAutoCommit(false);
        try (Statement s = c.createStatement()) {
            s.setFetchSize(3); // A portal, some rows at a time, with writes between.
            ResultSet rows = s.executeQuery("SELECT id FROM item ORDER BY id");
            int seen = 0;
            while (rows.next()) {
                try (PreparedStatement p = c.prepareStatement("UPDATE item SET qty = qty * 2 WHERE id = ?")) {
                    p.setInt(1, rows.getInt(1));
                    seen += p.executeUpdate();
                }
            }
            say("cursor", seen);
        }
        c.commit();
    }

    static void copy(Connection c) throws Exception {
        CopyManager copy = c.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder text = new StringBuilder();
        for (int n = 0; n < 1000; n++) {
            text.append(n).append("\tword ").append(n).append('\n');
        }
        say("copy", copy.copyIn("COPY bulk FROM STDIN", new StringReader(text.toString())));
        StringWriter out = new StringWriter();
        say("copy out", copy.copyOut("COPY (SELECT * FROM bulk ORDER BY id) TO STDOUT CSV", out), out.toString().hashCode());
        failing("copy error", () -> copy.copyIn("COPY bulk FROM STDIN", new StringReader("2000\tlost\n1\tthere\n")));
    }

    static void cancel(Connection c) throws Exception {
        int pid = c.unwrap(PGConnection.class).getBackendPID();
        try (Statement statement = c.createStatement()) {
            Thread thread = new Thread(() -> cancelWhenAsleep(statement, pid));
            thread.start();
            failing("cancelled", () ->
                statement.executeUpdate("UPDATE account SET balance = 7 WHERE id = 1 AND pg_sleep(60) IS NOT NULL"));
            thread.join();
        }
        say("after cancel", query(c, "SELECT balance FROM account WHERE id = 1"));
    }

    static void cancelWhenAsleep(Statement statement, int pid) {
        String asleep = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = " + pid;
        try (Connection watcher = connect()) {
            while (query(watcher, asleep).equals("[]")) {
                Thread.onSpinWait();
            }
            statement.cancel();
        } catch (SQLException error) {
            throw new IllegalStateException(error);
        }
    }

    static void errors(Connection c) throws Exception {
        List<String> wrong = List.of("INSERT INTO account VALUES (1, 1)", "SELECT nope",
            "UPDATE account SET balance = -1", "SELEC");
        for (String text : wrong) {
            try (Statement s = c.createStatement()) {
                failing("error", () -> s.execute(text));
            }
        }
        say("after errors", query(c, "SELECT 1"));
    }

    static void transactions(Connection c) throws Exception {
        c.setAutoCommit(false);
        try (Statement s = c.createStatement()) {
            s.executeUpdate("UPDATE account SET balance = balance - 10 WHERE id = 1");
            Savepoint here = c.setSavepoint();
            s.executeUpdate("UPDATE account SET balance = balance + 1000 WHERE id = 2");
            failing("check", () -> s.executeUpdate("UPDATE account SET balance = balance - 1000 WHERE id = 1"));
            failing("aborted", () -> s.executeQuery("SELECT 1"));
            c.rollback(here);
            s.executeUpdate("UPDATE account SET balance = balance + 10 WHERE id = 2");
            c.commit();
            s.executeUpdate("DELETE FROM account");
            c.rollback();
        }
        say("accounts", query(c, "SELECT * FROM account ORDER BY id"));
    }

    static void simple(Connection c) throws Exception {
        try (PreparedStatement p = c.prepareStatement("INSERT INTO item (name, qty) VALUES (?, ?) RETURNING id, name")) {
            p.setString(1, "it's \\ simple");
            p.setInt(2, -1);
            say("simple", rows(p.executeQuery()));
        }
    }

    interface Attempt {
        void run() throws Exception;
    }

    static void failing(String step, Attempt attempt) throws Exception {
        try {
            attempt.run();
            say(step, "succeeded");
        } catch (SQLException error) {
            say(step, error.getSQLState(), error.getMessage());
        }
    }

    static String query(Connection c, String text) throws SQLException {
        try (Statement s = c.createStatement()) {
            return rows(s.executeQuery(text));
        }
    }

    static String rows(ResultSet rows) throws SQLException {
        List<String> all = new ArrayList<>();
        int columns = rows.getMetaData().getColumnCount();
        while (rows.next()) {
            List<String> row = new ArrayList<>();
            for (int at = 1; at <= columns; at++) {
                String type = rows.getMetaData().getColumnTypeName(at);
                row.add(type + "=" + (type.equals("bytea") ? Arrays.toString(rows.getBytes(at)) : rows.getString(at)));
            }
            all.add(row.toString());
        }
        return all.toString();
    }

    /** A line of JSON: all that is seen, as strings. */
    static void say(Object... seen) {
        List<String> quoted = new ArrayList<>();
        for (Object one : seen) {
            String text = String.valueOf(one).replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n");
            quoted.add('"' + text + '"');
        }
        System.out.println("[" + String.join(", ", quoted) + "]");
    }
}
