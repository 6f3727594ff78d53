//! An sshd for one connection: the host's own program with the host's own configuration, as `inetd` would start it, so that what it
//! and the helper say about a login can be read.
//!
//! It never listens. The one connection that it gets is taken here, from a program of root's on this machine; whoever else connects to
//! the port in that moment is hung up on.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::client::{Credential, Ended, PATIENCE, log_in};
use super::room::Room;
use super::socket::is_of_this_user;
use crate::host::Host;
use crate::run::wait_within;

const LOOK: Duration = Duration::from_millis(5);
const MOST_BYTES: usize = 64 * 1024;

/// What came of a login through it.
pub(crate) struct Tried {
    /// How it ended.
    pub(crate) ended: Ended,
    /// What was said to syslog meanwhile.
    pub(crate) log: Vec<String>,
    /// What sshd said.
    pub(crate) sshd: String,
}

/// Logs in through an sshd of its own.
///
/// # Errors
/// It cannot be started.
pub(crate) fn try_login(host: &Host, room: &Room, credential: &Credential, known_hosts: &Path) -> io::Result<Tried> {
    room.heard()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let said = room.path("sshd.said");
    let (ended, served) = thread::scope(|scope| {
        let client = scope.spawn(|| log_in(credential, address, known_hosts));
        let served = accept(&listener, address, || client.is_finished())
            .and_then(|stream| serve(host, stream, &said))
            .and_then(|mut sshd| {
                // The client ends first, or runs out of patience.
                while !client.is_finished() {
                    thread::sleep(LOOK);
                }
                wait_within(&mut sshd, PATIENCE)
            });
        (client.join().unwrap_or_else(|_| Ended::NoAnswer("the client panicked".to_owned())), served)
    });
    served?;
    let mut sshd = String::from_utf8_lossy(&fs::read(&said)?).replace('\r', "");
    sshd.truncate(sshd.floor_char_boundary(MOST_BYTES));
    Ok(Tried { ended, log: room.heard()?, sshd })
}

fn accept(listener: &TcpListener, address: SocketAddr, is_over: impl Fn() -> bool) -> io::Result<TcpStream> {
    let begun = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, from)) if is_of_this_user(from, address) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if is_over() || begun.elapsed() > PATIENCE {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "ssh did not connect"));
                }
                thread::sleep(LOOK);
            }
            Err(error) => return Err(error),
        }
    }
}

fn serve(host: &Host, stream: TcpStream, said: &Path) -> io::Result<Child> {
    let output = stream.try_clone()?;
    let mut sshd = Command::new(&host.sshd);
    sshd.args(["-i", "-e", "-f"]).arg(&host.sshd_config);
    sshd.args(["-o", "LogLevel=VERBOSE", "-o", "LoginGraceTime=45"]);
    sshd.stdin(OwnedFd::from(stream)).stdout(OwnedFd::from(output)).stderr(Stdio::from(File::create(said)?));
    sshd.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_of_another_user_is_hung_up_on() {
        assert!(nix::unistd::geteuid().is_root(), "expected root, to be somebody else as well");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{} && echo connected && cat <&3", address.port());
        let mut stranger = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c", &connect])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut words = String::new();
        let mut said = io::BufReader::new(stranger.stdout.take().unwrap());
        io::BufRead::read_line(&mut said, &mut words).unwrap();
        assert_eq!(words, "connected\n");
        // It is the first in the queue.
        let client = TcpStream::connect(address).unwrap();
        let taken = accept(&listener, address, || false).unwrap();
        assert_eq!(taken.peer_addr().unwrap(), client.local_addr().unwrap());
        // Its `cat` ends: nobody speaks to it.
        assert!(wait_within(&mut stranger, PATIENCE).unwrap().success());
    }
}
