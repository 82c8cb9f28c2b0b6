//! An address of its own for each node. All nodes of a cluster listen on one port, as drivers expect, so they are told apart by
//! their addresses in 127.0.0.0/8, which are all this machine's.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{CQL_PORT, Error};

/// An address that no other sandbox has. It is held by listening on a port of it that nobody else uses, so that the system
/// itself keeps processes apart that look for addresses at the same time, and takes it back however this one ends.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) address: Ipv4Addr,
    _held: TcpListener,
}

/// Nodes talk to each other here.
const STORAGE_PORT: u16 = 7000;
/// Between the ports of Cassandra; nothing is said on it.
const CLAIM_PORT: u16 = 9041;
const TRIES: u32 = 1_000;
static NEXT: AtomicU32 = AtomicU32::new(0);

pub(super) fn claim() -> Result<Claim, Error> {
    let start = std::process::id().wrapping_mul(0x9E37_79B1) >> 8;
    let candidates = (0..TRIES).map(|_| address(start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))));
    candidates.map(try_claim).find_map(Result::ok).ok_or(Error::NoAddress)
}

fn try_claim(address: Ipv4Addr) -> std::io::Result<Claim> {
    let held = TcpListener::bind((address, CLAIM_PORT))?;
    // What a killed process left behind may still be on its way out.
    for port in [CQL_PORT, STORAGE_PORT] {
        TcpListener::bind((address, port))?;
    }
    Ok(Claim { address, _held: held })
}

/// Somewhere in 127.64.0.1 to 127.127.255.254: away from addresses that people type.
fn address(number: u32) -> Ipv4Addr {
    let [_, high, middle, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 63), middle, 1 + low % 254)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_one_until_it_is_let_go() {
        let first = claim().expect("an address");
        let taken = first.address;
        assert!(try_claim(taken).is_err());
        assert_ne!(claim().expect("another").address, taken);
        drop(first);
        // A process that another test starts has the socket too until it executes its program.
        let free = (0..500).any(|_| {
            try_claim(taken).is_ok() || {
                std::thread::sleep(std::time::Duration::from_millis(10));
                false
            }
        });
        assert!(free);
    }

    #[test]
    fn an_address_whose_port_is_in_use_is_left_alone() {
        let claimed = claim().expect("an address").address;
        let _stranger = TcpListener::bind((claimed, CQL_PORT)).expect("free");
        assert!(try_claim(claimed).is_err());
    }
}
