//! A trustless gateway: `GET /ipfs/CID?format=raw`, one block at a time. Gives blocks only; whatever it sends is hashed and compared.
//!
//! Asks for no range and takes nothing but 200. Follows at most three redirects, by the same rules, never from https to http and only
//! to the gateway's own host or a name below it (`CID.ipfs.GATEWAY`). A gateway that ignores `format` and sends the file instead of the node is found by the hash.

use reqwest::header::ACCEPT;
use url::{Host, Url};

use super::{
    Answer, BlockStore, Held,
    http::{Deadlines, Http, MAX_READ_BYTES, Reply, is_loopback},
    ready, verified,
};
use crate::{block::BlockCid, dag::Tree, error::DeliveryError};

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 3;
/// The CID of nothing, which every gateway knows: the content is in the name.
const NOTHING: &str = "bafkqaaa";
const ACTION: &str = "get";

/// A gateway.
#[derive(Clone, Debug)]
pub struct GatewayStore {
    http: Http,
}

impl GatewayStore {
    /// The gateway at `url`, without `/ipfs`. Connects to nobody yet.
    ///
    /// # Errors
    /// [`DeliveryError::Setting`].
    pub fn new(url: Url, deadlines: Deadlines) -> Result<Self, DeliveryError> {
        Ok(Self { http: Http::new("gateway", url, deadlines)? })
    }

    async fn fetch(&self, name: &str, only_here: bool) -> Result<Reply, DeliveryError> {
        let mut url = self.http.below(&["ipfs", name], &[("format", "raw")]);
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.http.client().get(url.clone()).header(ACCEPT, "application/vnd.ipld.raw");
            if only_here {
                request = request.header("cache-control", "only-if-cached");
            }
            let reply = self.http.send(ACTION, request, MAX_READ_BYTES).await?;
            if !matches!(reply.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(reply);
            }
            url = self.redirected(&url, reply.location.as_deref())?;
        }
        Err(self.http.answer(ACTION, format!("more than {MAX_REDIRECTS} redirects")))
    }

    fn redirected(&self, from: &Url, location: Option<&str>) -> Result<Url, DeliveryError> {
        let refused = |problem: &str| self.http.answer(ACTION, format!("redirected {problem}"));
        let location = location.ok_or_else(|| refused("to nowhere"))?;
        let to = from.join(location).map_err(|_| refused("to what is not an address"))?;
        match (from.scheme(), to.scheme()) {
            (_, "https") | ("http", "http") => {}
            ("https", "http") => return Err(refused("from https to http")),
            _ => return Err(refused("to another scheme than http and https")),
        }
        if is_loopback(&to) && !is_loopback(from) {
            return Err(refused("to this machine"));
        }
        if !is_below(&to, &self.http.below(&[], &[])) {
            return Err(refused("to another host"));
        }
        Ok(to)
    }

    async fn get(&self, cid: &BlockCid, only_here: bool) -> Result<Vec<u8>, DeliveryError> {
        let reply = self.fetch(&cid.to_string(), only_here).await?;
        match reply.status {
            200 => verified(cid, reply.body, self.http.name()),
            // 412 answers `only-if-cached`. A gateway that looked and found nobody in time says 504.
            404 | 412 | 504 => Err(DeliveryError::Missing { cid: cid.to_string(), store: self.http.name().to_owned() }),
            status => Err(self.http.status(ACTION, status, meaning(status))),
        }
    }

    async fn held(&self, root: &BlockCid) -> Result<Held, DeliveryError> {
        match self.get(root, true).await {
            Ok(_) => Ok(Held::Present),
            Err(DeliveryError::Missing { .. }) => Ok(Held::Absent),
            Err(error) => Err(error),
        }
    }

    async fn nothing(&self) -> Result<String, DeliveryError> {
        let reply = self.fetch(NOTHING, false).await?;
        match (reply.status, reply.body.as_slice()) {
            (200, []) => Ok("answers".to_owned()),
            (200, _) => Err(self.http.answer(ACTION, "expected nothing for the CID of nothing")),
            (status, _) => Err(self.http.status(ACTION, status, meaning(status))),
        }
    }
}

/// Whether an address is on the host of `base`, or on one whose name ends in that host's.
fn is_below(to: &Url, base: &Url) -> bool {
    match (to.host(), base.host()) {
        (Some(Host::Domain(to)), Some(Host::Domain(base))) => {
            let (to, base) = (to.trim_end_matches('.'), base.trim_end_matches('.'));
            to == base || to.strip_suffix(base).is_some_and(|rest| rest.ends_with('.'))
        }
        (Some(to), Some(base)) => to == base,
        _ => false,
    }
}

/// What a gateway means by a status, where its own page would be HTML.
fn meaning(status: u16) -> &'static str {
    match status {
        206 => "a part of it, which was not asked for",
        406 => "it does not give raw blocks",
        410 | 451 => "blocked there",
        429 => "too many requests",
        _ => "",
    }
}

impl BlockStore for GatewayStore {
    fn name(&self) -> String {
        self.http.name().to_owned()
    }

    fn takes_blocks(&self) -> bool {
        false
    }

    fn put_tree<'a>(&'a self, _: &'a Tree<'a>) -> Answer<'a, ()> {
        ready(Err(DeliveryError::ReadOnly { store: self.name() }))
    }

    fn get_block<'a>(&'a self, cid: &'a BlockCid) -> Answer<'a, Vec<u8>> {
        Box::pin(self.get(cid, false))
    }

    fn pin_tree<'a>(&'a self, _: &'a BlockCid) -> Answer<'a, ()> {
        ready(Err(DeliveryError::ReadOnly { store: self.name() }))
    }

    fn unpin_tree<'a>(&'a self, _: &'a BlockCid) -> Answer<'a, ()> {
        ready(Err(DeliveryError::ReadOnly { store: self.name() }))
    }

    fn holds<'a>(&'a self, root: &'a BlockCid) -> Answer<'a, Held> {
        Box::pin(self.held(root))
    }

    fn probe(&self) -> Answer<'_, String> {
        Box::pin(self.nothing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_neither_to_plain_http_nor_to_this_machine_nor_elsewhere() {
        let store = GatewayStore::new(Url::parse("https://gateway.example").unwrap(), Deadlines::default()).unwrap();
        let from = Url::parse("https://gateway.example/ipfs/bafy").unwrap();
        let to = |location: Option<&str>| match store.redirected(&from, location) {
            Ok(url) => url.to_string(),
            Err(error) => error.to_string().replace("gateway https://gateway.example: get: redirected ", ""),
        };
        assert_eq!(to(Some("https://bafy.ipfs.gateway.example/")), "https://bafy.ipfs.gateway.example/");
        assert_eq!(to(Some("/elsewhere?format=raw")), "https://gateway.example/elsewhere?format=raw");
        assert_eq!(to(Some("http://gateway.example/")), "from https to http");
        assert_eq!(to(Some("https://127.0.0.1:5001/")), "to this machine");
        assert_eq!(to(Some("file:///etc/passwd")), "to another scheme than http and https");
        assert_eq!(to(Some("https://")), "to what is not an address");
        assert_eq!(to(None), "to nowhere");
        for elsewhere in
            ["10.0.0.1", "169.254.169.254", "[fd00::1]", "elsewhere.example", "evilgateway.example", "example"]
        {
            assert_eq!(to(Some(&format!("https://{elsewhere}/"))), "to another host", "{elsewhere}");
        }
        // What is below a redirect's target is no more the gateway's than that was.
        let below = Url::parse("https://bafy.ipfs.gateway.example/").unwrap();
        assert!(store.redirected(&below, Some("https://GATEWAY.example/ipfs/bafy")).is_ok());
        assert!(store.redirected(&below, Some("https://ipfs.elsewhere.example/")).is_err());
        let local = Url::parse("http://127.0.0.1:8080/ipfs/bafy").unwrap();
        let gateway = GatewayStore::new(Url::parse("http://127.0.0.1:8080").unwrap(), Deadlines::default()).unwrap();
        assert!(gateway.redirected(&local, Some("http://127.0.0.1:9090/")).is_ok());
        assert!(gateway.redirected(&local, Some("http://127.0.0.2:9090/")).is_err());
    }
}
