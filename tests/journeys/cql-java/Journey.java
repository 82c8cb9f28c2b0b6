// The journey with Java's driver 4: every type, batches, conditions, pages, a changing schema, traces.

import com.datastax.oss.driver.api.core.CqlSession;
import com.datastax.oss.driver.api.core.CqlSessionBuilder;
import com.datastax.oss.driver.api.core.DefaultConsistencyLevel;
import com.datastax.oss.driver.api.core.AllNodesFailedException;
import com.datastax.oss.driver.api.core.config.DefaultDriverOption;
import com.datastax.oss.driver.api.core.config.DriverConfigLoader;
import com.datastax.oss.driver.api.core.cql.*;
import com.datastax.oss.driver.api.core.data.CqlDuration;
import com.datastax.oss.driver.api.core.data.TupleValue;
import com.datastax.oss.driver.api.core.data.UdtValue;
import com.datastax.oss.driver.api.core.servererrors.CoordinatorException;
import com.datastax.oss.driver.api.core.type.DataTypes;
import com.datastax.oss.driver.api.core.type.UserDefinedType;
import com.datastax.oss.driver.api.core.type.codec.TypeCodec;
import com.datastax.oss.protocol.internal.util.Bytes;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.*;
import java.util.*;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Journey {
  static final String KEYSPACE = System.getenv("CQL_KEYSPACE");
  static final int VERSION = Integer.parseInt(System.getenv("CQL_VERSION"));
  static final int ROWS = 10_000;
  static CqlSession cql;

  /** A line of what was seen; values as CQL writes them, so that each type has one text. */
  static void say(String step, Object... seen) {
    System.out.println(step + ": " + Arrays.stream(seen).map(String::valueOf).collect(Collectors.joining(" | ")));
  }

  /** Wait for whoever does something to the cluster now. */
  static void turn() throws Exception {
    if (System.getenv("CQL_TURNS") == null) return;
    System.out.println("turn");
    System.in.read();
  }

  static String text(Row row) {
    if (row == null) return "no row";
    List<String> cells = new ArrayList<>();
    for (int n = 0; n < row.size(); n++) {
      TypeCodec<Object> codec = row.codecRegistry().codecFor(row.getType(n));
      cells.add(codec.format(row.isNull(n) ? null : row.get(n, codec)));
    }
    return String.join(", ", cells);
  }

  static String one(String query, Object... bound) {
    return text(cql.execute(SimpleStatement.newInstance(query, bound)).one());
  }

  static List<String> all(String query, Object... bound) {
    return cql.execute(SimpleStatement.newInstance(query, bound)).all().stream().map(Journey::text).collect(Collectors.toList());
  }

  static CqlSession connect() throws Exception {
    var config = DriverConfigLoader.programmaticBuilder()
        .withString(DefaultDriverOption.PROTOCOL_VERSION, "V" + VERSION)
        .withString(DefaultDriverOption.PROTOCOL_COMPRESSION, Optional.ofNullable(System.getenv("CQL_COMPRESSION")).filter(name -> !name.isEmpty()).orElse("none"))
        .withString(DefaultDriverOption.REQUEST_CONSISTENCY, "LOCAL_QUORUM")
        .withString(DefaultDriverOption.LOAD_BALANCING_LOCAL_DATACENTER, "datacenter1")
        .withDuration(DefaultDriverOption.REQUEST_TIMEOUT, Duration.ofSeconds(30))
        .withDuration(DefaultDriverOption.CONNECTION_INIT_QUERY_TIMEOUT, Duration.ofSeconds(20))
        .withDuration(DefaultDriverOption.CONTROL_CONNECTION_TIMEOUT, Duration.ofSeconds(20))
        .withDuration(DefaultDriverOption.METADATA_SCHEMA_WINDOW, Duration.ofMillis(50))
        .withDuration(DefaultDriverOption.METADATA_SCHEMA_REQUEST_TIMEOUT, Duration.ofSeconds(20))
        .withBoolean(DefaultDriverOption.REQUEST_WARN_IF_SET_KEYSPACE, false)
        .build();
    CqlSessionBuilder builder = CqlSession.builder().withConfigLoader(config).withKeyspace(KEYSPACE)
        .addContactPoint(new InetSocketAddress(System.getenv("CQL_HOST"), Integer.parseInt(System.getenv("CQL_PORT"))));
    if (System.getenv("CQL_USER") != null) {
      builder.withAuthCredentials(System.getenv("CQL_USER"), System.getenv("CQL_PASSWORD"));
    }
    if (System.getenv("CQL_CA") != null) {
      KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
      store.load(null, null);
      try (var file = Files.newInputStream(Path.of(System.getenv("CQL_CA")))) {
        store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(file));
      }
      var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
      trust.init(store);
      SSLContext context = SSLContext.getInstance("TLS");
      context.init(null, trust.getTrustManagers(), null);
      builder.withSslContext(context);
    }
    return builder.build();
  }

  static void discover() {
    say("discovered", cql.getContext().getProtocolVersion(), cql.getName() != null, cql.getMetadata().getClusterName().orElse("none"));
    cql.getMetadata().getNodes().values().forEach(node -> say("node", node.getDatacenter(), node.getRack(), node.getState(), node.getHostId() != null, node.getSchemaVersion() != null));
    var tokens = cql.getMetadata().getTokenMap().orElseThrow();
    say("tokens", tokens.getPartitionerName(), tokens.getReplicas(KEYSPACE, ByteBuffer.wrap(new byte[] {1})).size());
    say("agreed", cql.checkSchemaAgreement());
    say("system.local", one("SELECT key, bootstrapped FROM system.local WHERE key = ?", "local"));
  }

  static Map<String, Object> values(UserDefinedType address) throws Exception {
    Map<String, Object> values = new LinkedHashMap<>();
    values.put("ascii", "plain");
    values.put("bigint", Long.MIN_VALUE);
    byte[] bytes = new byte[256];
    for (int n = 0; n < bytes.length; n++) bytes[n] = (byte) n;
    values.put("blob", ByteBuffer.wrap(bytes));
    values.put("boolean", true);
    values.put("decimal", new BigDecimal("-12345678901234567890.123456789"));
    values.put("double", -0.1);
    values.put("float", 1.5f);
    values.put("inet", InetAddress.getByName("2001:db8::1"));
    values.put("int", -1);
    values.put("text", "naïve \uD83D\uDC18 'quote' \\ back");
    values.put("timestamp", Instant.parse("2024-02-29T23:59:59.123Z"));
    values.put("timeuuid", UUID.fromString("01234567-89ab-11ee-8123-456789abcdef"));
    values.put("uuid", UUID.fromString("01234567-89ab-41ee-8123-456789abcdef"));
    values.put("varint", BigInteger.TWO.pow(100).negate());
    if (VERSION >= 4) {
      values.put("date", LocalDate.of(2024, 2, 29));
      values.put("time", LocalTime.of(23, 59, 59, 123456789));
      values.put("smallint", Short.MIN_VALUE);
      values.put("tinyint", Byte.MIN_VALUE);
    }
    if (VERSION >= 5) values.put("duration", CqlDuration.newInstance(14, 3, 1_000_000_007));
    values.put("list<int>", List.of(2, 1, 2));
    values.put("set<text>", new TreeSet<>(List.of("b", "a")));
    values.put("map<text, bigint>", new TreeMap<>(Map.of("b", 2L, "a", 1L)));
    values.put("frozen<list<frozen<map<text, frozen<set<int>>>>>>", List.of(Map.of("x", new TreeSet<>(List.of(3, 1))), Map.of()));
    TupleValue tuple = DataTypes.tupleOf(DataTypes.INT, DataTypes.TEXT, DataTypes.BOOLEAN).newValue(7, null, true);
    values.put("tuple<int, text, boolean>", tuple);
    values.put("frozen<address>", address.newValue("Main", 5));
    values.put("address", address.newValue("Side", null));
    values.put("list<frozen<address>>", List.of(address.newValue("A", 1), address.newValue("B", 2)));
    return values;
  }

  static UserDefinedType address() {
    return cql.getMetadata().getKeyspace(KEYSPACE).flatMap(keyspace -> keyspace.getUserDefinedType("address")).orElseThrow();
  }

  static void schema() throws Exception {
    cql.execute("CREATE TYPE address (street text, no int)");
    int n = 0;
    List<String> columns = new ArrayList<>();
    for (String kind : values(address()).keySet()) columns.add("c" + n++ + " " + kind);
    cql.execute("CREATE TABLE typed (k int PRIMARY KEY, " + String.join(", ", columns) + ")");
    cql.execute("CREATE TABLE item (k int, c int, v text, s text STATIC, PRIMARY KEY (k, c))");
    cql.execute("CREATE TABLE visits (page text PRIMARY KEY, hits counter)");
    cql.execute("CREATE TABLE bulk (k int, c int, v text, PRIMARY KEY (k, c)) WITH CLUSTERING ORDER BY (c DESC)");
    var keyspace = cql.refreshSchema().getKeyspace(KEYSPACE).orElseThrow();
    say("tables", keyspace.getTables().keySet().stream().map(String::valueOf).sorted().collect(Collectors.toList()), keyspace.getTable("item").orElseThrow().getColumns().keySet());
  }

  static void types() throws Exception {
    Map<String, Object> values = values(address());
    String names = IntStream.range(0, values.size()).mapToObj(n -> "c" + n).collect(Collectors.joining(", "));
    String marks = String.join(", ", Collections.nCopies(values.size() + 1, "?"));
    PreparedStatement insert = cql.prepare("INSERT INTO typed (k, " + names + ") VALUES (" + marks + ")");
    List<Object> bound = new ArrayList<>(List.of(1));
    bound.addAll(values.values());
    cql.execute(insert.bind(bound.toArray()));
    Object[] nulls = new Object[bound.size()];
    nulls[0] = 2;
    cql.execute(insert.bind(nulls));
    if (VERSION >= 4) cql.execute(insert.bind(3)); // All others unset.
    int n = 0;
    for (String kind : values.keySet()) {
      say("types", kind, all("SELECT k, c" + n++ + " FROM typed").stream().sorted().collect(Collectors.toList()));
    }
    PreparedStatement select = cql.prepare("SELECT * FROM typed WHERE k = :k");
    say("prepared", cql.execute(select.bind().setInt("k", 1)).one().size(), text(cql.execute(select.bind(9)).one()));
    cql.execute(SimpleStatement.newInstance("INSERT INTO typed (k, c8, c9) VALUES (:k, :c8, :c9)", Map.of("k", 4, "c8", 44, "c9", "named")));
    say("named", one("SELECT c8, c9 FROM typed WHERE k = 4"));
  }

  static void writes() {
    cql.execute(SimpleStatement.newInstance("INSERT INTO item (k, c, v, s) VALUES (1, 1, 'one', 'static')").setQueryTimestamp(1000));
    cql.execute("UPDATE item USING TIMESTAMP 500 SET v = 'lost' WHERE k = 1 AND c = 1");
    say("timestamps", one("SELECT v, writetime(v) AS at, s FROM item WHERE k = 1"));
    cql.execute("DELETE v FROM item WHERE k = 1 AND c = 1");
    say("deleted", all("SELECT c, v, s FROM item WHERE k = 1"));
  }

  static void counters() {
    PreparedStatement add = cql.prepare("UPDATE visits SET hits = hits + ? WHERE page = ?");
    for (long amount : new long[] {5, -2, 10}) cql.execute(add.bind(amount, "home"));
    cql.execute(BatchStatement.newInstance(DefaultBatchType.COUNTER, add.bind(1L, "home"), add.bind(1L, "away")));
    say("counters", new TreeSet<>(all("SELECT page, hits FROM visits")));
  }

  static void conditions() {
    PreparedStatement insert = cql.prepare("INSERT INTO item (k, c, v) VALUES (?, ?, ?) IF NOT EXISTS");
    for (int n = 0; n < 2; n++) say("if not exists", text(cql.execute(insert.bind(2, 1, "new")).one()));
    PreparedStatement update = cql.prepare("UPDATE item SET v = ? WHERE k = 2 AND c = 1 IF v = ?");
    for (String old : List.of("wrong", "new", "new")) say("if", cql.execute(update.bind("newer", old)).wasApplied());
    BatchStatement batch = BatchStatement.newInstance(DefaultBatchType.LOGGED, insert.bind(2, 5, "a"),
        SimpleStatement.newInstance("INSERT INTO item (k, c, v) VALUES (2, 6, 'b')"));
    say("conditional batch", cql.execute(batch.setSerialConsistencyLevel(DefaultConsistencyLevel.LOCAL_SERIAL)).wasApplied(), all("SELECT c, v FROM item WHERE k = 2"));
    var serial = SimpleStatement.newInstance("SELECT v FROM item WHERE k = 2").setConsistencyLevel(DefaultConsistencyLevel.SERIAL);
    say("serial read", cql.execute(serial).all().size());
  }

  static void batches() {
    PreparedStatement insert = cql.prepare("INSERT INTO item (k, c, v) VALUES (?, ?, ?)");
    for (var kind : List.of(DefaultBatchType.LOGGED, DefaultBatchType.UNLOGGED)) {
      int k = 30 + kind.ordinal();
      BatchStatement batch = BatchStatement.newInstance(kind);
      for (int c = 0; c < 3; c++) batch = batch.add(insert.bind(k, c, "batch " + c));
      cql.execute(batch.add(SimpleStatement.newInstance("DELETE FROM item WHERE k = ? AND c = 1", k)));
      say("batch", kind, all("SELECT c, v FROM item WHERE k = ?", k));
    }
    cql.execute("BEGIN BATCH INSERT INTO item (k, c, v) VALUES (34, 1, 'x'); UPDATE item SET s = 'y' WHERE k = 34; APPLY BATCH");
    say("text batch", all("SELECT c, v, s FROM item WHERE k = 34"));
    BatchStatement wide = BatchStatement.newInstance(DefaultBatchType.UNLOGGED);
    for (int n = 0; n < 20; n++) wide = wide.add(insert.bind(100 + n, 1, "wide"));
    var warnings = cql.execute(wide).getExecutionInfo().getWarnings();
    say("warnings", warnings.stream().map(warning -> warning.substring(0, 40)).collect(Collectors.toList()));
  }

  static void pages() throws Exception {
    PreparedStatement insert = cql.prepare("INSERT INTO bulk (k, c, v) VALUES (?, ?, ?)");
    List<Integer> left = IntStream.range(0, ROWS).boxed().collect(Collectors.toList());
    // Some of so many at once come too late on a busy node: what is not known to be there is written again.
    for (int tries = 20; !left.isEmpty() && tries > 0; tries--) {
      List<Integer> late = new ArrayList<>();
      for (int from = 0; from < left.size(); from += 200) {
        Map<Integer, CompletionStage<AsyncResultSet>> going = new LinkedHashMap<>();
        for (int n : left.subList(from, Math.min(from + 200, left.size()))) {
          going.put(n, cql.executeAsync(insert.bind(n % 100, n, "value " + n)));
        }
        for (var one : going.entrySet()) {
          try {
            one.getValue().toCompletableFuture().get();
          } catch (ExecutionException failure) {
            late.add(one.getKey());
          }
        }
      }
      left = late;
    }
    say("inserted", ROWS, left.size());
    int found = 0;
    long sum = 0;
    for (Row row : cql.execute(SimpleStatement.newInstance("SELECT k, c, v FROM bulk").setPageSize(700))) {
      found++;
      sum += row.getInt("c");
    }
    say("paged", found, sum);
    var select = SimpleStatement.newInstance("SELECT k, c FROM bulk").setPageSize(700);
    var first = cql.executeAsync(select).toCompletableFuture().get();
    turn();
    var next = cql.executeAsync(select.setPagingState(first.getExecutionInfo().getPagingState())).toCompletableFuture().get();
    say("resumed", first.remaining(), next.remaining(), text(next.one()));
    PreparedStatement some = cql.prepare("SELECT c FROM bulk WHERE k = ? AND c < ? LIMIT 20");
    say("one partition", cql.execute(some.bind(3, 5000).setPageSize(7)).all().stream().map(Journey::text).collect(Collectors.toList()));
    say("count", one("SELECT count(*) FROM bulk"));
    turn();
  }

  static void schemaChanges() {
    PreparedStatement select = cql.prepare("SELECT * FROM item WHERE k = 34");
    say("before", text(cql.execute(select.bind()).one()));
    cql.execute("ALTER TABLE item ADD extra list<text>");
    cql.execute("UPDATE item SET extra = ['p', 'q'] WHERE k = 34 AND c = 1");
    if (VERSION >= 5) say("executed", text(cql.execute(select.bind()).one()));
    say("after", one("SELECT * FROM item WHERE k = 34 AND c = 1"));
    cql.execute("CREATE TABLE gone (k int PRIMARY KEY)");
    cql.execute("INSERT INTO gone (k) VALUES (1)");
    cql.execute("TRUNCATE gone");
    say("truncated", all("SELECT * FROM gone"));
    cql.execute("DROP TABLE gone");
    say("dropped", cql.refreshSchema().getKeyspace(KEYSPACE).orElseThrow().getTable("gone").isPresent());
  }

  static void traces() {
    var insert = SimpleStatement.newInstance("INSERT INTO item (k, c, v) VALUES (40, 1, 'traced')").setTracing(true);
    QueryTrace trace = cql.execute(insert).getExecutionInfo().getQueryTrace();
    say("trace", trace.getRequestType(), trace.getEvents().size() > 2, trace.getParameters().get("query").equals(insert.getQuery()));
  }

  static void errors() {
    for (String query : List.of("SELEC", "SELECT * FROM nowhere", "INSERT INTO item (k) VALUES ('text')", "CREATE TABLE item (k int PRIMARY KEY)")) {
      try {
        cql.execute(query);
      } catch (CoordinatorException error) {
        say("error", error.getClass().getSimpleName(), error.getMessage().replace(KEYSPACE, "KEYSPACE"));
      }
    }
    try {
      cql.execute(SimpleStatement.newInstance("SELECT * FROM item").setConsistencyLevel(DefaultConsistencyLevel.THREE));
    } catch (AllNodesFailedException error) {
      say("unavailable", error.getAllErrors().values().stream().flatMap(List::stream).map(Throwable::getMessage).collect(Collectors.toList()));
    } catch (CoordinatorException error) {
      say("unavailable", error.getMessage());
    }
    say("still there", one("SELECT c FROM item WHERE k = 34"));
  }

  static void keyspaces() {
    if (VERSION < 5) return;
    var perRequest = SimpleStatement.newInstance("SELECT c FROM item WHERE k = 34").setKeyspace(KEYSPACE);
    say("per request", text(cql.execute(perRequest).one()));
    say("per prepare", text(cql.execute(cql.prepare(perRequest).bind()).one()));
  }

  public static void main(String[] arguments) throws Exception {
    try (CqlSession session = connect()) {
      cql = session;
      travel();
    }
  }

  static void travel() throws Exception {
    discover();
    schema();
    types();
    writes();
    counters();
    conditions();
    batches();
    pages();
    schemaChanges();
    traces();
    errors();
    turn();
    keyspaces();
  }
}
