//! Sockets as the kernel lists them: whose a connection is, and which process listens on a port.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

use countersign_sessions::address_of_kernel;

const LISTEN: &str = "0A";
const ESTABLISHED: &str = "01";
/// What the kernel says of a socket that no program has any more; its uid is 0 then, whosever it was.
const NOBODYS: &str = "0";

struct Entry {
    local: SocketAddr,
    remote: SocketAddr,
    listens: bool,
    is_open: bool,
    uid: u32,
    inode: String,
}

/// Whether the other end of a connection within this machine, `from` there and `to` here, belongs to the user of this process.
pub(crate) fn is_of_this_user(from: SocketAddr, to: SocketAddr) -> bool {
    let uid = nix::unistd::geteuid().as_raw();
    let theirs: Vec<Entry> = entries().into_iter().filter(|entry| entry.local == from && entry.remote == to).collect();
    !theirs.is_empty() && theirs.iter().all(|entry| entry.uid == uid && entry.is_open)
}

/// The processes that hold a socket listening on `address`, or on its port of all addresses.
pub(crate) fn listeners(address: SocketAddr) -> Vec<u32> {
    let inodes = listening(address);
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| holds(*pid, &inodes)).collect()
}

/// These sockets, as `/proc/PID/fd` names them.
pub(crate) fn listening(address: SocketAddr) -> BTreeSet<String> {
    let is_meant = |local: SocketAddr| {
        local.port() == address.port() && (local.ip() == address.ip() || local.ip().is_unspecified())
    };
    let sockets = entries().into_iter().filter(|entry| entry.listens && is_meant(entry.local));
    sockets.map(|entry| format!("socket:[{}]", entry.inode)).collect()
}

fn holds(pid: u32, inodes: &BTreeSet<String>) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()?.into_os_string().into_string().ok())
        .any(|link| inodes.contains(&link))
}

fn entries() -> Vec<Entry> {
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/net/{table}")).ok())
        .flat_map(|table| table.lines().filter_map(of_line).collect::<Vec<_>>())
        .collect()
}

fn of_line(line: &str) -> Option<Entry> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote, state) =
        (address_of_kernel(fields.next()?)?, address_of_kernel(fields.next()?)?, fields.next()?);
    // Queues, timer, retransmissions; then the uid, a timeout, the inode.
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.to_owned();
    let is_open = state == ESTABLISHED && inode != NOBODYS;
    Some(Entry { local, remote, listens: state == LISTEN, is_open, uid, inode })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_whose_the_kernel_says_and_a_listener_is_found_by_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let from = client.local_addr().unwrap();
        let _server = listener.accept().unwrap();
        assert!(is_of_this_user(from, address));
        assert!(!is_of_this_user(address, address));
        // Closed, it says uid 0 and nothing of whose it was.
        let gone = TcpStream::connect(address).unwrap();
        let from_gone = gone.local_addr().unwrap();
        drop(gone);
        assert!(!is_of_this_user(from_gone, address));
        assert!(listeners(address).contains(&std::process::id()));
        assert!(!listeners(from).contains(&std::process::id()));
    }

    #[test]
    fn what_another_user_connects_is_not_this_users() {
        let line =
            "   1: 0100007F:08AE 0100007F:1234 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 20";
        let entry = of_line(line).unwrap();
        assert_eq!((entry.uid, entry.inode.as_str(), entry.listens), (1000, "4711", false));
        assert!(entry.is_open);
        let closed =
            "   1: 0100007F:08AE 0100007F:1234 05 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20";
        assert_eq!(of_line(closed).map(|entry| (entry.uid, entry.is_open)), Some((0, false)));
        assert_eq!(entry.local, "127.0.0.1:2222".parse().unwrap());
        for wrong in ["", "0: 0100007F 0100007F:0016 0A", "0: 0100007F:08AE 0100007F:1234 01 0 0 0 x 0 1"] {
            assert!(of_line(wrong).is_none(), "{wrong}");
        }
    }
}
