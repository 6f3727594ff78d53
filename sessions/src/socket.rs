//! Which connection an sshd process serves, as `SSH_CONNECTION` writes it: from the sockets that it holds, so that a session cannot
//! say otherwise. Where PAM is asked, sshd tells it; this is for hosts without.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The one connected TCP socket of the process; none where there is none, or more than one.
pub(crate) fn connection(pid: u32) -> Option<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()?.into_os_string().into_string().ok());
    let sockets: Vec<String> =
        links.filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let mut found: Vec<String> = ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok())
        .flat_map(|table| table.lines().filter_map(|line| of_line(line, &sockets)).collect::<Vec<_>>())
        .collect();
    found.dedup();
    if found.len() == 1 { found.pop() } else { None }
}

fn of_line(line: &str, sockets: &[String]) -> Option<String> {
    const ESTABLISHED: &str = "01";
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    // Queues, timer, retransmissions, uid, timeout.
    let inode = fields.nth(5)?;
    if state != ESTABLISHED || !sockets.iter().any(|socket| socket == inode) {
        return None;
    }
    let [remote, local] = [address_of_kernel(remote)?, address_of_kernel(local)?];
    Some(format!("{} {} {} {}", remote.ip(), remote.port(), local.ip(), local.port()))
}

/// An address as `/proc/net/tcp` and `tcp6` write it, `0100007F:08AE`: 32-bit words in the machine's order, then the port.
#[must_use]
pub fn address_of_kernel(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.len() == 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let words: Option<Vec<[u8; 4]>> = address.as_bytes().chunks(8).map(word).collect();
    let address: IpAddr = match *words?.as_slice() {
        [word] => IpAddr::V4(Ipv4Addr::from(word)),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (to, from) in bytes.chunks_exact_mut(4).zip([a, b, c, d]) {
                to.copy_from_slice(&from);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_only_connection_of_a_process_is_told_and_of_two_neither() {
        // A child holds it: this process has other tests' sockets too.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let expected = format!(
            "127.0.0.1 {} 127.0.0.1 {}",
            client.local_addr().unwrap().port(),
            server.local_addr().unwrap().port()
        );
        let stdio = std::os::fd::OwnedFd::from(server.try_clone().unwrap());
        let mut child = std::process::Command::new("sleep").arg("1000").stdin(stdio).spawn().unwrap();
        assert_eq!(connection(child.id()), Some(expected));
        child.kill().unwrap();
        child.wait().unwrap();
        let both = (std::os::fd::OwnedFd::from(server), std::os::fd::OwnedFd::from(client));
        let mut child = std::process::Command::new("sleep").arg("1000").stdin(both.0).stdout(both.1).spawn().unwrap();
        assert_eq!(connection(child.id()), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let read = |text| address_of_kernel(text).map(|address| address.to_string());
        assert_eq!(read("0100007F:08AE").as_deref(), Some("127.0.0.1:2222"));
        assert_eq!(read("00000000000000000000000001000000:0016").as_deref(), Some("[::1]:22"));
        assert_eq!(read("0000000000000000FFFF00000100007F:0016").as_deref(), Some("127.0.0.1:22"));
        for wrong in ["", ":", "0100007F", "0100007:0016", "0100007F01:0016", "0100007G:0016"] {
            assert_eq!(address_of_kernel(wrong), None, "{wrong}");
        }
    }
}
