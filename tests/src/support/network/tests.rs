use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::*;

const SOON: Duration = Duration::from_secs(20);
/// How long what is held back is waited for.
const SHORT: Duration = Duration::from_millis(100);

/// Two sides of a connection that goes through a network.
struct Pair {
    network: Network,
    port: u16,
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn connect() -> Result<Self> {
        let (network, listener) = (Network::new()?, TcpListener::bind("127.0.0.1:0")?);
        // The client is this process, and Node(2) here.
        network.set_process(End::Node(2), std::process::id());
        let port = network.way(End::Node(1), listener.local_addr()?.port())?;
        let client = TcpStream::connect(("127.0.0.1", port))?;
        let server = listener.accept()?.0;
        Ok(Pair { network, port, listener, client, server })
    }
}

/// Whether this byte arrives in time.
fn arrives(byte: u8, at: &mut TcpStream, limit: Duration) -> Result<bool> {
    at.set_read_timeout(Some(limit))?;
    let mut read = [0];
    while read != [byte] {
        match at.read_exact(&mut read) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

#[test]
fn what_a_cut_holds_back_arrives_once_it_heals() -> Result<()> {
    let Pair { network, mut client, mut server, .. } = Pair::connect()?;
    let cuts = [
        (End::Node(1), Cut::Silent, [false, false]),
        (End::Node(1), Cut::Deaf, [false, true]),
        (End::Node(1), Cut::Mute, [true, false]),
        (End::Node(2), Cut::Silent, [false, false]),
        (End::Node(2), Cut::Deaf, [true, false]),
        (End::Node(2), Cut::Mute, [false, true]),
        (End::Node(1), Cut::Apart, [false, false]),
        (End::Node(3), Cut::Silent, [true, true]),
    ];
    for (byte, (end, cut, [there, back])) in (1..).zip(cuts) {
        network.cut(end, cut);
        client.write_all(&[byte])?;
        server.write_all(&[byte])?;
        for (passes, at) in [(there, &mut server), (back, &mut client)] {
            let limit = if passes { SOON } else { SHORT };
            assert_eq!(arrives(byte, at, limit)?, passes, "{end:?} {cut:?}");
        }
        network.heal(end);
        for (passed, at) in [(there, &mut server), (back, &mut client)] {
            assert!(passed || arrives(byte, at, SOON)?, "{end:?} {cut:?}");
        }
    }
    Ok(())
}

#[test]
fn a_broken_connection_ends_and_none_is_made() -> Result<()> {
    let mut pair = Pair::connect()?;
    for side in [&mut pair.client, &mut pair.server] {
        side.set_read_timeout(Some(SOON))?;
    }
    pair.network.cut(End::Node(2), Cut::Broken);
    for side in [&mut pair.client, &mut pair.server] {
        assert_eq!(side.read(&mut [0])?, 0);
    }
    let mut another = TcpStream::connect(("127.0.0.1", pair.port))?;
    another.set_read_timeout(Some(SOON))?;
    assert_eq!(another.read(&mut [0])?, 0);

    pair.network.heal(End::Node(2));
    let mut client = TcpStream::connect(("127.0.0.1", pair.port))?;
    let mut server = pair.listener.accept()?.0;
    client.write_all(&[1])?;
    assert!(arrives(1, &mut server, SOON)?);
    Ok(())
}

/// Whoever is cut off tries again and again to connect, and gives up again and again.
#[test]
fn new_connections_pass_once_a_cut_heals() -> Result<()> {
    let (network, listener) = (Network::new()?, TcpListener::bind("127.0.0.1:0")?);
    network.set_process(End::Node(2), std::process::id());
    let port = network.way(End::Node(1), listener.local_addr()?.port())?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                std::io::copy(&mut from, &mut to)
            });
        }
    });
    let echoes = |byte, limit| -> Result<bool> {
        let mut client = TcpStream::connect(("127.0.0.1", port))?;
        client.write_all(&[byte])?;
        arrives(byte, &mut client, limit)
    };
    let ends = [End::Node(1), End::Node(2)];
    for cut in [Cut::Broken, Cut::Silent, Cut::Deaf, Cut::Mute, Cut::Apart] {
        for end in ends {
            network.cut(end, cut);
            for _ in 0..10 {
                assert!(!echoes(1, SHORT / 10).unwrap_or(false), "{end:?} {cut:?}");
            }
            network.heal(end);
            assert!(echoes(1, SOON)?, "{end:?} {cut:?}");
        }
    }
    Ok(())
}

#[test]
fn clients_reach_a_node_that_is_apart_from_the_others() -> Result<()> {
    let (network, listener) = (Network::new()?, TcpListener::bind("127.0.0.1:0")?);
    let port = network.way(End::Node(1), listener.local_addr()?.port())?;
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    let mut server = listener.accept()?.0;
    network.cut(End::Node(1), Cut::Apart);
    client.write_all(&[1])?;
    server.write_all(&[1])?;
    assert!(arrives(1, &mut server, SOON)? && arrives(1, &mut client, SOON)?);
    Ok(())
}
