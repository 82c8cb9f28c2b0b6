import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.Random;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.ds.PGSimpleDataSource;

/** A load through HikariCP: statements that the driver names at the fifth execution, batches, portals with a fetch size. */
public class Load {
    static final int ROWS = 4;
    static final int ACCOUNTS = 8;
    static int workers;
    static volatile boolean stopped;
    static volatile boolean silent;

    static final AtomicInteger units = new AtomicInteger();
    static final AtomicInteger moves = new AtomicInteger();
    static final AtomicInteger opened = new AtomicInteger();
    static final Queue<String> errors = new ConcurrentLinkedQueue<>();
    static final Queue<String> stale = new ConcurrentLinkedQueue<>();
    static final Queue<String> lost = new ConcurrentLinkedQueue<>();
    static final Queue<String> entries = new ConcurrentLinkedQueue<>();
    static final Map<String, Long> versions = new ConcurrentHashMap<>();
    static final Map<String, AtomicInteger> heard = new ConcurrentHashMap<>();
    static final Map<String, Boolean> notified = new ConcurrentHashMap<>();
    /** What was set last on each connection of the driver. */
    static final Map<PGConnection, String[]> settings = new ConcurrentHashMap<>();

    public static void main(String[] args) throws Exception {
        workers = Integer.parseInt(args[0]);
        Connection ear = source().getConnection();
        execute(ear, "LISTEN jdbc");
        Thread listener = new Thread(() -> listen(ear));
        listener.start();
        HikariConfig config = new HikariConfig();
        config.setDataSource(source());
        config.setMaximumPoolSize(workers);
        // The driver's default; connections are not closed by their age while the test goes on.
        config.setMaxLifetime(0);
        try (HikariDataSource pool = new HikariDataSource(config)) {
            prepare(pool);
            List<Thread> threads = new ArrayList<>();
            for (int number = 0; number < workers; number++) {
                threads.add(new Thread(new Worker(pool, number)));
            }
            threads.forEach(Thread::start);
            while (System.in.read() >= 0) {
                continue;
            }
            stopped = true;
            for (Thread thread : threads) {
                thread.join();
            }
            for (int n = 0; n < 200 && !unheard().isEmpty(); n++) {
                Thread.sleep(50);
            }
        }
        silent = true;
        listener.join();
        ear.close();
        say();
    }

    static PGSimpleDataSource source() {
        PGSimpleDataSource source = new PGSimpleDataSource() {
            @Override
            public Connection getConnection() throws SQLException {
                Connection connection = super.getConnection();
                greet(connection);
                return connection;
            }
        };
        source.setServerNames(new String[] {System.getenv("PGHOST")});
        source.setPortNumbers(new int[] {Integer.parseInt(System.getenv("PGPORT"))});
        source.setDatabaseName(System.getenv("PGDATABASE"));
        source.setUser(System.getenv("PGUSER"));
        source.setPassword(System.getenv("PGPASSWORD"));
        source.setSslMode("disable");
        return source;
    }

    /** A connection of the pool is new: none should be after the first ones, and the listener's. */
    static void greet(Connection connection) throws SQLException {
        int number = opened.incrementAndGet();
        String[] set = {name(number), (4000 + number) + "kB"};
        execute(connection, "SET work_mem = '" + set[1] + "'; SET app.worker = '" + set[0] + "'");
        settings.put(connection.unwrap(PGConnection.class), set);
    }

    static void prepare(HikariDataSource pool) throws SQLException {
        try (Connection c = pool.getConnection(); PreparedStatement p = c.prepareStatement("INSERT INTO versions VALUES (?, ?, 0)")) {
            for (int number = 0; number < workers; number++) {
                for (int row = 0; row < ROWS; row++) {
                    p.setString(1, name(number));
                    p.setInt(2, row);
                    p.executeUpdate();
                    versions.put(name(number) + "|" + row, 0L);
                }
            }
        }
    }

    static void listen(Connection ear) {
        try {
            while (!silent) {
                PGNotification[] some = ear.unwrap(PGConnection.class).getNotifications(200);
                for (PGNotification one : some == null ? new PGNotification[0] : some) {
                    heard.computeIfAbsent(one.getParameter(), text -> new AtomicInteger()).incrementAndGet();
                }
            }
        } catch (SQLException error) {
            failed("listen", error);
        }
    }

    interface Unit {
        void run(Connection connection) throws Exception;
    }

    static class Worker implements Runnable {
        final HikariDataSource pool;
        final String name;
        final Random dice;
        int seq;

        Worker(HikariDataSource pool, int number) {
            this.pool = pool;
            this.name = Load.name(number);
            this.dice = new Random(number);
        }

        @Override
        public void run() {
            List<Unit> all = List.of(this::entry, this::entries, this::version, this::version, this::read, this::read,
                this::transfer, this::givenUp, this::portal, this::set, this::notifies);
            while (!stopped) {
                int at = dice.nextInt(all.size());
                try (Connection connection = pool.getConnection()) {
                    all.get(at).run(connection);
                    check(connection);
                    int done = units.incrementAndGet();
                    if (done % 10 == 0) {
                        System.out.println(done);
                    }
                } catch (Exception error) {
                    failed("unit " + at, error);
                }
                pause(dice.nextInt(10));
            }
        }

        int next() {
            return ++seq;
        }

        void entry(Connection c) throws SQLException {
            int seq = next();
            String text = "INSERT INTO entries (worker, seq) VALUES (?, ?)";
            try (PreparedStatement p = c.prepareStatement(text, new String[] {"id"})) {
                p.setString(1, name);
                p.setInt(2, seq);
                p.executeUpdate();
                noted(p.getGeneratedKeys(), seq);
            }
        }

        /** A batch in a transaction: one round trip. */
        void entries(Connection c) throws SQLException {
            c.setAutoCommit(false);
            String text = "INSERT INTO entries (worker, seq) VALUES (?, ?)";
            try (PreparedStatement p = c.prepareStatement(text, new String[] {"id"})) {
                int first = seq + 1;
                for (int n = 0; n < 3; n++) {
                    p.setString(1, name);
                    p.setInt(2, next());
                    p.addBatch();
                }
                p.executeBatch();
                c.commit();
                noted(p.getGeneratedKeys(), first);
            } finally {
                c.setAutoCommit(true);
            }
        }

        void noted(ResultSet keys, int seq) throws SQLException {
            while (keys.next()) {
                entries.add("[" + keys.getLong(1) + ", " + quoted(name) + ", " + seq++ + "]");
            }
        }

        void version(Connection c) throws SQLException {
            int row = dice.nextInt(ROWS);
            long version = versions.get(name + "|" + row) + 1;
            try (PreparedStatement p = c.prepareStatement("UPDATE versions SET version = ? WHERE worker = ? AND row = ?")) {
                p.setLong(1, version);
                p.setString(2, name);
                p.setInt(3, row);
                int written = p.executeUpdate();
                if (written != 1) {
                    throw new SQLException("wrote " + written + " rows");
                }
            }
            versions.put(name + "|" + row, version);
        }

        /** What any worker of the program was told. */
        void read(Connection c) throws SQLException {
            String worker = Load.name(dice.nextInt(workers));
            int row = dice.nextInt(ROWS);
            long told = versions.get(worker + "|" + row);
            try (PreparedStatement p = c.prepareStatement("SELECT version FROM versions WHERE worker = ? AND row = ?")) {
                p.setString(1, worker);
                p.setInt(2, row);
                seen(worker, told, p.executeQuery());
            }
        }

        void seen(String worker, long told, ResultSet rows) throws SQLException {
            long sum = -1;
            while (rows.next()) {
                sum = Math.max(sum, 0) + rows.getLong(1);
            }
            if (sum < told) {
                stale.add(worker + " is " + sum + ", told " + told + " before");
            }
        }

        void transfer(Connection c) throws SQLException {
            int lower = dice.nextInt(ACCOUNTS - 1);
            int upper = lower + 1 + dice.nextInt(ACCOUNTS - 1 - lower);
            int amount = 1 + dice.nextInt(99);
            c.setAutoCommit(false);
            try (PreparedStatement p = c.prepareStatement("UPDATE accounts SET balance = balance + ?, moves = moves + 1 WHERE id = ?")) {
                for (int side = 0; side < 2; side++) {
                    p.setInt(1, side == 0 ? amount : -amount);
                    p.setInt(2, side == 0 ? lower : upper);
                    p.executeUpdate();
                }
                c.commit();
            } finally {
                c.setAutoCommit(true);
            }
            moves.incrementAndGet();
        }

        /** Nothing of it may ever be seen. */
        void givenUp(Connection c) throws SQLException {
            c.setAutoCommit(false);
            execute(c, "INSERT INTO entries (worker, seq) VALUES ('" + name + "', -1)");
            execute(c, "UPDATE versions SET version = 0 WHERE worker = '" + name + "'");
            c.rollback();
            c.setAutoCommit(true);
        }

        /** A portal that is read three rows at a time. */
        void portal(Connection c) throws SQLException {
            long told = 0;
            for (int row = 0; row < ROWS; row++) {
                told += versions.get(name + "|" + row);
            }
            c.setAutoCommit(false);
            try (PreparedStatement p = c.prepareStatement("SELECT version FROM versions WHERE worker = ? ORDER BY row")) {
                p.setFetchSize(3);
                p.setString(1, name);
                seen(name, told, p.executeQuery());
                c.commit();
            } finally {
                c.setAutoCommit(true);
            }
        }

        void set(Connection c) throws SQLException {
            String value = name + " " + next();
            execute(c, "SET app.worker = '" + value + "'");
            settings.get(c.unwrap(PGConnection.class))[0] = value;
        }

        void check(Connection c) throws SQLException {
            String text = "SELECT current_setting('app.worker'), current_setting('work_mem')";
            try (PreparedStatement p = c.prepareStatement(text); ResultSet rows = p.executeQuery()) {
                rows.next();
                String[] found = {rows.getString(1), rows.getString(2)};
                String[] expected = settings.get(c.unwrap(PGConnection.class));
                if (!Arrays.equals(found, expected)) {
                    lost.add(Arrays.toString(found) + ", was set to " + Arrays.toString(expected));
                }
            }
        }

        void notifies(Connection c) throws SQLException {
            String text = name + " " + next();
            try (PreparedStatement p = c.prepareStatement("SELECT pg_notify('jdbc', ?)")) {
                p.setString(1, text);
                p.executeQuery();
            }
            notified.put(text, true);
        }
    }

    static String name(int number) {
        return "pgjdbc " + number;
    }

    static void execute(Connection c, String text) throws SQLException {
        try (Statement s = c.createStatement()) {
            s.execute(text);
        }
    }

    static void failed(String unit, Exception error) {
        String state = error instanceof SQLException ? ((SQLException) error).getSQLState() : error.getClass().getName();
        errors.add(unit + ": " + state + ": " + error.getMessage());
    }

    static void pause(int ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
    }

    static List<String> unheard() {
        return notified.keySet().stream().filter(text -> !heard.containsKey(text)).collect(Collectors.toList());
    }

    /** The last line: a JSON object. */
    static void say() {
        List<String> twice = heard.entrySet().stream().filter(one -> one.getValue().get() > 1).map(Map.Entry::getKey)
            .collect(Collectors.toList());
        List<String> dropped =
            opened.get() == workers + 1 ? List.of() : List.of(opened.get() - 1 + " connections for " + workers);
        List<String> told = new ArrayList<>();
        versions.forEach((key, version) -> {
            String[] parts = key.split("\\|");
            told.add("[" + quoted(parts[0]) + ", " + parts[1] + ", " + version + "]");
        });
        System.out.println("{\"units\": " + units + ", \"moves\": " + moves + ", \"notified\": " + notified.size()
            + ", \"wrong\": {\"errors\": " + texts(errors) + ", \"stale\": " + texts(stale) + ", \"settings\": " + texts(lost)
            + ", \"unheard\": " + texts(unheard()) + ", \"heard_twice\": " + texts(twice)
            + ", \"dropped\": " + texts(dropped) + "}, \"entries\": " + entries + ", \"versions\": " + told + "}");
    }

    static String texts(Collection<String> texts) {
        return texts.stream().map(Load::quoted).collect(Collectors.joining(", ", "[", "]"));
    }

    static String quoted(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n") + '"';
    }
}
