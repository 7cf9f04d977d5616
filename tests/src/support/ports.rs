//! Ports of 127.0.0.1 that are free.

use std::net::TcpListener;
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Below the range from which the kernel takes ports for outgoing connections, so that none of
/// those is in the way when a killed server wants its port back.
const FIRST: u16 = 20_000;
const PAIRS: u16 = 6_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A free port whose successor is free too (a broker takes both); no port is given twice.
///
/// # Panics
/// When no pair of ports is free.
pub fn free_port() -> u16 {
    // Test binaries that run at the same time begin at different places.
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    let seed = process::id().wrapping_mul(2_654_435_761).wrapping_add(nanos);
    let start = u16::try_from(seed % u32::from(PAIRS)).unwrap_or(0);
    let _ = NEXT.compare_exchange(0, start + 1, Ordering::Relaxed, Ordering::Relaxed);
    for _ in 0..PAIRS {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % PAIRS * 2;
        if is_free(port) && is_free(port + 1) {
            return port;
        }
    }
    panic!("no two free ports between {FIRST} and {}", FIRST + PAIRS * 2);
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_in_pairs_and_once() {
        let (first, second) = (free_port(), free_port());
        assert!(first.abs_diff(second) >= 2, "{first} {second}");
        let taken = TcpListener::bind(("127.0.0.1", first));
        assert!(taken.is_ok(), "{taken:?}");
        assert!(!is_free(first));
    }
}
