//! What the stores make of places that lie, break off, hang and refuse.

use std::time::{Duration, Instant};

use countersign_delivery::{
    BlockCid, BlockStore as _, Deadlines, DeliveryError, DirectoryStore, GatewayStore, KuboStore, MAX_BLOCK_BYTES,
    Puts, Stores, Tree,
};

use crate::{
    DEADLINES, file, gateway, kubo,
    liar::{Liar, Lie, chunked, response},
    read,
};

const BLOCK: &[u8] = b"the block";

fn cid() -> BlockCid {
    BlockCid::of(BLOCK).unwrap()
}

/// An error without the liar's address, which differs each time.
fn said(error: &DeliveryError, liar: &Liar) -> String {
    error.to_string().replace(&liar.url, "LIAR")
}

// row: D10
#[tokio::test]
async fn a_gateway_is_believed_only_the_block_itself() {
    let cid = cid();
    let missing = format!("block {cid}: not in gateway LIAR");
    let corrupt =
        |found: &[u8]| format!("block {cid} in gateway LIAR: its bytes hash to {}", BlockCid::of(found).unwrap());
    let longer = [BLOCK, b"x"].concat();
    let too_long = vec![0; (2 << 20) + 1];
    let cases: Vec<(Vec<u8>, String)> = vec![
        (response("200 OK", "", b"another"), corrupt(b"another")),
        (response("200 OK", "", b""), corrupt(b"")),
        (response("200 OK", "", &longer), corrupt(&longer)),
        (response("200 OK", "", &BLOCK[..8]), corrupt(&BLOCK[..8])),
        (
            response("200 OK", "", &vec![0; MAX_BLOCK_BYTES + 1]),
            "block of 262145 bytes: expected at most 262144".to_owned(),
        ),
        (response("200 OK", "", &too_long), "gateway LIAR: get: more than 2097152 bytes".to_owned()),
        (response("404 Not Found", "", b"<html>"), missing.clone()),
        (response("412 Precondition Failed", "", b""), missing.clone()),
        (response("504 Gateway Timeout", "", b""), missing),
        // The right bytes under any status but 200 are not taken.
        (
            response("206 Partial Content", "Content-Range: bytes 0-8/9\r\n", BLOCK),
            "gateway LIAR: get: status 206: a part of it, which was not asked for".to_owned(),
        ),
        (response("203 Altered", "", BLOCK), "gateway LIAR: get: status 203".to_owned()),
        (
            response("406 Not Acceptable", "", BLOCK),
            "gateway LIAR: get: status 406: it does not give raw blocks".to_owned(),
        ),
        (response("410 Gone", "", BLOCK), "gateway LIAR: get: status 410: blocked there".to_owned()),
        (response("429 Too Many Requests", "", BLOCK), "gateway LIAR: get: status 429: too many requests".to_owned()),
        (response("500 Oops", "", &vec![b'x'; 1 << 20]), "gateway LIAR: get: status 500".to_owned()),
        (response("302 Found", "", BLOCK), "gateway LIAR: get: redirected to nowhere".to_owned()),
        (
            response("302 Found", "Location: ftp://elsewhere/\r\n", BLOCK),
            "gateway LIAR: get: redirected to another scheme than http and https".to_owned(),
        ),
        (
            response("301 Moved", "Location: /ipfs/again\r\n", b""),
            "gateway LIAR: get: more than 3 redirects".to_owned(),
        ),
        (
            chunked("Trailer: X-Stream-Error\r\n", BLOCK, "X-Stream-Error: the datastore\tfailed\r\n"),
            "gateway LIAR: get: broke off after 9 bytes: the datastore\\tfailed".to_owned(),
        ),
        (
            response("200 OK", "X-Content-Length: 10\r\n", BLOCK),
            "gateway LIAR: get: broke off after 9 of 10 bytes".to_owned(),
        ),
    ];
    for (answer, expected) in cases {
        let liar = Liar::saying(answer).await;
        let error = gateway(&liar.url).get_block(&cid).await.unwrap_err();
        assert_eq!(said(&error, &liar), expected);
    }
    // Broken off by the connection, and not HTTP at all: the transport's own words.
    let whole = response("200 OK", "", BLOCK);
    for answer in [&whole[..whole.len() - 1], b"", b"HTTP/1.1 200", b"SSH-2.0-OpenSSH_9.2\r\n"] {
        let liar = Liar::saying(answer.to_vec()).await;
        let error = gateway(&liar.url).get_block(&cid).await.unwrap_err();
        assert!(matches!(error, DeliveryError::Transport { .. }), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn a_gateway_is_asked_for_one_raw_block_with_no_range_and_no_browser_s_headers() {
    let liar = Liar::start(|head| {
        let moved = head.starts_with("GET /ipfs/");
        let location = "Location: /moved\r\n";
        Lie::Bytes(if moved { response("307 Temporary", location, b"") } else { response("200 OK", "", BLOCK) })
    })
    .await;
    assert_eq!(gateway(&liar.url).get_block(&cid()).await.unwrap(), BLOCK);
    let requests = liar.requests();
    assert_eq!(requests.len(), 2);
    for (request, path) in requests.iter().zip([format!("/ipfs/{}?format=raw", cid()), "/moved".to_owned()]) {
        let mut lines: Vec<String> = request.lines().map(str::to_ascii_lowercase).collect();
        lines.sort();
        let host = format!("host: {}", liar.url.trim_start_matches("http://"));
        assert_eq!(lines, ["accept: application/vnd.ipld.raw".to_owned(), format!("get {path} http/1.1"), host]);
    }
}

#[tokio::test]
async fn silence_and_drops_end_at_their_deadlines() {
    let deadlines = Deadlines { idle: Duration::from_millis(300), whole: Duration::from_secs(1), ..DEADLINES };
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_vec();
    let endless = b"HTTP/1.1 200 OK\r\nContent-Length: 262144\r\n\r\n".to_vec();
    let (begun, body) = (head.clone(), [head.as_slice(), b"the "].concat());
    type Answer = Box<dyn Fn() -> Lie + Send + Sync>;
    let cases: [(Answer, &str); 4] = [
        (Box::new(|| Lie::Hang(Vec::new())), "no byte for 0 s"),
        (Box::new(move || Lie::Hang(begun.clone())), "no byte for 0 s"),
        (Box::new(move || Lie::Hang(body.clone())), "no byte for 0 s"),
        (Box::new(move || Lie::Drip(endless.clone(), Duration::from_millis(50))), "not done after 1 s"),
    ];
    for (lie, expected) in cases {
        let liar = Liar::start(move |_| lie()).await;
        let url: url::Url = liar.url.parse().unwrap();
        let begun = Instant::now();
        let error = GatewayStore::new(url.clone(), deadlines).unwrap().get_block(&cid()).await.unwrap_err();
        assert_eq!(said(&error, &liar), format!("gateway LIAR: get: {expected}"));
        let error = KuboStore::new(url, None, deadlines).unwrap().get_block(&cid()).await.unwrap_err();
        assert_eq!(said(&error, &liar), format!("kubo LIAR: block/get: {expected}"));
        assert!(begun.elapsed() < Duration::from_secs(4), "{expected}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_node_s_errors_are_kept_in_both_their_forms() {
    let cases: [(&str, &str, &str); 6] = [
        (
            "500 Internal Server Error",
            r#"{"Message":"the repo is full","Code":0,"Type":"error"}"#,
            "status 500: the repo is full",
        ),
        ("400 Bad Request", "argument \"cid\" is required\n", "status 400: argument \"cid\" is required"),
        ("404 Not Found", "404 page not found\n", "not in"),
        ("405 Method Not Allowed", "405 - Method Not Allowed", "status 405: 405 - Method Not Allowed"),
        ("403 Forbidden", "403 - Forbidden\u{1b}[2J", "status 403: 403 - Forbidden\\u{1b}[2J"),
        (
            "500 Internal Server Error",
            r#"{"Message":"block was not found locally (offline): ipld: could not find x"}"#,
            "not in",
        ),
    ];
    for (status, body, expected) in cases {
        let liar = Liar::saying(response(status, "", body.as_bytes())).await;
        let error = kubo(&liar.url).get_block(&cid()).await.unwrap_err();
        assert!(said(&error, &liar).contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_node_is_not_believed_what_it_says_it_stored_gave_or_pinned() {
    let cid = cid();
    let other = BlockCid::of(b"other").unwrap();
    let big = file(MAX_BLOCK_BYTES + 1);
    let root = Tree::of(&big).unwrap().root();
    let json = |body: String| response("200 OK", "Content-Type: application/json\r\n", body.as_bytes());
    let put_cases = [
        (json(format!(r#"{{"Key":"{other}","Size":9}}"#)), format!("block/put: stored as {other}: expected {cid}")),
        (json(r#"{"Key":"Qm","Size":9}"#.to_owned()), format!("block/put: stored as Qm: expected {cid}")),
        (json("{}".to_owned()), "block/put: expected a field Key".to_owned()),
        // What a timeout without a unit gives.
        (
            json(String::new()),
            "block/put: expected JSON with Key: EOF while parsing a value at line 1 column 0".to_owned(),
        ),
    ];
    for (answer, expected) in put_cases {
        let liar = Liar::saying(answer).await;
        let error = kubo(&liar.url).put_tree(&Tree::of(BLOCK).unwrap()).await.unwrap_err();
        assert_eq!(said(&error, &liar), format!("kubo LIAR: {expected}"));
    }
    let tree = Tree::of(&big).unwrap();
    for (lines, good) in [
        (
            format!(
                "{{\"Name\":\"block\",\"Bytes\":262145}}\n{{\"Name\":\"block\",\"Hash\":\"{root}\",\"Size\":\"262245\"}}\n"
            ),
            true,
        ),
        (format!("{{\"Name\":\"block\",\"Hash\":\"{root}\",\"Size\":262245}}"), true),
        (format!("{{\"Hash\":\"{root}\",\"Size\":1}}\n{{\"Hash\":\"{other}\",\"Size\":1}}\n"), false),
        ("{\"Bytes\":262145}\n".to_owned(), false),
        (String::new(), false),
    ] {
        let liar = Liar::saying(json(lines.clone())).await;
        let result = kubo(&liar.url).put_tree(&tree).await;
        assert_eq!(result.is_ok(), good, "{lines}: {result:?}");
    }
    for (pins, good) in
        [(format!("[\"{other}\",\"{cid}\"]"), true), (format!("[\"{other}\"]"), false), ("[]".to_owned(), false)]
    {
        let liar = Liar::saying(json(format!("{{\"Pins\":{pins}}}"))).await;
        assert_eq!(kubo(&liar.url).pin_tree(&cid).await.is_ok(), good, "{pins}");
    }
    for answer in [
        response("200 OK", "", b"other"),
        response("200 OK", "X-Content-Length: 9\r\n", &BLOCK[..8]),
        chunked("Trailer: X-Stream-Error\r\n", BLOCK, "X-Stream-Error: failed\r\n"),
    ] {
        let liar = Liar::saying(answer).await;
        let error = kubo(&liar.url).get_block(&cid).await.unwrap_err();
        assert!(matches!(error, DeliveryError::Corrupt { .. } | DeliveryError::Answer { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_node_is_asked_by_post_with_units_and_without_a_browser_s_headers() {
    let answer = format!(r#"{{"Key":"{}","Size":9}}"#, cid());
    let liar = Liar::saying(response("200 OK", "", answer.as_bytes())).await;
    kubo(&liar.url).put_tree(&Tree::of(BLOCK).unwrap()).await.unwrap();
    kubo(&liar.url).get_block(&cid()).await.unwrap_err();
    let requests = liar.requests();
    assert_eq!(requests.len(), 2);
    for request in &requests {
        assert!(request.starts_with("POST /api/v0/block/") && request.contains("timeout=1s"), "{request}");
        let lower = request.to_ascii_lowercase();
        for header in ["origin:", "referer:", "user-agent:", "authorization:", "expect:"] {
            assert!(!lower.contains(&format!("\n{header}")), "{request}");
        }
    }
    assert!(requests[0].contains("cid-codec=raw&mhtype=sha2-256&pin=true&format=raw&version=1"), "{}", requests[0]);
}

// row: D10
#[tokio::test]
async fn a_dead_a_hanging_and_a_lying_place_never_block_a_good_one() {
    let directory = tempfile::tempdir().unwrap();
    let good = DirectoryStore::open(&directory.path().join("blocks")).unwrap();
    let big = file(2 * MAX_BLOCK_BYTES + 5);
    let root = crate::put(&good, &big).await;
    let hanging = Liar::start(|_| Lie::Hang(Vec::new())).await;
    let lying = Liar::saying(response("200 OK", "", b"lies")).await;
    // A port that nobody listens at.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let closed = format!("http://{closed}");
    let deadlines = Deadlines { idle: Duration::from_secs(1), ..DEADLINES };
    let hangs = GatewayStore::new(hanging.url.parse().unwrap(), deadlines).unwrap();
    let stores = Stores::of(
        vec![
            Box::new(hangs.clone()),
            Box::new(gateway(&closed)),
            Box::new(gateway(&lying.url)),
            Box::new(good.clone()),
        ],
        Puts::Any,
    );
    let begun = Instant::now();
    assert!(stores.get(&root).await.unwrap() == big);
    // The first block pays each deadline once; the three others find the bad places resting.
    assert!(begun.elapsed() < Duration::from_millis(1900), "{:?}", begun.elapsed());
    assert_eq!((hanging.requests().len(), lying.requests().len()), (1, 1));

    // Where all of them fail, each says why.
    let stores = Stores::of(vec![Box::new(hangs), Box::new(gateway(&lying.url))], Puts::Any);
    let error = stores.get(&cid()).await.unwrap_err().to_string();
    let lies = BlockCid::of(b"lies").unwrap();
    assert_eq!(
        error,
        format!(
            "block {cid}: from no store: gateway {}: get: no byte for 1 s; block {cid} in gateway {}: its bytes hash to {lies}",
            hanging.url,
            lying.url,
            cid = cid()
        )
    );
    assert_eq!(
        Stores::of(Vec::new(), Puts::All).get(&cid()).await.unwrap_err().to_string(),
        format!("block {}: from no store: no block store is configured", cid())
    );
}

#[tokio::test]
async fn puts_go_everywhere_at_once_and_all_or_any_must_take_them_as_configured() {
    let directory = tempfile::tempdir().unwrap();
    let good = DirectoryStore::open(&directory.path().join("blocks")).unwrap();
    let hanging = [Liar::start(|_| Lie::Hang(Vec::new())).await, Liar::start(|_| Lie::Hang(Vec::new())).await];
    let stores = |puts| {
        let reading = gateway(&hanging[0].url);
        let places: Vec<Box<dyn countersign_delivery::BlockStore>> = vec![
            Box::new(reading),
            Box::new(kubo(&hanging[0].url)),
            Box::new(kubo(&hanging[1].url)),
            Box::new(good.clone()),
        ];
        Stores::of(places, puts)
    };
    let begun = Instant::now();
    let placed = stores(Puts::Any).put(BLOCK).await.unwrap();
    // Both hung at the same time.
    assert!(begun.elapsed() < Duration::from_millis(3500), "{:?}", begun.elapsed());
    assert_eq!(placed.cid, cid());
    assert_eq!(placed.places.iter().map(|place| place.result.is_ok()).collect::<Vec<_>>(), [false, false, true]);
    let error = stores(Puts::All).put(BLOCK).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("block {}: not stored: kubo {}: block/put: no byte", cid(), hanging[0].url)),
        "{error}"
    );
    // What one place may still have is not gone.
    assert!(stores(Puts::Any).unpin(&cid()).await.is_err());
    assert_eq!(good.list().unwrap(), []);

    let none = Stores::of(vec![Box::new(gateway(&hanging[0].url))], Puts::Any);
    assert!(!none.takes_blocks());
    assert_eq!(
        none.put(BLOCK).await.unwrap_err().to_string(),
        format!("block {}: not stored: no configured block store takes blocks", cid())
    );
}

/// The leaves of a file are fetched one by one: each from whichever place has it.
#[tokio::test]
async fn a_file_is_put_together_from_places_that_each_have_a_part_of_it() {
    let big = file(2 * MAX_BLOCK_BYTES + 5);
    let tree = Tree::of(&big).unwrap();
    let parts = tempfile::tempdir().unwrap();
    let stores: Vec<DirectoryStore> =
        (0..2).map(|at| DirectoryStore::open(&parts.path().join(at.to_string())).unwrap()).collect();
    let whole = DirectoryStore::open(&parts.path().join("whole")).unwrap();
    whole.put_tree(&tree).await.unwrap();
    for (at, (cid, _)) in tree.blocks().enumerate() {
        let name = cid.to_string();
        std::fs::rename(whole.path().join(&name), stores[at % 2].path().join(&name)).unwrap();
    }
    for store in &stores {
        assert!(read(Box::new(store.clone()), &tree.root()).await.is_err());
    }
    let settings = stores.iter().map(|store| store.path().to_owned().into()).collect::<Vec<_>>();
    let both = Stores::open(&settings, Puts::All).unwrap();
    assert!(both.get(&tree.root()).await.unwrap() == big);
}
