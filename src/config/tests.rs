//! What a configuration means, and what errors say.

use std::time::Duration;

use super::*;

const SMALLEST: &str = r#"
[[listen]]
wire = "postgres"
address = "127.0.0.1:6432"

[origin]
url = "postgres://tandem@127.0.0.1:5432/app"

[target]
url = "postgres://tandem@127.0.0.1:5433/app"
"#;

fn config(text: &str) -> Result<Config, Error> {
    Config::from_text("proxy.toml", text, [])
}

fn with(variables: &[(&str, &str)]) -> Result<Config, Error> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_text("proxy.toml", SMALLEST, variables)
}

fn message(result: Result<Config, Error>) -> String {
    result.expect_err("must be refused").to_string()
}

#[test]
fn the_example_file_is_what_the_declarations_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/proxy.toml.example");
    if std::env::var_os("UPDATE_EXAMPLE").is_some() {
        std::fs::write(path, example()).expect("the project folder can be written");
    }
    let file = std::fs::read_to_string(path).expect("the file is there");
    assert_eq!(file, example(), "run UPDATE_EXAMPLE=1 cargo test config::");
}

#[test]
fn the_example_file_equals_the_defaults() {
    let smallest = config(SMALLEST).expect("valid");
    assert_eq!(config(&example()).expect("valid"), smallest);
    let every_key: String = example()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(every_key.contains("\ndurability ="));
    let users = vec![User { name: "app".to_owned(), password: None }];
    // What the example shows of [[tables]] says nothing by itself.
    let refused = message(config(&every_key));
    assert!(refused.ends_with("[[tables]] needs `to`, `columns` or `filter` beside `from`"), "{refused}");
    let said = every_key.replace("\nfilter = \"\"", "\nfilter = \"a = 7\"");
    let mut found = config(&said).expect("valid");
    assert_eq!(found.tables.drain(..).map(|map| map.filter).collect::<Vec<_>>(), [Some("a = 7".to_owned())]);
    assert_eq!(found, Config { users, ..smallest });
}

#[test]
fn the_smallest_file_is_a_listen_an_origin_and_a_target() {
    let config = config(SMALLEST).expect("valid");
    assert_eq!(config.origin.hosts[0].to_string(), "127.0.0.1:5432");
    assert_eq!(config.target.database, "app");
    assert_eq!(config.journal.durability, Durability::Fsync);
    assert_eq!(config.journal.on_full, OnFull::Dirty);
    assert_eq!(config.mirror.mode, Mode::Async);
    assert_eq!((config.cutover.max_lag, config.cutover.max_hold), (Duration::from_secs(1), Duration::from_secs(5)));
    assert_eq!(config.cutover.immovable, Immovable::Refuse);
    assert!(config.users.is_empty());
}

#[test]
fn an_unknown_key_names_the_nearest_and_the_line() {
    let text = format!("{SMALLEST}\n[journal]\ndir = \"x\"\ndurabilty = \"os\"\n");
    assert_eq!(message(config(&text)), "proxy.toml:14: unknown key `durabilty`: did you mean `durability`?");
    let text = format!("{SMALLEST}\n[jurnal]\n");
    assert_eq!(message(config(&text)), "proxy.toml:12: unknown section `jurnal`: did you mean `journal`?");
}

#[test]
fn a_wrong_value_says_what_is_expected_and_the_line() {
    let text = format!("{SMALLEST}\n[mirror]\nretry_max = 5\n");
    assert_eq!(
        message(config(&text)),
        "proxy.toml:13: `retry_max` must be a duration such as \"300ms\", \"5s\", \"10m\" or \"1h\""
    );
    let text = format!("{SMALLEST}\n[journal]\ndurability = \"maybe\"\n");
    assert_eq!(message(config(&text)), "proxy.toml:13: `durability` must be one of \"memory\" \"os\" \"fsync\"");
    let text = format!("{SMALLEST}\n[journal]\ndir = {{ a = 1 }}\n");
    assert_eq!(message(config(&text)), "proxy.toml:13: `dir` takes a plain value, not this one");
}

#[test]
fn broken_toml_names_the_line() {
    assert!(message(config("[[listen]]\nwire = \n")).starts_with("proxy.toml:2: "));
    assert_eq!(message(config("[listen]\n")), "proxy.toml:1: `listen` is a section: write [[listen]]");
}

#[test]
fn variables_go_before_the_file() {
    let config = with(&[
        ("TANDEM_JOURNAL_DURABILITY", "os"),
        ("TANDEM_MIRROR_ON_UNCAPTURED", "refuse"),
        ("TANDEM_ORIGIN_HOSTS", "db1,db2:7000"),
        ("TANDEM_LISTEN_ADDRESS", "127.0.0.1:1"),
        ("TANDEM_LISTEN_2_WIRE", "postgres"),
        ("TANDEM_LISTEN_2_ADDRESS", "127.0.0.1:2"),
        ("TANDEM_PG_BIN", "not a section"),
        ("TANDEM_LIMITS_LOGIN_TIMEOUT", "1h"),
    ])
    .expect("valid");
    assert_eq!(config.journal.durability, Durability::Os);
    assert_eq!(config.mirror.on_uncaptured, OnUncaptured::Refuse);
    let hosts: Vec<String> = config.origin.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["db1:5432", "db2:7000"]);
    let ports: Vec<u16> = config.listen.iter().map(|listen| listen.address.port()).collect();
    assert_eq!(ports, [1, 2]);
    assert_eq!(config.limits.login_timeout, Duration::from_secs(3600));
}

#[test]
fn a_wrong_variable_is_named() {
    assert_eq!(
        message(with(&[("TANDEM_JOURNAL_DRI", "x")])),
        "environment variable TANDEM_JOURNAL_DRI: unknown key of [journal] `dri`: did you mean `dir`?"
    );
    assert_eq!(
        message(with(&[("TANDEM_LISTEN_999_WIRE", "postgres")])),
        "environment variable TANDEM_LISTEN_999_WIRE: at most 100 [[listen]] come from variables"
    );
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let cases = [
        ("[admin]\naddress = \"0.0.0.0:80\"", "needs `token_file`"),
        ("[mirror]\nsync_timeout = \"0s\"", "above 0s"),
        ("[mirror]\nretry_min = \"20s\"", "at most `retry_max`"),
        ("[mirror]\nowed_keys_max = 0", "at least 1"),
        ("[limits]\nplan_cache = 0", "above 0"),
        ("[cutover]\nmax_hold = \"99ms\"", "at least 100ms: transactions"),
        ("[cutover]\nmax_hold = \"61s\"", "at most 60s: clients"),
        ("[cutover]\nmax_lag = \"0s\"", "above 0s"),
        ("[cutover]\nold_primary = \"readonly\"", "one of \"read_only\" \"watch\""),
        ("[shadow]\nsample = \"two\"", "a share such as"),
        ("[shadow]\nworkers = 0", "between 1 and 64"),
        ("[shadow]\nrecheck = \"0s\"", "`recheck` of [shadow] must be above 0"),
        ("[[users]]\npassword_file = \"x\"", "`name` is missing"),
        ("[[users]]\nname = \"\"", "not be empty"),
        ("[[users]]\nname = \"a\"\n[[users]]\nname = \"a\"", "two [[users]] with the name `a`"),
        ("[[users]]\nname = \"a\"\npassword_file = \"/nonexistent\"", "cannot be read"),
        ("[[listen]]\nwire = \"postgres\"", "`address` is missing"),
        ("[[listen]]\nwire = \"postgres\"\naddress = \"[::1]:1\"\ntls_cert = \"c\"", "tls_key"),
        ("[[listen]]\nwire = \"postgres\"\naddress = \"[::1]:1\"\ntls_required = true", "tls_cert and tls_key"),
        ("[[listen]]\nwire = \"postgres\"\naddress = \"[::1]:1\"\ntls_ca = \"c\"", "tls_ca needs tls_cert"),
        ("tls_key = \"k\"", "`tls_cert` and `tls_key` go together"),
        ("[limits]\nanswer_timeout = \"0s\"", "above 0"),
        ("[admin]\ntoken_file = \"/nonexistent\"", "cannot be read"),
    ];
    for (text, expected) in cases {
        let said = message(config(&format!("{SMALLEST}\n{text}\n")));
        assert!(said.contains(expected), "{text}: {said}");
    }
    assert!(message(config("")).contains("no [[listen]]"));
    assert!(message(config(&SMALLEST.replace("5433", "5432"))).contains("the same database"));
}

const CQL: &str = r#"
[[listen]]
wire = "cql"
address = "127.0.0.1:9042"

[origin]
url = "cql://tandem:a%20secret@a,b:9043,[::1]:9044?sslmode=verify-full&datacenter=east"

[target]
hosts = ["c"]
"#;

#[test]
fn clusters_of_cql_need_only_a_host() {
    let config = config(CQL).expect("valid");
    assert_eq!(config.wire, Wire::Cql);
    let hosts = |server: &Server| server.hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(hosts(&config.origin), ["a:9042", "b:9043", "[::1]:9044"]);
    assert_eq!(config.origin.user, "tandem");
    assert_eq!(config.origin.password.as_ref().map(Secret::reveal), Some("a secret"));
    assert_eq!(config.origin.sslmode, SslMode::VerifyFull);
    assert_eq!(config.origin.datacenter.as_deref(), Some("east"));
    assert_eq!(hosts(&config.target), ["c:9042"]);
    assert_eq!((config.target.user.as_str(), config.target.sslmode), ("", SslMode::Disable));
}

#[test]
fn what_a_wire_has_no_use_for_is_refused() {
    let cases = [
        (CQL.replace("cql://", "postgres://"), "`url` must be like cql://user@host:9042: it begins with cql://"),
        (CQL.replace("hosts = [\"c\"]", "hosts = [\"c\"]\ndatabase = \"app\""), "[target]: CQL has no `database`"),
        (CQL.replace("?sslmode", "/app?sslmode"), "[origin]: CQL has no `database`"),
        (CQL.replace("hosts = [\"c\"]", "hosts = [\"a\"]"), "the same database"),
        (CQL.replace("hosts = [\"c\"]", "hosts = [\"c\"]\ntls_ca = \"ca\""), "[target]: without TLS `tls_ca`"),
        (SMALLEST.replace("5433/app", "5433/app?datacenter=east"), "[target]: `datacenter` is for wire = \"cql\""),
        (SMALLEST.replace("postgres://tandem@127.0.0.1:5433", "cql://h"), "it begins with postgres://"),
    ];
    for (text, expected) in cases {
        let said = message(config(&text));
        assert!(said.contains(expected), "{text}: {said}");
    }
}

#[test]
fn secrets_come_from_files_and_are_not_shown() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let file = dir.path().join("password");
    std::fs::write(&file, "hunter2\n").expect("written");
    let config = with(&[
        ("TANDEM_ORIGIN_PASSWORD_FILE", file.to_str().expect("UTF-8")),
        ("TANDEM_ADMIN_TOKEN_FILE", file.to_str().expect("UTF-8")),
        ("TANDEM_ADMIN_ADDRESS", "0.0.0.0:80"),
        ("TANDEM_TARGET_URL", "postgres://me:hunter2@elsewhere/app"),
        ("TANDEM_USERS_1_NAME", "app"),
        ("TANDEM_USERS_2_NAME", "batch"),
        ("TANDEM_USERS_2_PASSWORD_FILE", file.to_str().expect("UTF-8")),
    ])
    .expect("valid");
    let user = |name: &str, password| User { name: name.to_owned(), password };
    assert_eq!(config.users, [user("app", None), user("batch", Some(Secret::new("hunter2")))]);
    assert_eq!(config.origin.password.as_ref().map(Secret::reveal), Some("hunter2"));
    assert_eq!(config.target.password.as_ref().map(Secret::reveal), Some("hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));
    let said = message(with(&[("TANDEM_TARGET_URL", "postgres://me:hunter2@h/d?x=y")]));
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_table_map_says_what_is_called_otherwise() {
    let maps = |more: &str| config(&format!("{SMALLEST}{more}"));
    let text = "[[tables]]\nfrom = \"public.users\"\nto = \"app.accounts\"\ncolumns = { mail = \"email\", b = \"a\" }\n\
                [[tables]]\nfrom = \"old.*\"\nto = \"new.*\"\n";
    let found = maps(text).expect("valid").tables;
    assert_eq!((found[0].from.as_str(), found[1].to.as_deref()), ("public.users", Some("new.*")));
    let pairs: Vec<_> = found[0].columns.0.iter().map(|(name, other)| format!("{name}={other}")).collect();
    assert_eq!(pairs, ["b=a", "mail=email"]);
    let variables = [("TANDEM_TABLES_1_FROM", "a.b"), ("TANDEM_TABLES_1_COLUMNS", "mail=email")];
    assert_eq!(with(&variables).expect("valid").tables[0].columns.0.len(), 1);
}

#[test]
fn a_table_map_that_makes_no_sense_is_refused() {
    let one = |keys: &str| format!("{SMALLEST}[[tables]]\n{keys}\n");
    for (keys, why) in [
        ("from = \"users\"\nto = \"a.b\"", "with its schema"),
        ("from = \"a.*_*\"\nto = \"b.*\"", "one `*` at most"),
        ("from = \"a.*\"\nto = \"b.c\"", "have a `*` if"),
        ("from = \"a.b\"", "needs `to`"),
        ("from = \"a.b\"\ncolumns = { x = \"z\", y = \"z\" }", "one name on the target"),
        ("from = \"a.b\"\ncolumns = { x = 5 }", "plain value"),
        ("from = \"a.b\"\nto = \"c.d\"\n[[tables]]\nfrom = \"a.b\"\nto = \"c.e\"", "two [[tables]] from `a.b`"),
        ("from = \"a.b\"\nto = \"c.d\"\n[[tables]]\nfrom = \"a.c\"\nto = \"c.d\"", "two [[tables]] to `c.d`"),
    ] {
        let refused = message(config(&one(keys)));
        assert!(refused.contains(why), "{keys}: {refused}");
    }
}

#[test]
fn what_is_only_for_postgresql_is_refused_with_cassandra() {
    let cql = SMALLEST.replace("\"postgres\"", "\"cql\"").replace("postgres://", "cql://").replace("/app", "");
    assert!(config(&cql).is_ok());
    for more in [
        "[mirror]\nexclude = [\"ks.*\"]",
        "[mirror]\ninclude = [\"ks.*\"]",
        "[mirror]\nkeyless = \"copy\"",
        "[cutover]\nold_primary = \"watch\"",
        "[cutover]\nstrangers = \"terminate\"",
        "[limits]\nstatement_bytes = \"1MB\"",
        "[[tables]]\nfrom = \"a.b\"\nto = \"c.d\"",
    ] {
        let refused = message(config(&format!("{cql}{more}\n")));
        assert!(refused.contains("is for PostgreSQL: with cql"), "{refused}");
    }
}

#[test]
fn what_kubernetes_tells_of_a_service_called_tandem_admin_is_not_for_us() {
    let with = |name: &str, value: &str| {
        let config = Config::from_text("proxy.toml", SMALLEST, [(name.to_owned(), value.to_owned())]);
        config.map(|_| ()).map_err(|error| error.to_string())
    };
    for name in ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_6480_TCP", "PORT_6480_TCP_ADDR"] {
        assert_eq!(with(&format!("TANDEM_ADMIN_{name}"), "tcp://10.0.0.1:6480"), Ok(()), "{name}");
    }
    for name in ["TANDEM_ADMIN_ADRESS", "TANDEM_ADMIN_PORT_TCP", "TANDEM_ADMIN_PORTS"] {
        assert!(with(name, "127.0.0.1:1").is_err_and(|why| why.contains("did you mean")), "{name}");
    }
}

#[test]
fn a_pattern_with_a_comma_would_be_two_and_is_refused() {
    let text = format!("{SMALLEST}[shadow]\nstatements = [\"*select a, b from*\"]\n");
    let refused = message(config(&text));
    assert!(refused.contains("`statements` takes a list of values without commas"), "{refused}");
}
