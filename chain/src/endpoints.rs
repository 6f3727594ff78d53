//! JSON-RPC over HTTP to a list of nodes, none of which is believed: every call has a deadline that covers the whole answer and a
//! limit on the answer's size, redirects are not followed, proxies from the environment are not used, and certificates of
//! `https://` endpoints are checked against the system's authorities (rustls with ring).
//!
//! This is a client of its own and not alloy's provider, because that one reads answers of any length into memory and its errors
//! say neither which node nor which call failed.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy_primitives::Bytes;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use url::Url;

use crate::error::{ChainError, printable};

/// What one call may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte sent to the last byte received.
    pub call: Duration,
    /// For the connection, handshake included; part of `call`.
    pub connect: Duration,
    /// Bytes of one answer; logs may take all of it, other answers less.
    pub answer: usize,
}

impl Limits {
    /// Bytes of an answer to `method`: about ten times what an honest node sends, since parsed values take more than their text.
    fn answer_to(&self, method: &str) -> usize {
        let most = match method {
            "eth_getLogs" => return self.answer,
            "eth_getProof" | "eth_getTransactionReceipt" => 8 << 20,
            "eth_getBlockByNumber" => 4 << 20,
            _ => 1 << 20,
        };
        self.answer.min(most)
    }
}

impl Default for Limits {
    /// 10 s a call, 4 s to connect, 32 MiB an answer.
    fn default() -> Self {
        Self { call: Duration::from_secs(10), connect: Duration::from_secs(4), answer: 32 << 20 }
    }
}

/// One node.
#[derive(Clone)]
pub struct Endpoint {
    index: usize,
    url: Url,
    name: Arc<str>,
    client: reqwest::Client,
    limits: Limits,
    next_id: Arc<AtomicU64>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.name).finish()
    }
}

/// The nodes of a realm. Calls that need one good answer begin with the node that gave the last one.
#[derive(Clone, Debug)]
pub struct Endpoints {
    list: Vec<Endpoint>,
    preferred: Arc<AtomicUsize>,
}

/// Borrows from the answer's bytes: a tree of values takes many times their memory, and what it holds is up to the node.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<AnswerError<'a>>,
}

#[derive(Deserialize)]
struct AnswerError<'a> {
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl Endpoints {
    /// Prepares clients; connects to nobody yet.
    ///
    /// # Errors
    /// `Setting` for an empty list, a scheme other than http and https, or a system without certificate authorities while an
    /// endpoint is https.
    pub fn new(urls: &[Url], limits: Limits) -> Result<Self, ChainError> {
        if urls.is_empty() {
            return Err(ChainError::Setting { what: "endpoints", detail: "expected at least one URL".into() });
        }
        let secure = urls.iter().any(|url| url.scheme() == "https");
        let client = http_client(secure, limits)?;
        let next_id = Arc::new(AtomicU64::new(1));
        let list = urls
            .iter()
            .enumerate()
            .map(|(index, url)| {
                let name = Arc::from(display_name(url)?);
                let (client, next_id) = (client.clone(), Arc::clone(&next_id));
                Ok(Endpoint { index, url: url.clone(), name, client, limits, next_id })
            })
            .collect::<Result<_, ChainError>>()?;
        Ok(Self { list, preferred: Arc::new(AtomicUsize::new(0)) })
    }

    /// The nodes, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Endpoint> {
        self.list.iter()
    }

    /// How many there are; at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// The nodes, beginning with the one that answered well last.
    pub(crate) fn by_preference(&self) -> impl Iterator<Item = &Endpoint> {
        let (before, from) =
            self.list.split_at_checked(self.preferred.load(Ordering::Relaxed)).unwrap_or((&[], &self.list));
        from.iter().chain(before)
    }

    pub(crate) fn prefer(&self, endpoint: &Endpoint) {
        self.preferred.store(endpoint.index, Ordering::Relaxed);
    }

    /// Calls `ask` for one endpoint after the other until one succeeds. `what` names the aim in the error.
    ///
    /// # Errors
    /// The only endpoint's error, or `NoEndpoint` with the last of several.
    pub async fn first<'a, T, F>(
        &'a self,
        what: &'static str,
        mut ask: impl FnMut(&'a Endpoint) -> F,
    ) -> Result<T, ChainError>
    where
        F: Future<Output = Result<T, ChainError>>,
    {
        let mut last = None;
        for endpoint in self.by_preference() {
            match ask(endpoint).await {
                Ok(answer) => {
                    self.prefer(endpoint);
                    return Ok(answer);
                }
                Err(error) => {
                    tracing::debug!(%error, what, "endpoint passed over");
                    last = Some(error);
                }
            }
        }
        Err(self.gave_up(what, last))
    }

    /// The error after every node was asked.
    pub(crate) fn gave_up(&self, what: &'static str, last: Option<ChainError>) -> ChainError {
        match last {
            Some(error) if self.list.len() == 1 => error,
            Some(error) => ChainError::NoEndpoint { count: self.list.len(), what, last: Box::new(error) },
            None => ChainError::Setting { what: "endpoints", detail: "expected at least one URL".into() },
        }
    }
}

impl Endpoint {
    /// Its place in the list.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Scheme, host and port: safe to print.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One call; `null` where the method allows it is `Option::None` in `R`.
    ///
    /// # Errors
    /// `Transport`, `Status`, `Deadline`, `TooLarge`, `Rpc` or `Malformed`, each with endpoint and method.
    pub async fn call<R: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<R, ChainError> {
        match tokio::time::timeout(self.limits.call, self.exchange(method, params)).await {
            Ok(result) => result,
            Err(_) => Err(ChainError::Deadline {
                endpoint: self.name.to_string(),
                method,
                seconds: self.limits.call.as_secs(),
            }),
        }
    }

    async fn exchange<R: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<R, ChainError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let body = serde_json::json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string();
        let transport = |error: reqwest::Error| ChainError::Transport {
            endpoint: self.name.to_string(),
            method,
            detail: printable(&with_causes(&error.without_url())),
        };
        let request = self.client.post(self.url.clone()).header("content-type", "application/json").body(body);
        let mut response = request.send().await.map_err(transport)?;
        let status = response.status().as_u16();
        let limit = self.limits.answer_to(method);
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            if bytes.len().saturating_add(chunk.len()) > limit {
                return Err(ChainError::TooLarge { endpoint: self.name.to_string(), method, limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        // Several nodes send a JSON-RPC error with a status of 4xx or 5xx; the error says more than the status does.
        let answer: Answer<'_> = match serde_json::from_slice(&bytes) {
            Ok(answer) => answer,
            Err(_) if status != 200 => {
                return Err(ChainError::Status { endpoint: self.name.to_string(), method, status });
            }
            Err(error) => return Err(self.malformed(method, format!("expected a JSON-RPC answer: {error}"))),
        };
        if let Some(error) = answer.error {
            return Err(ChainError::Rpc {
                endpoint: self.name.to_string(),
                method,
                code: error.code,
                message: printable(&error.message),
                data: error.data.and_then(revert_data),
            });
        }
        if status != 200 {
            return Err(ChainError::Status { endpoint: self.name.to_string(), method, status });
        }
        if answer.id.map(RawValue::get) != Some(id.to_string().as_str()) {
            return Err(self.malformed(method, "the answer carries the id of another call".into()));
        }
        serde_json::from_str(answer.result.map_or("null", RawValue::get))
            .map_err(|error| self.malformed(method, format!("unexpected shape of the result: {error}")))
    }

    pub(crate) fn malformed(&self, method: &'static str, detail: String) -> ChainError {
        ChainError::Malformed { endpoint: self.name.to_string(), method, detail: printable(&detail) }
    }
}

/// More revert data than this says nothing that would be shown.
const REVERT_DATA: usize = 64 << 10;

/// Nodes put revert data into `error.data`, as text or as an object with `data` (or `result`) inside.
fn revert_data(data: &RawValue) -> Option<Bytes> {
    if data.get().len() > REVERT_DATA {
        return None;
    }
    let data: Value = serde_json::from_str(data.get()).ok()?;
    let text = data.as_str().or_else(|| data.get("data")?.as_str()).or_else(|| data.get("result")?.as_str())?;
    text.parse().ok()
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn display_name(url: &Url) -> Result<String, ChainError> {
    let refuse = |detail: &str| ChainError::Setting { what: "endpoints", detail: detail.to_owned() };
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse(&format!("expected an http:// or https:// URL, got {}://", url.scheme())));
    }
    let host = url.host_str().ok_or_else(|| refuse("expected a URL with a host"))?;
    Ok(match url.port() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    })
}

fn http_client(secure: bool, limits: Limits) -> Result<reqwest::Client, ChainError> {
    let tls = |detail: String| ChainError::Setting { what: "TLS", detail };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(error.to_string()))?;
    // Without https nothing reads the system's authorities: a minimal host may have none.
    let config = if secure {
        let verifier = Verifier::new(provider).map_err(|error| tls(format!("certificate authorities: {error}")))?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
    } else {
        builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
    };
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(limits.connect)
        .http1_only()
        .build()
        .map_err(|error| tls(with_causes(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_token_in_the_url_never_reaches_the_name() {
        let url = Url::parse("https://user:secret@rpc.example:8443/v3/TOKEN?key=TOKEN").unwrap();
        assert_eq!(display_name(&url).unwrap(), "https://rpc.example:8443");
    }

    #[test]
    fn another_scheme_is_refused() {
        let url = Url::parse("ftp://node.example").unwrap();
        assert_eq!(
            display_name(&url).unwrap_err().to_string(),
            "endpoints: expected an http:// or https:// URL, got ftp://"
        );
    }

    #[test]
    fn an_empty_list_is_refused() {
        assert_eq!(
            Endpoints::new(&[], Limits::default()).unwrap_err().to_string(),
            "endpoints: expected at least one URL"
        );
    }

    #[test]
    fn revert_data_is_found_in_both_places() {
        let found = |data: Value| revert_data(&serde_json::value::to_raw_value(&data).unwrap());
        let bytes: Bytes = "0x0102".parse().unwrap();
        assert_eq!(found(Value::from("0x0102")), Some(bytes.clone()));
        assert_eq!(found(serde_json::json!({ "data": "0x0102" })), Some(bytes));
        assert_eq!(found(Value::from("Reverted")), None);
        assert_eq!(found(Value::from("0x00".repeat(REVERT_DATA))), None);
    }

    #[test]
    fn only_logs_may_fill_the_largest_answer() {
        let limits = Limits::default();
        assert_eq!(limits.answer_to("eth_getLogs"), limits.answer);
        for method in ["eth_getProof", "eth_getBlockByNumber", "eth_chainId", "eth_call"] {
            assert!(limits.answer_to(method) <= 8 << 20, "{method}");
        }
        assert_eq!(Limits { answer: 7, ..limits }.answer_to("eth_chainId"), 7);
    }
}
