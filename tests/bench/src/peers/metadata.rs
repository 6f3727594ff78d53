//! The part of Google's metadata server that OS Login's programs ask (guest-oslogin, `oslogin_utils.cc`): who a user is, with its keys, and
//! whether it may log in. At its own address, which is the bed's loopback: the real one is one hop away from a virtual machine.

use std::{
    error::Error,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
};

use serde_json::{Value, json};

use super::people::{People, Person};
use crate::bed::{inside, succeed};

const ADDRESS: &str = "169.254.169.254";
const PATH: &str = "/computeMetadata/v1/oslogin/";

/// Serves for as long as the process lives.
///
/// # Errors
/// Outside a bed, or where the address cannot be had.
pub fn serve(people: People) -> Result<(), Box<dyn Error>> {
    inside()?;
    succeed(Command::new("ip").args(["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"]))?;
    let listener = TcpListener::bind((ADDRESS, 80))?;
    thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            // Who hangs up is its own business.
            thread::spawn(move || drop(answer(stream, people)));
        }
    });
    Ok(())
}

/// What sshd would run for this user.
#[must_use]
pub fn keys_of(name: &str) -> Command {
    let mut ask = Command::new("/usr/bin/google_authorized_keys");
    ask.arg(name).stderr(Stdio::null());
    ask
}

fn answer(stream: TcpStream, people: People) -> Result<(), Box<dyn Error>> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().ok_or("a request")??;
    let mut says_whose = false;
    for line in lines {
        let line = line?;
        says_whose |= line.eq_ignore_ascii_case("metadata-flavor: google");
        if line.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).and_then(|path| path.strip_prefix(PATH)).unwrap_or_default();
    let body = if says_whose { body(path, people) } else { None };
    let (status, body) = body.map_or(("404 Not Found", String::new()), |body| ("200 OK", body.to_string()));
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nMetadata-Flavor: Google\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

fn body(path: &str, people: People) -> Option<Value> {
    if let Some(name) = path.strip_prefix("users?username=") {
        return find(people, name).map(profile);
    }
    let email = path.strip_prefix("authorize?email=")?.strip_suffix("&policy=login")?;
    let name = email.strip_suffix("%40bench.example").or_else(|| email.strip_suffix("@bench.example"))?;
    find(people, name).map(|_| json!({ "success": true }))
}

fn find(people: People, name: &str) -> Option<Person> {
    let ordinal = name.strip_prefix("user")?.parse().ok()?;
    people.person(ordinal).filter(|person| person.name() == name)
}

fn profile(person: Person) -> Value {
    let (name, uid) = (person.name(), person.uid().to_string());
    json!({ "loginProfiles": [{
        "name": format!("{name}@bench.example"),
        "posixAccounts": [{
            "primary": true, "username": name, "uid": uid, "gid": uid, "homeDirectory": format!("/home/{name}"),
            "shell": "/bin/bash", "gecos": "Somebody",
        }],
        "sshPublicKeys": { "one": { "key": format!("ssh-ed25519 {}", person.key()) } },
    }] })
}
