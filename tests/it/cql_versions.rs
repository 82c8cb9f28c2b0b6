//! How a real node greets: what it offers, and what it answers to clients that begin with what it does not speak.

use crate::support::cassandra::pair;
use crate::support::cql::{Cql, Dial, ERROR, Failure, OPTIONS, Out, Parts, QUERY, SUPPORTED};

const PROTOCOL: i32 = 0x000A;

#[test]
fn both_versions_offer_the_same_but_for_the_version_of_cql() {
    for (node, language) in pair().into_iter().zip(["3.4.6", "3.4.7"]) {
        let mut cql = Cql::open(node.address(), &Dial::default()).expect("it listens");
        let answer = cql.say(OPTIONS, 0, &[]);
        assert_eq!(answer.opcode, SUPPORTED);
        let offered = Parts(&answer.body).string_multimap();
        let of = |name: &str| {
            let found = offered.iter().find(|(key, _)| key == name).map(|(_, values)| values.join(" "));
            found.unwrap_or_else(|| panic!("no {name} in {offered:?}"))
        };
        assert_eq!(of("PROTOCOL_VERSIONS"), "3/v3 4/v4 5/v5 6/v6-beta");
        assert_eq!(of("COMPRESSION"), "snappy lz4");
        assert_eq!(of("CQL_VERSION"), language);
    }
}

#[test]
fn versions_that_are_not_spoken_are_refused_on_stream_0_and_the_connection_stays() {
    let unknown = |version: u8| {
        let supported = "supported versions are (3/v3, 4/v4, 5/v5, 6/v6-beta)";
        format!("Invalid or unsupported protocol version ({version}); {supported}")
    };
    for node in pair() {
        for (version, header, message) in
            [(0x07, 0x85, unknown(7)), (0x41, 0x85, unknown(65)), (0x42, 0x85, unknown(66))]
        {
            let mut cql = Cql::open(node.address(), &Dial::default()).expect("it listens");
            cql.send(version, 0, 5, OPTIONS, &[]);
            let answer = cql.receive().expect("an answer");
            assert_eq!((answer.version, answer.stream, answer.opcode), (header, 0, ERROR), "version {version:#x}");
            let failure = Failure::parse(&answer);
            assert_eq!(failure.code, PROTOCOL);
            assert!(failure.message.starts_with(&message), "{}", failure.message);
            assert_eq!(cql.say(OPTIONS, 0, &[]).opcode, SUPPORTED);
        }
    }
}

#[test]
fn the_beta_version_is_refused_for_good() {
    for node in pair() {
        let mut cql = Cql::open(node.address(), &Dial::default()).expect("it listens");
        cql.send(6, 0, 5, OPTIONS, &[]);
        for _ in 0..2 {
            let answer = cql.receive().expect("an answer");
            assert_eq!((answer.version, answer.stream, answer.opcode), (0x86, 0, ERROR));
            let failure = Failure::parse(&answer);
            assert!(failure.message.starts_with("Beta version of the protocol used"), "{failure:?}");
            // The first frame stays where it is, and is refused again whatever comes after it.
            cql.send(4, 0, 6, OPTIONS, &[]);
        }
    }
}

#[test]
fn a_query_before_startup_is_refused_on_stream_0_and_the_connection_stays() {
    for node in pair() {
        let mut cql = Cql::open(node.address(), &Dial::default()).expect("it listens");
        cql.send(4, 0, 5, QUERY, &Out::default().long_string("SELECT * FROM system.local").short(1).byte(0).0);
        let answer = cql.receive().expect("an answer");
        assert_eq!((answer.stream, Failure::parse(&answer).code), (0, PROTOCOL), "{answer:?}");
        assert_eq!(cql.say(OPTIONS, 0, &[]).opcode, SUPPORTED);
    }
}

#[test]
fn v5_offers_snappy_and_refuses_it() {
    for node in pair() {
        let mut cql = Cql::open(node.address(), &Dial { version: 5, ..Dial::default() }).expect("it listens");
        let options = [("CQL_VERSION", "3.0.0"), ("COMPRESSION", "snappy")];
        let failure = cql.startup(&options).expect_err("refused");
        assert!(failure.message.contains("Snappy compression is not supported in protocol V5"), "{failure:?}");
    }
}

#[test]
fn a_negative_stream_id_is_taken_and_echoed() {
    for node in pair() {
        let mut cql = Cql::open(node.address(), &Dial::default()).expect("it listens");
        cql.startup(&[("CQL_VERSION", "3.0.0")]).expect("ready");
        cql.send(4, 0, -7, OPTIONS, &[]);
        let answer = cql.receive().expect("an answer");
        assert_eq!((answer.opcode, answer.stream), (SUPPORTED, -7));
    }
}
