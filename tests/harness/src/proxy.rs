//! A node that lies: an HTTP proxy in front of a real one that hands every JSON-RPC exchange to a closure.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use url::Url;

/// What the proxy does with one call.
pub enum Act {
    /// Ask the real node and pass the answer on.
    Pass,
    /// Ask the real node for something else and pass that answer on.
    Ask(Value),
    /// Ask the real node, alter the `result`.
    Alter(Box<dyn FnOnce(&mut Value) + Send>),
    /// Ask the real node for something else, alter the `result`.
    AskAlter(Value, Box<dyn FnOnce(&mut Value) + Send>),
    /// Answer this `result` without asking.
    Say(Value),
    /// Answer this JSON-RPC error.
    Fail(i64, &'static str),
    /// Take the request and never answer.
    Silent,
    /// Pass the answer on after a while.
    Slow(std::time::Duration),
    /// Answer without end, as fast as it is taken.
    Endless,
    /// Close the connection.
    HangUp,
    /// Answer this text where the `result` belongs, whatever it is.
    Result(String),
    /// Answer this body, whatever it is.
    Body(Vec<u8>),
    /// Ask the real node, alter the answer's text.
    Rewrite(Box<dyn FnOnce(String) -> String + Send>),
    /// Ask the real node, send half of the answer and close the connection.
    Cut,
    /// Answer this HTTP status, with a page.
    Status(u16),
    /// Ask another node the same.
    Elsewhere(SocketAddr),
}

/// Decides by method and parameters.
pub type Rule = dyn Fn(&str, &Value) -> Act + Send + Sync;

/// A running proxy; ends when dropped.
pub struct Proxy {
    /// Its endpoint.
    pub url: Url,
    task: JoinHandle<()>,
    calls: Arc<AtomicUsize>,
}

impl Proxy {
    /// In front of a real node.
    pub async fn start(target: &Url, rule: impl Fn(&str, &Value) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let target = target.socket_addrs(|| None).unwrap().remove(0);
        let rule: Arc<Rule> = Arc::new(rule);
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (rule, counter) = (Arc::clone(&rule), Arc::clone(&counter));
                tokio::spawn(async move {
                    // A client that goes away is no failure of the test.
                    let _ = serve(stream, target, &*rule, &counter).await;
                });
            }
        });
        Self { url, task, calls }
    }

    /// How many calls came so far.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, target: SocketAddr, rule: &Rule, calls: &AtomicUsize) -> std::io::Result<()> {
    while let Some(body) = read_message(&mut stream).await? {
        calls.fetch_add(1, Ordering::SeqCst);
        let request: Value = serde_json::from_slice(&body)?;
        let id = request["id"].clone();
        let method = request["method"].as_str().unwrap_or_default().to_owned();
        let answer = |result: Value| serde_json::json!({ "jsonrpc": "2.0", "id": id, "result": result });
        let bytes = match rule(&method, &request["params"]) {
            Act::Pass => forward(target, &body).await?,
            Act::Ask(params) => forward(target, &with(&request, params)).await?,
            Act::AskAlter(params, alter) => {
                let answer = forward(target, &with(&request, params)).await?;
                let mut response: Value = serde_json::from_slice(&answer)?;
                alter(&mut response["result"]);
                response.to_string().into_bytes()
            }
            Act::Alter(alter) => {
                let mut response: Value = serde_json::from_slice(&forward(target, &body).await?)?;
                alter(&mut response["result"]);
                response.to_string().into_bytes()
            }
            Act::Say(result) => answer(result).to_string().into_bytes(),
            Act::Fail(code, message) => {
                serde_json::json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
                    .to_string()
                    .into_bytes()
            }
            Act::Silent => std::future::pending().await,
            Act::Slow(pause) => {
                tokio::time::sleep(pause).await;
                forward(target, &body).await?
            }
            Act::Endless => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"result\":\"").await?;
                loop {
                    stream.write_all(&[b'0'; 4096]).await?;
                }
            }
            Act::HangUp => return Ok(()),
            Act::Result(text) => format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{text}}}").into_bytes(),
            Act::Body(bytes) => bytes,
            Act::Rewrite(alter) => {
                let text = String::from_utf8(forward(target, &body).await?).map_err(std::io::Error::other)?;
                alter(text).into_bytes()
            }
            Act::Cut => {
                let bytes = forward(target, &body).await?;
                let head = head("200 OK", bytes.len());
                let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
                return stream.write_all(&[head.as_bytes(), half].concat()).await;
            }
            Act::Status(status) => {
                let page = b"<html>unavailable</html>";
                stream.write_all(&[head(&status.to_string(), page.len()).as_bytes(), page].concat()).await?;
                continue;
            }
            Act::Elsewhere(other) => forward(other, &body).await?,
        };
        let head = head("200 OK", bytes.len());
        // In one piece: two small writes wait for each other's acknowledgement.
        stream.write_all(&[head.as_bytes(), &bytes].concat()).await?;
    }
    Ok(())
}

/// The same call with other parameters.
fn with(request: &Value, params: Value) -> Vec<u8> {
    let mut other = request.clone();
    other["params"] = params;
    other.to_string().into_bytes()
}

fn head(status: &str, length: usize) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n")
}

async fn forward(target: SocketAddr, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(target).await?;
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {target}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    Ok(read_message(&mut stream).await?.unwrap_or_default())
}

/// The rest of a body that comes in chunks, as geth sends it.
async fn read_chunks(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(stream.read_u8().await?);
        }
        let length = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).unwrap();
        let mut chunk = vec![0; length.checked_add(2).unwrap()];
        stream.read_exact(&mut chunk).await?;
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&chunk[..length]);
    }
}

/// Reads one HTTP message; `None` at the end of the connection.
async fn read_message(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return Ok(Some(read_chunks(stream).await?));
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(body))
}
