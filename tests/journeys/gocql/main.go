// The journey with gocql: every type, batches, conditions, pages, a changing schema, traces.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gocql/gocql"
	"gopkg.in/inf.v0"
)

const (
	rows = 10_000
	// They go on while something is done to the cluster.
	workers = 4
)

var keyspace = os.Getenv("CQL_KEYSPACE")

type address struct {
	Street *string `cql:"street"`
	No     *int    `cql:"no"`
}

// typed is a type, and a value as it is bound and as it is read.
type typed struct {
	kind  string
	value any
	into  func() any
}

func text(value string) *string { return &value }
func number(value int) *int     { return &value }

func into[T any]() func() any { return func() any { return new(T) } }

func values() []typed {
	decimal, _ := new(inf.Dec).SetString("-12345678901234567890.123456789")
	varint, _ := new(big.Int).SetString("-1267650600228229401496703205376", 10)
	timeuuid, _ := gocql.ParseUUID("01234567-89ab-11ee-8123-456789abcdef")
	blob := make([]byte, 256)
	for n := range blob {
		blob[n] = byte(n)
	}
	all := []typed{
		{"ascii", "plain", into[string]()},
		{"bigint", int64(math.MinInt64), into[int64]()},
		{"blob", blob, into[[]byte]()},
		{"boolean", true, into[bool]()},
		{"decimal", decimal, into[inf.Dec]()},
		{"double", -0.1, into[float64]()},
		{"float", float32(1.5), into[float32]()},
		{"inet", net.ParseIP("2001:db8::1"), into[net.IP]()},
		{"int", -1, into[int]()},
		{"text", "naïve \U0001f418 'quote' \\ back", into[string]()},
		{"timestamp", time.Date(2024, 2, 29, 23, 59, 59, 123_000_000, time.UTC), into[time.Time]()},
		{"timeuuid", timeuuid, into[gocql.UUID]()},
		{"uuid", timeuuid, into[gocql.UUID]()},
		{"varint", varint, into[big.Int]()},
		{"list<int>", []int{2, 1, 2}, into[[]int]()},
		{"set<text>", []string{"a", "b"}, into[[]string]()},
		{"map<text, bigint>", map[string]int64{"b": 2, "a": 1}, into[map[string]int64]()},
		{"frozen<list<frozen<map<text, frozen<set<int>>>>>>", []map[string][]int{{"x": {1, 3}}, {}}, into[[]map[string][]int]()},
		{"tuple<int, text, boolean>", "(7, null, true)", nil},
		{"frozen<address>", address{text("Main"), number(5)}, into[address]()},
		{"address", address{text("Side"), nil}, into[address]()},
		{"list<frozen<address>>", []address{{text("A"), number(1)}, {text("B"), number(2)}}, into[[]address]()},
	}
	if os.Getenv("CQL_VERSION") >= "4" {
		all = append(all,
			typed{"date", time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC), into[time.Time]()},
			typed{"time", 86_399_123_456_789 * time.Nanosecond, into[time.Duration]()},
			typed{"smallint", int16(math.MinInt16), into[int16]()},
			typed{"tinyint", int8(math.MinInt8), into[int8]()},
		)
	}
	if os.Getenv("CQL_VERSION") >= "5" {
		all = append(all, typed{"duration", gocql.Duration{Months: 14, Days: 3, Nanoseconds: 1_000_000_007}, into[gocql.Duration]()})
	}
	return all
}

func say(step string, seen ...any) {
	line, err := json.Marshal(append([]any{step}, seen...))
	check(err)
	fmt.Println(string(line))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func connect() *gocql.Session {
	port, err := strconv.Atoi(os.Getenv("CQL_PORT"))
	check(err)
	version, err := strconv.Atoi(os.Getenv("CQL_VERSION"))
	check(err)
	cluster := gocql.NewCluster(os.Getenv("CQL_HOST"))
	cluster.Port, cluster.ProtoVersion, cluster.Keyspace = port, version, keyspace
	cluster.Consistency, cluster.Timeout, cluster.ConnectTimeout = gocql.LocalQuorum, 30*time.Second, 20*time.Second
	cluster.PoolConfig.HostSelectionPolicy = gocql.TokenAwareHostPolicy(gocql.DCAwareRoundRobinPolicy("datacenter1"))
	if os.Getenv("CQL_COMPRESSION") == "snappy" {
		cluster.Compressor = &gocql.SnappyCompressor{}
	}
	if user := os.Getenv("CQL_USER"); user != "" {
		cluster.Authenticator = gocql.PasswordAuthenticator{Username: user, Password: os.Getenv("CQL_PASSWORD")}
	}
	if ca := os.Getenv("CQL_CA"); ca != "" {
		roots, pem := x509.NewCertPool(), []byte{}
		pem, err = os.ReadFile(ca)
		check(err)
		roots.AppendCertsFromPEM(pem)
		cluster.SslOpts = &gocql.SslOptions{Config: &tls.Config{RootCAs: roots, ServerName: "localhost"}, EnableHostVerification: true}
	}
	session, err := cluster.CreateSession()
	check(err)
	return session
}

func all(session *gocql.Session, query string, bound ...any) []map[string]any {
	found, err := session.Query(query, bound...).Iter().SliceMap()
	check(err)
	return found
}

func run(session *gocql.Session, query string, bound ...any) {
	if err := session.Query(query, bound...).Exec(); err != nil {
		panic(fmt.Sprintf("%s: %v", query, err))
	}
}

func discover(session *gocql.Session) {
	for _, row := range all(session, "SELECT key, cluster_name, data_center, rack, partitioner FROM system.local WHERE key = ?", "local") {
		say("discovered", row)
	}
}

func schema(session *gocql.Session) {
	columns := make([]string, 0)
	for n, one := range values() {
		columns = append(columns, fmt.Sprintf("c%d %s", n, one.kind))
	}
	for _, query := range []string{
		"CREATE TYPE address (street text, no int)",
		fmt.Sprintf("CREATE TABLE typed (k int PRIMARY KEY, %s)", strings.Join(columns, ", ")),
		"CREATE TABLE item (k int, c int, v text, s text STATIC, PRIMARY KEY (k, c))",
		"CREATE TABLE visits (page text PRIMARY KEY, hits counter)",
		"CREATE TABLE bulk (k int, c int, v text, PRIMARY KEY (k, c)) WITH CLUSTERING ORDER BY (c DESC)",
		"CREATE TABLE busy (k int, c int, v int, PRIMARY KEY (k, c))",
		"CREATE TABLE busy_hits (page text PRIMARY KEY, hits counter)",
		"CREATE TABLE busy_once (k int PRIMARY KEY, v int)",
	} {
		run(session, query)
	}
	check(session.AwaitSchemaAgreement(context.Background()))
	found, err := session.KeyspaceMetadata(keyspace)
	check(err)
	// The driver learns of them by events, which it collects for a second.
	for len(found.Tables) < 7 {
		time.Sleep(50 * time.Millisecond)
		found, err = session.KeyspaceMetadata(keyspace)
		check(err)
	}
	names := make([]string, 0)
	for name := range found.Tables {
		names = append(names, name)
	}
	sort.Strings(names)
	say("tables", names, found.Tables["item"].OrderedColumns)
}

func types(session *gocql.Session) {
	run(session, "INSERT INTO typed (k) VALUES (?)", 2)
	for n, one := range values() {
		insert := fmt.Sprintf("INSERT INTO typed (k, c%d) VALUES (?, ?)", n)
		// This driver reads a tuple part by part, and cannot bind one to a marker; nor can it bind null to a type of users.
		if one.into == nil {
			run(session, fmt.Sprintf("INSERT INTO typed (k, c%d) VALUES (1, %s)", n, one.value))
		} else {
			run(session, insert, 1, one.value)
		}
		if one.into != nil && !strings.HasSuffix(one.kind, "address") && !strings.HasPrefix(one.kind, "frozen<address") {
			run(session, insert, 2, nil)
		}
		query := session.Query(fmt.Sprintf("SELECT c%d FROM typed WHERE k = ?", n), 1)
		if one.into == nil {
			var first *int
			var second *string
			var third *bool
			check(query.Scan(&first, &second, &third))
			say("types", one.kind, first, second, third)
			continue
		}
		value := one.into()
		check(query.Scan(value))
		say("types", one.kind, value)
	}
	row := map[string]any{}
	check(session.Query("SELECT * FROM typed WHERE k = 2").MapScan(row))
	say("empty", len(row), row["c0"], row["c8"])
	say("nothing", errors.Is(session.Query("SELECT * FROM typed WHERE k = 9").MapScan(map[string]any{}), gocql.ErrNotFound))
}

func writes(session *gocql.Session) {
	check(session.Query("INSERT INTO item (k, c, v, s) VALUES (?, ?, ?, ?)", 1, 1, "one", "static").WithTimestamp(1000).Exec())
	run(session, "UPDATE item USING TIMESTAMP 500 SET v = 'lost' WHERE k = 1 AND c = 1")
	say("timestamps", all(session, "SELECT v, writetime(v) AS at, s FROM item WHERE k = 1"))
	run(session, "DELETE v FROM item WHERE k = ? AND c = ?", 1, 1)
	say("deleted", all(session, "SELECT c, v, s FROM item WHERE k = 1"))
}

func counters(session *gocql.Session) {
	for _, amount := range []int{5, -2, 10} {
		run(session, "UPDATE visits SET hits = hits + ? WHERE page = ?", amount, "home")
	}
	batch := session.NewBatch(gocql.CounterBatch)
	for _, page := range []string{"home", "away"} {
		batch.Query("UPDATE visits SET hits = hits + ? WHERE page = ?", 1, page)
	}
	check(session.ExecuteBatch(batch))
	for _, page := range []string{"home", "away"} {
		say("counters", all(session, "SELECT page, hits FROM visits WHERE page = ?", page))
	}
}

func conditions(session *gocql.Session, k int) {
	for range 2 {
		found := map[string]any{}
		applied, err := session.Query("INSERT INTO item (k, c, v) VALUES (?, ?, ?) IF NOT EXISTS", k, 1, "new").MapScanCAS(found)
		check(err)
		say("if not exists", applied, found)
	}
	for _, old := range []string{"wrong", "new", "new"} {
		var found string
		applied, err := session.Query("UPDATE item SET v = ? WHERE k = ? AND c = 1 IF v = ?", "newer", k, old).ScanCAS(&found)
		check(err)
		say("if", applied, found)
	}
	batch := session.NewBatch(gocql.LoggedBatch)
	batch.Query("INSERT INTO item (k, c, v) VALUES (?, ?, ?) IF NOT EXISTS", k, 5, "a")
	batch.Query("INSERT INTO item (k, c, v) VALUES (?, ?, ?)", k, 6, "b")
	applied, _, err := session.MapExecuteBatchCAS(batch, map[string]any{})
	check(err)
	say("conditional batch", applied, all(session, "SELECT c, v FROM item WHERE k = ?", k))
	read, err := session.Query("SELECT v FROM item WHERE k = ?", k).Consistency(gocql.Consistency(gocql.Serial)).Iter().SliceMap()
	check(err)
	say("serial read", read)
}

func batches(session *gocql.Session, from int) {
	for _, kind := range []gocql.BatchType{gocql.LoggedBatch, gocql.UnloggedBatch} {
		batch := session.NewBatch(kind)
		for c := range 3 {
			batch.Query("INSERT INTO item (k, c, v) VALUES (?, ?, ?)", from+int(kind), c, fmt.Sprintf("batch %d", c))
		}
		batch.Query(fmt.Sprintf("DELETE FROM item WHERE k = %d AND c = 1", from+int(kind)))
		check(session.ExecuteBatch(batch))
		say("batch", kind, all(session, "SELECT c, v FROM item WHERE k = ?", from+int(kind)))
	}
	text := "BEGIN BATCH INSERT INTO item (k, c, v) VALUES (%[1]d, 1, 'x'); UPDATE item SET s = 'y' WHERE k = %[1]d; APPLY BATCH"
	run(session, fmt.Sprintf(text, from+4))
	say("text batch", all(session, "SELECT c, v, s FROM item WHERE k = ?", from+4))
}

// again does the same with other keys.
func again(session *gocql.Session, from int) {
	counters(session)
	conditions(session, from+2)
	batches(session, from+30)
}

// done is what each worker has done: rows, increments and versions of its own.
var done [workers]int

// work does one more, and looks whether what was acknowledged is there.
func work(session *gocql.Session, k int) {
	done[k]++
	n := done[k]
	run(session, "INSERT INTO busy (k, c, v) VALUES (?, ?, ?)", k, n, n)
	read := 0
	check(session.Query("SELECT v FROM busy WHERE k = ? AND c = ?", k, n).Scan(&read))
	if read != n {
		panic(fmt.Sprintf("worker %d finds %d for %d", k, read, n))
	}
	run(session, "UPDATE busy_hits SET hits = hits + ? WHERE page = ?", 1, strconv.Itoa(k))
	decision := session.Query("UPDATE busy_once SET v = ? WHERE k = ? IF v = ?", n, k, n-1)
	if n == 1 {
		decision = session.Query("INSERT INTO busy_once (k, v) VALUES (?, ?) IF NOT EXISTS", k, n)
	}
	applied, err := decision.MapScanCAS(map[string]any{})
	check(err)
	if !applied {
		panic(fmt.Sprintf("version %d of worker %d is not decided", n, k))
	}
	batch := session.NewBatch(gocql.LoggedBatch)
	for _, c := range []int{n, -n} {
		batch.Query("INSERT INTO busy (k, c, v) VALUES (?, ?, ?)", k, c, n)
	}
	check(session.ExecuteBatch(batch))
}

var input = bufio.NewReader(os.Stdin)

// turn lets whoever does something to the cluster do it now; nobody who works meanwhile may notice.
func turn(session *gocql.Session) {
	over := make(chan struct{})
	var working sync.WaitGroup
	for k := range workers {
		working.Add(1)
		go func() {
			defer working.Done()
			for least := 5; ; least-- {
				work(session, k)
				select {
				case <-over:
					if least <= 1 {
						return
					}
				case <-time.After(20 * time.Millisecond):
				}
			}
		}()
	}
	if os.Getenv("CQL_TURNS") != "" {
		fmt.Println("turn")
		_, err := input.ReadString('\n')
		check(err)
	}
	close(over)
	working.Wait()
	for k := range workers {
		count, hits, version := 0, 0, 0
		check(session.Query("SELECT count(*) FROM busy WHERE k = ?", k).Scan(&count))
		check(session.Query("SELECT hits FROM busy_hits WHERE page = ?", strconv.Itoa(k)).Scan(&hits))
		check(session.Query("SELECT v FROM busy_once WHERE k = ?", k).Scan(&version))
		say("worked", count-2*done[k], hits-done[k], version-done[k])
	}
}

// resume reads the next page, and returns where the one after it begins.
func resume(session *gocql.Session, state []byte) []byte {
	k, c := 0, 0
	page := session.Query("SELECT k, c FROM bulk").PageSize(700).PageState(state).Iter()
	state = page.PageState()
	say("page", page.NumRows(), page.Scan(&k, &c), k, c)
	check(page.Close())
	return state
}

func pages(session *gocql.Session) {
	numbers, failed := make(chan int), make(chan error, rows)
	var inserting sync.WaitGroup
	for range 64 {
		inserting.Add(1)
		go func() {
			defer inserting.Done()
			for n := range numbers {
				// Some of so many at once come too late on a busy node.
				err := errors.New("not tried")
				for tries := 20; err != nil && tries > 0; tries-- {
					err = session.Query("INSERT INTO bulk (k, c, v) VALUES (?, ?, ?)", n%100, n, fmt.Sprintf("value %d", n)).Exec()
				}
				if err != nil {
					failed <- err
				}
			}
		}()
	}
	for n := range rows {
		numbers <- n
	}
	close(numbers)
	inserting.Wait()
	say("inserted", rows, len(failed))
	found, sum, k, c, v := 0, 0, 0, 0, ""
	state := resume(session, nil)
	scanner := session.Query("SELECT k, c, v FROM bulk").PageSize(700).Iter()
	for scanner.Scan(&k, &c, &v) {
		found, sum = found+1, sum+c
		if found == 2000 || found == 6000 {
			turn(session)
			again(session, found)
			state = resume(session, state)
		}
	}
	check(scanner.Close())
	say("paged", found, sum)
	some := make([]int, 0)
	limited := session.Query("SELECT c FROM bulk WHERE k = ? AND c < ? LIMIT 20", 3, 5000).PageSize(7).Iter()
	for limited.Scan(&c) {
		some = append(some, c)
	}
	check(limited.Close())
	say("one partition", some)
	say("count", all(session, "SELECT count(*) FROM bulk"))
}

func schemaChanges(session *gocql.Session) {
	say("before", len(all(session, "SELECT * FROM item WHERE k = ?", 34)[0]))
	run(session, "ALTER TABLE item ADD extra list<text>")
	check(session.AwaitSchemaAgreement(context.Background()))
	run(session, "UPDATE item SET extra = ? WHERE k = ? AND c = ?", []string{"p", "q"}, 34, 1)
	say("after", all(session, "SELECT * FROM item WHERE k = ? AND c = 1", 34))
	run(session, "CREATE TABLE gone (k int PRIMARY KEY)")
	run(session, "INSERT INTO gone (k) VALUES (?)", 1)
	run(session, "TRUNCATE gone")
	say("truncated", all(session, "SELECT * FROM gone"))
	run(session, "DROP TABLE gone")
	say("dropped", session.Query("SELECT * FROM gone").Exec() != nil)
}

func traces(session *gocql.Session) {
	var seen bytes.Buffer
	query := session.Query("INSERT INTO item (k, c, v) VALUES (?, ?, ?)", 40, 1, "traced")
	check(query.Trace(gocql.NewTraceWriter(session, &seen)).Exec())
	say("trace", strings.Contains(seen.String(), "Tracing session"))
}

func mistakes(session *gocql.Session) {
	for _, query := range []string{
		"SELEC",
		"SELECT * FROM nowhere",
		"INSERT INTO item (k) VALUES ('text')",
		"CREATE TABLE item (k int PRIMARY KEY)",
	} {
		var coded gocql.RequestError
		err := session.Query(query).Exec()
		say("error", errors.As(err, &coded), coded.Code(), strings.ReplaceAll(coded.Message(), keyspace, "KEYSPACE"))
	}
	var unavailable *gocql.RequestErrUnavailable
	err := session.Query("SELECT * FROM item WHERE k = ?", 34).Consistency(gocql.Three).Exec()
	say("unavailable", errors.As(err, &unavailable), unavailable.Required, unavailable.Alive)
	say("still there", all(session, "SELECT c FROM item WHERE k = ?", 34))
}

func main() {
	session := connect()
	defer session.Close()
	for _, step := range []func(*gocql.Session){discover, schema, types, writes} {
		step(session)
	}
	again(session, 0)
	for _, step := range []func(*gocql.Session){pages, schemaChanges, traces, mistakes, turn} {
		step(session)
	}
}
