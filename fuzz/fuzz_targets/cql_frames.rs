//! Any bytes as CQL frames of a client and of a server, compressed or not: read, put and read again without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem::protocol::cql::wire::storm;

fuzz_target!(|script: &[u8]| storm::frames(script));
