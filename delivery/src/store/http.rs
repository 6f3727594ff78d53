//! HTTP to places that nobody trusts: each call has a deadline for silence and one for the whole, and a limit on what is read; proxies
//! from the environment are not used, redirects are never followed by the client itself, and certificates of `https://` addresses are
//! checked against the system's authorities (rustls with ring).
//!
//! Sends no Origin, Referer or User-Agent: an IPFS node takes those for a browser and refuses. An answer that broke off is an error,
//! also where its status is 200: nodes report a failure in mid-stream in the trailer `X-Stream-Error`, or only by fewer bytes than
//! `X-Content-Length` promised.

use std::{error::Error, sync::Arc, time::Duration};

use http_body_util::BodyExt as _;
use reqwest::{Client, RequestBuilder, header::HeaderMap};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use url::{Host, Url};

use crate::error::{DeliveryError, printable};

/// The most that is read of a block, in bytes: what IPFS nodes exchange at most.
pub(super) const MAX_READ_BYTES: usize = 2 << 20;
/// The most that is read of an answer that means no.
const MAX_REFUSAL_BYTES: usize = 16 << 10;

/// How long a place may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For the connection, handshake included.
    pub connect: Duration,
    /// Without a byte.
    pub idle: Duration,
    /// From the first byte sent to the last byte received.
    pub whole: Duration,
}

impl Default for Deadlines {
    /// 5 s to connect, 30 s of silence, 120 s in all.
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), idle: Duration::from_secs(30), whole: Duration::from_secs(120) }
    }
}

/// A place that is spoken to over HTTP.
#[derive(Clone, Debug)]
pub(super) struct Http {
    name: Arc<str>,
    base: Url,
    client: Client,
    deadlines: Deadlines,
}

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) location: Option<String>,
    pub(super) body: Vec<u8>,
}

impl Http {
    /// `kind` and the address make the name.
    ///
    /// # Errors
    /// [`DeliveryError::Setting`] for an address that is not plain http or https.
    pub(super) fn new(kind: &str, base: Url, deadlines: Deadlines) -> Result<Self, DeliveryError> {
        let refuse =
            |problem: &str| DeliveryError::Setting { store: printable(base.as_str()), problem: problem.to_owned() };
        if !matches!(base.scheme(), "http" | "https") {
            return Err(refuse("expected an http:// or https:// address"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            // Addresses are printed.
            let store = format!("{}://{}", base.scheme(), base.host_str().unwrap_or_default());
            let problem = "expected credentials in an authorization file, not in the address".to_owned();
            return Err(DeliveryError::Setting { store, problem });
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(refuse("expected an address without a query and a fragment"));
        }
        let name = format!("{kind} {}", base.as_str().trim_end_matches('/'));
        let client = client(base.scheme() == "https", deadlines).map_err(|problem| refuse(&problem))?;
        Ok(Self { name: name.into(), base, client, deadlines })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn deadlines(&self) -> Deadlines {
        self.deadlines
    }

    /// Whether what is sent stays on this machine or is encrypted.
    pub(super) fn is_private(&self) -> bool {
        self.base.scheme() == "https" || is_loopback(&self.base)
    }

    /// The address of something below the base address.
    pub(super) fn below(&self, segments: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        // Only addresses without a host have no path, and those are refused.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Sends, and reads the whole answer, of which at most `limit` bytes are taken.
    ///
    /// # Errors
    /// [`DeliveryError::Transport`], [`DeliveryError::Deadline`]; [`DeliveryError::Answer`] for one that is too long or broke off.
    pub(super) async fn send(
        &self,
        action: &'static str,
        request: RequestBuilder,
        limit: usize,
    ) -> Result<Reply, DeliveryError> {
        let whole = self.deadlines.whole;
        tokio::time::timeout(whole, self.exchange(action, request, limit)).await.unwrap_or_else(|_| {
            Err(DeliveryError::Deadline {
                store: self.name.to_string(),
                action,
                what: "not done after",
                seconds: whole.as_secs(),
            })
        })
    }

    async fn exchange(
        &self,
        action: &'static str,
        request: RequestBuilder,
        limit: usize,
    ) -> Result<Reply, DeliveryError> {
        let response = self.awake(action, request.send()).await?.map_err(|error| self.transport(action, error))?;
        let status = response.status().as_u16();
        let header = |headers: &HeaderMap, name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        let location = header(response.headers(), "location");
        let promised: Option<usize> =
            header(response.headers(), "x-content-length").and_then(|length| length.parse().ok());
        let mut stream_error = None;
        let mut body = Vec::new();
        let mut frames = reqwest::Body::from(response);
        while let Some(frame) = self.awake(action, frames.frame()).await? {
            let frame = match frame.map_err(|error| self.transport(action, error))?.into_data() {
                Ok(data) => {
                    body.extend_from_slice(&data);
                    if status != 200 && body.len() > MAX_REFUSAL_BYTES {
                        break;
                    }
                    if body.len() > limit {
                        return Err(self.answer(action, format!("more than {limit} bytes")));
                    }
                    continue;
                }
                Err(frame) => frame,
            };
            if let Ok(trailers) = frame.into_trailers() {
                stream_error = header(&trailers, "x-stream-error");
            }
        }
        if let Some(error) = stream_error {
            return Err(self.answer(action, format!("broke off after {} bytes: {error}", body.len())));
        }
        if let Some(promised) = promised.filter(|promised| status == 200 && *promised != body.len()) {
            return Err(self.answer(action, format!("broke off after {} of {promised} bytes", body.len())));
        }
        Ok(Reply { status, location, body })
    }

    /// Waits for the next byte, not for ever.
    async fn awake<T>(&self, action: &'static str, next: impl Future<Output = T>) -> Result<T, DeliveryError> {
        let idle = self.deadlines.idle;
        tokio::time::timeout(idle, next).await.map_err(|_| {
            let store = self.name.to_string();
            DeliveryError::Deadline { store, action, what: "no byte for", seconds: idle.as_secs() }
        })
    }

    fn transport(&self, action: &'static str, error: reqwest::Error) -> DeliveryError {
        let error = error.without_url();
        let mut detail = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            detail.push_str(": ");
            detail.push_str(&inner.to_string());
            cause = inner.source();
        }
        DeliveryError::Transport { store: self.name.to_string(), action, detail: printable(&detail) }
    }

    pub(super) fn answer(&self, action: &'static str, problem: impl AsRef<str>) -> DeliveryError {
        DeliveryError::Answer { store: self.name.to_string(), action, problem: printable(problem.as_ref()) }
    }

    pub(super) fn status(&self, action: &'static str, status: u16, text: &str) -> DeliveryError {
        DeliveryError::Status { store: self.name.to_string(), action, status, text: printable(text.trim()) }
    }
}

/// Whether an address names this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback() || address.is_unspecified(),
        Some(Host::Ipv6(address)) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
        }
        None => false,
    }
}

fn client(secure: bool, deadlines: Deadlines) -> Result<Client, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    // Without https nothing reads the system's authorities: a minimal host may have none.
    let config = if secure {
        let verifier = Verifier::new(provider).map_err(|error| format!("TLS: certificate authorities: {error}"))?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
    } else {
        builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
    };
    Client::builder()
        .tls_backend_preconfigured(config)
        .no_proxy()
        .referer(false)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(deadlines.connect)
        .http1_only()
        .build()
        .map_err(|error| format!("TLS: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(url: &str) -> Result<Http, String> {
        let url = Url::parse(url).unwrap();
        Http::new("gateway", url, Deadlines::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_with_credentials_a_query_or_another_scheme_is_refused_without_printing_a_secret() {
        let cases = [
            (
                "http://user:secret@node:5001",
                "block store http://node: expected credentials in an authorization file, not in the address",
            ),
            ("http://node?a=b", "block store http://node/?a=b: expected an address without a query and a fragment"),
            ("ftp://node", "block store ftp://node/: expected an http:// or https:// address"),
        ];
        for (url, message) in cases {
            assert_eq!(http(url).unwrap_err(), message);
        }
    }

    #[test]
    fn a_path_in_the_address_is_kept_and_names_are_escaped() {
        let http = http("http://node:8080/ipfs-api/").unwrap();
        assert_eq!(http.name(), "gateway http://node:8080/ipfs-api");
        let url = http.below(&["api", "v0", "block", "get"], &[("arg", "a b&c"), ("timeout", "30s")]);
        assert_eq!(url.as_str(), "http://node:8080/ipfs-api/api/v0/block/get?arg=a+b%26c&timeout=30s");
        assert_eq!(http.below(&["ipfs", "../x"], &[]).as_str(), "http://node:8080/ipfs-api/ipfs/..%2Fx");
    }

    #[test]
    fn this_machine_is_known_under_its_names() {
        for (url, expected) in [
            ("http://127.0.0.1:5001", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:5001", true),
            ("http://[::ffff:127.0.0.1]", true),
            ("http://0.0.0.0", true),
            ("http://LocalHost", true),
            ("http://a.localhost.", true),
            ("http://localhost.example", false),
            ("http://192.168.0.1", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
        assert!(http("https://node").unwrap().is_private() && !http("http://node").unwrap().is_private());
    }
}
