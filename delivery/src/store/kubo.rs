//! The RPC of an IPFS node (`/api/v0`, as Kubo, js-ipfs and others have it): `add`, `block/put`, `block/get`, `pin/add`, `pin/ls`,
//! `pin/rm`, and `block/rm` and `version` beside them. A node of one's own, but not believed: what it gives is hashed, and what it
//! says it has stored must have the CID that was computed here.
//!
//! Node and version differ in how they write CIDs (base58, base32), sizes (text, numbers) and errors (JSON, plain text), so CIDs are
//! compared as bytes, sizes are not looked at, and both forms of errors are read. Every setting of a node that could lay a file out
//! differently is overridden in the call.

use std::{io::Read as _, os::unix::fs::MetadataExt as _, path::Path};

use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{
    Answer, BlockStore, Held,
    http::{Deadlines, Http, MAX_READ_BYTES, Reply},
    verified,
};
use crate::{
    block::BlockCid,
    dag::{self, Tree},
    error::{DeliveryError, hex},
};

/// The most that is read of an answer that is not a block.
const MAX_ANSWER_BYTES: usize = 256 << 10;
/// The most that is read of an authorization file.
const MAX_AUTHORIZATION_BYTES: u64 = 4096;

/// How long a node may look for what it has itself, in seconds.
const HERE_SECS: u64 = 3;

/// An IPFS node, by its RPC.
#[derive(Clone, Debug)]
pub struct KuboStore {
    http: Http,
    authorization: Option<HeaderValue>,
}

/// What a node says when it refuses.
#[derive(Deserialize)]
struct Refusal {
    #[serde(alias = "message", rename = "Message")]
    message: String,
}

impl KuboStore {
    /// The node at `url`, without `/api/v0`. Connects to nobody yet. `authorization` is a file whose one line is what the node asks
    /// for in that header: `Bearer TOKEN` or `Basic BASE64`.
    ///
    /// # Errors
    /// [`DeliveryError::Setting`], also where an authorization would cross a network in the clear; [`DeliveryError::Authorization`].
    pub fn new(url: Url, authorization: Option<&Path>, deadlines: Deadlines) -> Result<Self, DeliveryError> {
        let http = Http::new("kubo", url, deadlines)?;
        if authorization.is_some() && !http.is_private() {
            let problem =
                "an authorization over http:// can be read on the way: expected https:// or this machine".to_owned();
            return Err(DeliveryError::Setting { store: http.name().to_owned(), problem });
        }
        let authorization = authorization.map(read_authorization).transpose()?;
        Ok(Self { http, authorization })
    }

    async fn call(
        &self,
        action: &'static str,
        query: &[(&str, &str)],
        file: Option<&[u8]>,
        limit: usize,
    ) -> Result<Reply, DeliveryError> {
        let mut segments = vec!["api", "v0"];
        segments.extend(action.split('/'));
        // With a unit: a bare number gives 200 and nothing. A little less than our own, so that the node says why. js-ipfs knows no
        // `offline`, and looks for what it does not have until the time is over.
        let patience = if query.contains(&("offline", "true")) { HERE_SECS } else { u64::MAX };
        let patience = self.http.deadlines().idle.as_secs().saturating_sub(1).clamp(1, patience);
        let timeout = format!("{patience}s");
        let mut query = query.to_vec();
        query.push(("timeout", &timeout));
        let mut request = self.http.client().post(self.http.below(&segments, &query));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization.clone());
        }
        if let Some(file) = file {
            let (content_type, body) = form(file)?;
            request = request.header("content-type", content_type).body(body);
        }
        let reply = self.http.send(action, request, limit).await?;
        if reply.status == 200 {
            return Ok(reply);
        }
        let text = match serde_json::from_slice::<Refusal>(&reply.body) {
            Ok(refusal) => refusal.message,
            Err(_) => String::from_utf8_lossy(&reply.body).into_owned(),
        };
        Err(self.http.status(action, reply.status, &text))
    }

    async fn put(&self, tree: &Tree<'_>) -> Result<(), DeliveryError> {
        let root = tree.root();
        if root.is_node() {
            let query = [
                ("pin", "true"),
                ("cid-version", "1"),
                ("raw-leaves", "true"),
                ("chunker", "size-262144"),
                ("hash", "sha2-256"),
                ("max-file-links", "174"),
                ("trickle", "false"),
                ("inline", "false"),
                ("wrap-with-directory", "false"),
                ("progress", "false"),
                ("cid-base", "base32"),
            ];
            let reply = self.call("add", &query, Some(tree.file()), MAX_ANSWER_BYTES).await?;
            // One line of JSON for each file; the last is the root.
            let last = reply.body.split(|byte| *byte == b'\n').rfind(|line| !line.iter().all(u8::is_ascii_whitespace));
            return self.expect("add", &root, last.unwrap_or_default(), "Hash");
        }
        // The second line is for js-ipfs, whose default is another codec; Kubo takes both where they agree.
        let query = [
            ("cid-codec", "raw"),
            ("mhtype", "sha2-256"),
            ("pin", "true"),
            ("format", "raw"),
            ("version", "1"),
            ("cid-base", "base32"),
        ];
        let reply = self.call("block/put", &query, Some(tree.file()), MAX_ANSWER_BYTES).await?;
        self.expect("block/put", &root, &reply.body, "Key")
    }

    /// Compares the CID that a node reports with the one computed here.
    fn expect(&self, action: &'static str, cid: &BlockCid, json: &[u8], field: &str) -> Result<(), DeliveryError> {
        let value: Value = serde_json::from_slice(json)
            .map_err(|error| self.http.answer(action, format!("expected JSON with {field}: {error}")))?;
        let text = value.get(field).and_then(Value::as_str);
        let text = text.ok_or_else(|| self.http.answer(action, format!("expected a field {field}")))?;
        if text.parse() == Ok(Same(*cid)) {
            return Ok(());
        }
        Err(self.http.answer(action, format!("stored as {text}: expected {cid}")))
    }

    async fn get(&self, cid: &BlockCid, only_here: bool) -> Result<Vec<u8>, DeliveryError> {
        let name = cid.to_string();
        let query = [("arg", name.as_str()), ("offline", if only_here { "true" } else { "false" })];
        let reply =
            self.call("block/get", &query, None, MAX_READ_BYTES).await.map_err(|error| self.missing(cid, error))?;
        verified(cid, reply.body, self.http.name())
    }

    /// Tells a block that is not there from a node that fails; what a node says is all there is to go by.
    fn missing(&self, cid: &BlockCid, error: DeliveryError) -> DeliveryError {
        match &error {
            DeliveryError::Status { status: 500 | 404, text, .. } if says_missing(text) => {
                DeliveryError::Missing { cid: cid.to_string(), store: self.http.name().to_owned() }
            }
            _ => error,
        }
    }

    async fn pin(&self, root: &BlockCid) -> Result<(), DeliveryError> {
        let name = root.to_string();
        let query = [("arg", name.as_str()), ("recursive", "true"), ("cid-base", "base32")];
        let reply =
            self.call("pin/add", &query, None, MAX_ANSWER_BYTES).await.map_err(|error| self.missing(root, error))?;
        let malformed = |problem: String| self.http.answer("pin/add", problem);
        let value: Value = serde_json::from_slice(&reply.body)
            .map_err(|error| malformed(format!("expected JSON with Pins: {error}")))?;
        let pins = value.get("Pins").and_then(Value::as_array).into_iter().flatten();
        if pins.filter_map(Value::as_str).any(|pin| pin.parse() == Ok(Same(*root))) {
            return Ok(());
        }
        Err(malformed(format!("expected {root} among Pins")))
    }

    async fn is_pinned(&self, root: &BlockCid) -> Result<bool, DeliveryError> {
        let name = root.to_string();
        let query = [("arg", name.as_str()), ("type", "recursive"), ("cid-base", "base32")];
        let reply = match self.call("pin/ls", &query, None, MAX_ANSWER_BYTES).await {
            Ok(reply) => reply,
            Err(DeliveryError::Status { status: 500, text, .. }) if says_not_pinned(&text) => return Ok(false),
            Err(error) => return Err(error),
        };
        // `{}` where nothing is pinned; js-ipfs has one line of JSON for each pin, or nothing.
        let mut pinned = false;
        for line in reply.body.split(|byte| *byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace)) {
            let value: Value = serde_json::from_slice(line)
                .map_err(|error| self.http.answer("pin/ls", format!("expected JSON with Keys: {error}")))?;
            let keys = value.get("Keys").and_then(Value::as_object).into_iter().flat_map(serde_json::Map::keys);
            let streamed = value.get("Cid").and_then(Value::as_str);
            pinned |= keys.map(String::as_str).chain(streamed).any(|key| key.parse() == Ok(Same(*root)));
        }
        Ok(pinned)
    }

    async fn unpin(&self, root: &BlockCid) -> Result<(), DeliveryError> {
        // Only a node says what lies below it: read before it goes. One that is not here leaves nothing to delete.
        let mut blocks = Vec::new();
        if root.is_node() {
            match self.get(root, true).await.and_then(|node| dag::pieces(root, &node)) {
                Ok(pieces) => blocks = pieces,
                Err(error) if error.is_of_the_place() => return Err(error),
                Err(_) => {}
            }
        }
        blocks.push(*root);
        let name = root.to_string();
        match self.call("pin/rm", &[("arg", name.as_str()), ("recursive", "true")], None, MAX_ANSWER_BYTES).await {
            Ok(_) => {}
            Err(DeliveryError::Status { status: 500, text, .. }) if says_not_pinned(&text) => {}
            Err(error) => return Err(error),
        }
        let names: Vec<String> = blocks.iter().map(ToString::to_string).collect();
        let mut query: Vec<(&str, &str)> = names.iter().map(|name| ("arg", name.as_str())).collect();
        query.push(("force", "true"));
        // Blocks that somebody else has pinned stay, which the answer says line by line; the pin that was ours is gone.
        self.call("block/rm", &query, None, MAX_ANSWER_BYTES).await.map(|_| ())
    }

    async fn held(&self, root: &BlockCid) -> Result<Held, DeliveryError> {
        if self.is_pinned(root).await? {
            return Ok(Held::Pinned);
        }
        match self.get(root, true).await {
            Ok(_) => Ok(Held::Present),
            Err(DeliveryError::Missing { .. }) => Ok(Held::Absent),
            Err(error) => Err(error),
        }
    }

    async fn version(&self) -> Result<String, DeliveryError> {
        let reply = self.call("version", &[], None, MAX_ANSWER_BYTES).await?;
        let value: Value = serde_json::from_slice(&reply.body)
            .map_err(|error| self.http.answer("version", format!("expected JSON with Version: {error}")))?;
        let version = value.get("Version").and_then(Value::as_str);
        let version = version.ok_or_else(|| self.http.answer("version", "expected a field Version"))?;
        Ok(format!("version {}", crate::error::printable(version)))
    }
}

/// A CID as a node writes it, in whatever base, for comparing.
#[derive(PartialEq)]
struct Same(BlockCid);

impl std::str::FromStr for Same {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().map(Self).map_err(|_: DeliveryError| ())
    }
}

fn says_missing(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["not found", "could not find", "timed out", "deadline exceeded"].iter().any(|phrase| text.contains(phrase))
}

/// `not pinned or pinned indirectly` in Kubo, `… is not pinned` in js-ipfs.
fn says_not_pinned(text: &str) -> bool {
    text.to_ascii_lowercase().contains("not pinned")
}

/// A form with one file. Its boundary is random, so that no file can contain it.
fn form(file: &[u8]) -> Result<(String, Vec<u8>), DeliveryError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(DeliveryError::Randomness)?;
    let boundary = hex(&random);
    // A name without `+` and `%`: nodes unescape it as in a query.
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"block\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    Ok((format!("multipart/form-data; boundary={boundary}"), [head.as_bytes(), file, tail.as_bytes()].concat()))
}

fn read_authorization(path: &Path) -> Result<HeaderValue, DeliveryError> {
    let refused = |problem: String| DeliveryError::Authorization { path: path.to_owned(), problem };
    let file = std::fs::File::open(path).map_err(DeliveryError::io("open", path))?;
    let metadata = file.metadata().map_err(DeliveryError::io("read", path))?;
    let mode = metadata.mode() & 0o7777;
    // Of the opened file, not of the name. A pipe from a service manager has no mode that means anything.
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(refused(format!("mode {mode:04o} lets others read it: expected 0600")));
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(MAX_AUTHORIZATION_BYTES).read_to_string(&mut text).map_err(DeliveryError::io("read", path))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let form = || refused("expected one line, `Bearer TOKEN` or `Basic BASE64`".to_owned());
    let secret = line.strip_prefix("Bearer ").or_else(|| line.strip_prefix("Basic ")).ok_or_else(form)?;
    if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(form());
    }
    let mut value = HeaderValue::from_str(line).map_err(|_| form())?;
    value.set_sensitive(true);
    Ok(value)
}

impl BlockStore for KuboStore {
    fn name(&self) -> String {
        self.http.name().to_owned()
    }

    fn takes_blocks(&self) -> bool {
        true
    }

    fn put_tree<'a>(&'a self, tree: &'a Tree<'a>) -> Answer<'a, ()> {
        Box::pin(self.put(tree))
    }

    fn get_block<'a>(&'a self, cid: &'a BlockCid) -> Answer<'a, Vec<u8>> {
        Box::pin(self.get(cid, false))
    }

    fn pin_tree<'a>(&'a self, root: &'a BlockCid) -> Answer<'a, ()> {
        Box::pin(self.pin(root))
    }

    fn unpin_tree<'a>(&'a self, root: &'a BlockCid) -> Answer<'a, ()> {
        Box::pin(self.unpin(root))
    }

    fn holds<'a>(&'a self, root: &'a BlockCid) -> Answer<'a, Held> {
        Box::pin(self.held(root))
    }

    fn probe(&self) -> Answer<'_, String> {
        Box::pin(self.version())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn store(url: &str, authorization: Option<&Path>) -> Result<KuboStore, String> {
        KuboStore::new(Url::parse(url).unwrap(), authorization, Deadlines::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_authorization_comes_from_a_private_file_of_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("authorization");
        let write = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            store("http://127.0.0.1:5001", Some(&path))
        };
        for text in ["Bearer token\n", "Bearer token", "Basic dXNlcjpwYXNz\n"] {
            let store = write(text, 0o600).unwrap();
            assert_eq!(store.authorization.as_ref().unwrap(), text.trim_end());
            assert!(!format!("{store:?}").contains("token"), "{store:?}");
        }
        let form =
            format!("authorization file {}: expected one line, `Bearer TOKEN` or `Basic BASE64`", path.display());
        for text in ["", "token\n", "Bearer \n", "Bearer a b\n", "Bearer a\r\n", "Bearer a\nBearer b\n", "bearer a\n"] {
            assert_eq!(write(text, 0o600).unwrap_err(), form, "{text:?}");
        }
        for mode in [0o640, 0o604, 0o620] {
            let message = write("Bearer token\n", mode).unwrap_err();
            let path = path.display();
            assert_eq!(
                message,
                format!("authorization file {path}: mode {mode:04o} lets others read it: expected 0600")
            );
        }
    }

    #[test]
    fn an_authorization_is_not_sent_over_a_network_in_the_clear() {
        let path = Path::new("/nowhere");
        assert_eq!(
            store("http://node:5001", Some(path)).unwrap_err(),
            "block store kubo http://node:5001: an authorization over http:// can be read on the way: \
             expected https:// or this machine"
        );
        assert!(store("http://node:5001", None).is_ok());
        assert!(store("https://node:5001", Some(path)).unwrap_err().starts_with("open /nowhere"));
    }

    #[test]
    fn a_form_holds_the_file_and_another_boundary_each_time() {
        let (content_type, body) = form(b"--\r\nfile").unwrap();
        let boundary = content_type.strip_prefix("multipart/form-data; boundary=").unwrap();
        let text = String::from_utf8(body).unwrap();
        assert_eq!(
            text,
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"block\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n--\r\nfile\r\n--{boundary}--\r\n"
            )
        );
        assert_ne!(form(b"").unwrap().0, content_type);
    }

    #[test]
    fn both_wordings_of_not_pinned_are_known() {
        assert!(says_not_pinned("not pinned or pinned indirectly"));
        assert!(says_not_pinned("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku is not pinned"));
        assert!(!says_not_pinned("pinned"));
    }
}
