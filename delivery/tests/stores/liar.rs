//! A place that lies: a socket on loopback that answers each request with whatever bytes a closure gives, and keeps what was asked.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What is done with one request.
pub(crate) enum Lie {
    /// These bytes, then the connection is closed.
    Bytes(Vec<u8>),
    /// These bytes, then silence.
    Hang(Vec<u8>),
    /// A head, then a byte every so often, for ever.
    Drip(Vec<u8>, Duration),
}

/// A running liar; ends when dropped.
pub(crate) struct Liar {
    /// Its address.
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Liar {
    /// Starts one; `lie` is given the request's head.
    pub(crate) async fn start(lie: impl Fn(&str) -> Lie + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (lie, kept) = (Arc::new(lie), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let (lie, kept) = (Arc::clone(&lie), Arc::clone(&kept));
                tokio::spawn(async move {
                    // A client that gives up is what several cases are about.
                    let _ = answer(connection, lie.as_ref(), &kept).await;
                });
            }
        });
        Self { url, requests, task }
    }

    /// One that says the same each time.
    pub(crate) async fn saying(bytes: Vec<u8>) -> Self {
        Self::start(move |_| Lie::Bytes(bytes.clone())).await
    }

    /// The heads of all requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    mut connection: TcpStream,
    lie: &(impl Fn(&str) -> Lie + Send + Sync),
    kept: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    let head = loop {
        let mut buffer = [0; 4096];
        let count = connection.read(&mut buffer).await?;
        request.extend_from_slice(&buffer[..count]);
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break String::from_utf8(request[..end].to_vec()).unwrap();
        }
        if count == 0 {
            return Ok(());
        }
    };
    // The body is read, or the answer may be lost to a reset.
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let missing = (length.unwrap_or(0_usize) + head.len() + 4).saturating_sub(request.len());
    tokio::io::copy(&mut (&mut connection).take(u64::try_from(missing).unwrap()), &mut tokio::io::sink()).await?;
    kept.lock().unwrap().push(head.clone());
    match lie(&head) {
        Lie::Bytes(bytes) => connection.write_all(&bytes).await?,
        Lie::Hang(bytes) => {
            connection.write_all(&bytes).await?;
            connection.flush().await?;
            std::future::pending::<()>().await;
        }
        Lie::Drip(bytes, pause) => {
            connection.write_all(&bytes).await?;
            loop {
                tokio::time::sleep(pause).await;
                connection.write_all(b".").await?;
            }
        }
    }
    connection.shutdown().await
}

/// A whole answer.
pub(crate) fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// An answer in one chunk with a trailer, as nodes end what failed in mid-stream.
pub(crate) fn chunked(headers: &str, body: &[u8], trailer: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n{headers}\r\n{:x}\r\n",
        body.len()
    );
    [head.as_bytes(), body, format!("\r\n0\r\n{trailer}\r\n").as_bytes()].concat()
}
