//! Endpoints over TLS, against a server of the test's own: an authority that the system knows is taken, any other is refused.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::{process::Command, sync::Arc};

use countersign_chain::{
    ChainError,
    endpoints::{Endpoints, Limits},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

/// Set in the child process that plays the client: authorities are read from the environment once, at the start.
const CHILD: &str = "COUNTERSIGN_TEST_HTTPS_URL";

/// A TLS server for `localhost` that answers every first call with 0x7a69; its authority, in PEM.
async fn server() -> (Url, String) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &authority).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("https://localhost:{}", listener.local_addr().unwrap().port())).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not like the certificate goes away here.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let body = r#"{"jsonrpc":"2.0","id":1,"result":"0x7a69"}"#;
            let answer =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (url, authority.pem())
}

async fn call(url: &Url) -> Result<String, ChainError> {
    let nodes = Endpoints::new(std::slice::from_ref(url), Limits::default())?;
    nodes.iter().next().unwrap().call("eth_chainId", serde_json::json!([])).await
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    let (url, _) = server().await;
    let error = call(&url).await.unwrap_err();
    assert!(matches!(&error, ChainError::Transport { detail, .. } if detail.contains("UnknownIssuer")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_an_authority_that_the_system_knows_is_taken_for_its_name_only() {
    if let Ok(url) = std::env::var(CHILD) {
        let url = Url::parse(&url).unwrap();
        assert_eq!(call(&url).await.unwrap(), "0x7a69");
        let by_address = Url::parse(&format!("https://127.0.0.1:{}", url.port().unwrap())).unwrap();
        let error = call(&by_address).await.unwrap_err();
        assert!(
            matches!(&error, ChainError::Transport { detail, .. } if detail.contains("not valid for name")),
            "{error}"
        );
        println!("both checked");
        return;
    }
    let (url, authority) = server().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("authorities.pem");
    std::fs::write(&file, authority).unwrap();
    let child = tokio::task::spawn_blocking(move || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("a_certificate_of_an_authority_that_the_system_knows_is_taken_for_its_name_only")
            .env(CHILD, url.as_str())
            .env("SSL_CERT_FILE", &file)
            .output()
    });
    let output = child.await.unwrap().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("both checked"), "{text}");
}
