//! The command line that sshd puts together from what a client sent.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use countersign_sshd::Query;

use crate::world::World;

/// Arguments between zero bytes. What is read as a question is about a login that may be printed as a principal.
pub fn try_on(data: &[u8]) {
    let arguments: Vec<OsString> =
        data.split(|byte| *byte == 0).map(|part| OsString::from_vec(part.to_vec())).collect();
    let Ok(query) = Query::from_arguments(&arguments) else { return };
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    assert!(query.login().bytes().all(safe) && !query.login().is_empty(), "{:?}", query.login());
    assert_eq!(query.login().as_bytes(), arguments[1].as_encoded_bytes());
    assert_eq!(query.uid().0.to_string().as_bytes(), arguments[2].as_encoded_bytes());
}

/// Both questions about the good certificate.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let world = World::new();
    [world.keys_arguments(), world.principals_arguments(), World::plain().keys_arguments()]
        .into_iter()
        .map(|arguments| arguments.into_iter().map(OsString::into_vec).collect::<Vec<_>>().join(&0))
        .collect()
}
