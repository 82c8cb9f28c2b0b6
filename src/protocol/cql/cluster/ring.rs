//! Where on the ring a key is, and which nodes come first from there. Its replicas are among the first, whatever the
//! replication strategy does about racks and datacenters.

use super::hosts::Host;

/// The token of a key, as `Murmur3Partitioner` has it: the first half of MurmurHash3's 128 bits, seed 0, by Austin Appleby
/// (public domain), but for the last bytes, which Cassandra reads as signed ones. Of several columns: see
/// [`crate::protocol::cql::ballot::row_key`].
pub fn token(key: &[u8]) -> i64 {
    let (blocks, tail) = key.as_chunks::<16>();
    let (mut h1, mut h2) = (0_u64, 0_u64);
    for block in blocks {
        let (k1, k2) = (half(block, 0), half(block, 8));
        h1 = (h1 ^ mixed(k1, C1, 31, C2)).rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 = (h2 ^ mixed(k2, C2, 33, C1)).rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    h2 ^= mixed(signed(tail.get(8..).unwrap_or_default()), C2, 33, C1);
    h1 ^= mixed(signed(tail.get(..8).unwrap_or(tail)), C1, 31, C2);
    h1 ^= key.len() as u64;
    h2 ^= key.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    let token = avalanched(h1).wrapping_add(avalanched(h2)).cast_signed();
    // The least token is no key's.
    if token == i64::MIN { i64::MAX } else { token }
}

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

fn half(block: &[u8; 16], at: usize) -> u64 {
    block[at..at + 8].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

fn mixed(k: u64, by: u64, turn: u32, then: u64) -> u64 {
    k.wrapping_mul(by).rotate_left(turn).wrapping_mul(then)
}

/// Bytes as Java has them: each with its sign, into all the bits above it.
fn signed(bytes: &[u8]) -> u64 {
    let place = |(at, byte): (usize, &u8)| (i64::from(byte.cast_signed()) << (8 * at)).cast_unsigned();
    bytes.iter().enumerate().map(place).fold(0, |all, byte| all ^ byte)
}

fn avalanched(mut k: u64) -> u64 {
    k = (k ^ k >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    k = (k ^ k >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ k >> 33
}

/// The nodes in the order of the ring from a token on. Those without tokens come last.
pub(super) fn from(hosts: &[Host], token: i64) -> Vec<&Host> {
    // A node has what lies up to its token, that included.
    let way = |end: &i64| end.wrapping_sub(token).cast_unsigned();
    let mut all: Vec<(u64, &Host)> =
        hosts.iter().map(|host| (host.tokens.iter().map(way).min().unwrap_or(u64::MAX), host)).collect();
    all.sort_by_key(|(way, _)| *way);
    all.into_iter().map(|(_, host)| host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cql::client::Address;

    /// As servers say: `SELECT token(k)`.
    #[test]
    fn tokens_are_those_of_servers() {
        assert_eq!(token(b"123"), -7_468_325_962_851_647_638);
        assert_eq!(token(&b"\x00\xff\x10\xfa\x99".repeat(10)), 5_837_342_703_291_459_765);
        assert_eq!(token(&b"\xfe".repeat(8)), -8_927_430_733_708_461_935);
        assert_eq!(token(&b"\x10".repeat(8)), 1_446_172_840_243_228_796);
        assert_eq!(token(b"9223372036854775807"), 7_162_290_910_810_015_547);
    }

    #[test]
    fn the_ring_is_walked_from_the_token_on() {
        let host = |name: &str, tokens: &[i64]| Host {
            address: Address { host: name.to_owned(), port: 9042 },
            id: [0; 16],
            peer: None,
            datacenter: String::new(),
            release: String::new(),
            schema: None,
            tokens: tokens.to_vec(),
        };
        let hosts = [host("a", &[-100, 50]), host("b", &[0]), host("c", &[100]), host("d", &[])];
        let names = |token| from(&hosts, token).iter().map(|host| host.address.host.as_str()).collect::<String>();
        assert_eq!(names(0), "bacd");
        assert_eq!(names(1), "acbd");
        assert_eq!(names(101), "abcd");
        assert_eq!(names(i64::MIN), "abcd");
    }
}
