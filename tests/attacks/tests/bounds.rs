//! Whatever a node sends, the agent's memory and disk stay bounded. One test, one process: the figure is the process's own peak,
//! the lies that it holds ready included.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "what tests share fails loudly")]

use attacks::{proxy::Act, stage::Stage};
use countersign_agent::reason::Reason;

const METHODS: [&str; 4] = ["eth_chainId", "eth_getBlockByNumber", "eth_getProof", "eth_getLogs"];

#[tokio::test]
async fn answers_of_any_size_depth_and_count_are_refused_before_they_fill_memory_or_disk() {
    let mut stage = Stage::dev().await;
    let log = r#"{"address":"0x0000000000000000000000000000000000000000","topics":[],"data":"0x"},"#;
    let account = r#"{"key":"0x0","value":"0x0","proof":["0x","0x","0x","0x","0x","0x","0x","0x"]},"#;
    let fillings: [(&str, &str); 8] = [
        ("lists", "[],"),
        ("zeros", "0,"),
        ("empty texts", r#""0x","#),
        ("depth", "["),
        ("deep objects", r#"{"a":"#),
        ("many members", r#"{"a":0,"b":1},"#),
        ("many logs", log),
        ("many slots", account),
    ];
    let mut worst = (0, String::new());
    for method in METHODS {
        for (what, filling) in fillings {
            let of_size = |size: usize, before: &str, after: &str| {
                let room = size - before.len() - after.len() - 64;
                [before, &filling.repeat(room / filling.len()), "0", after].concat()
            };
            // As much as is taken at all.
            let most = limit(method);
            let mut lies = vec![
                ("result", Lie::Result(of_size(most, "[", "]"))),
                ("member", Lie::Result(of_size(most, member(method), "]}"))),
            ];
            if method == "eth_chainId" {
                let body = |before, after| Lie::Body(of_size(most, before, after));
                lies.push(("id", body(r#"{"jsonrpc":"2.0","id":["#, r#"],"result":null}"#)));
                lies.push(("error's data", body(r#"{"id":1,"error":{"code":3,"message":"","data":["#, "]}}")));
                lies.push(("oversize result", Lie::Result(of_size(most * 2, "[", "]"))));
            }
            for (place, lie) in lies {
                let what = format!("{method}: {what} in the {place}");
                let peak = cycle(&mut stage, method, lie, &what).await;
                if peak > worst.0 {
                    worst = (peak, what);
                }
            }
        }
    }
    println!("worst: {} MiB above, {}", worst.0 >> 10, worst.1);
    // Twice the largest answer of logs, once as bytes and once parsed, and three copies in the lying node's hands.
    assert!(worst.0 < 256 << 10, "{} KiB above, {}", worst.0, worst.1);

    for method in METHODS {
        stage.node().does(move |called, _| if called == method { Act::Endless } else { Act::Pass });
        let failure = stage.agent.cycle().await.failure.unwrap();
        assert_eq!(failure.reason, Reason::EndpointsSilent, "{method}: {failure}");
        assert!(failure.message.contains("exceeds"), "{method}: {failure}");
    }
    let bytes: u64 = disk(&stage.host.path("state"));
    assert!(bytes < 1 << 20, "{bytes} bytes on disk");
    assert!(stage.host.log.text().len() < 256 << 10, "{} bytes of log", stage.host.log.text().len());
    stage.node().is_honest();
    // All of that may have taken longer than a snapshot counts.
    stage.world.anvil.mine(1).await;
    stage.publishes_the_truth("honest again").await;
}

fn limit(method: &str) -> usize {
    match method {
        "eth_getLogs" => 32 << 20,
        "eth_getProof" => 8 << 20,
        "eth_getBlockByNumber" => 4 << 20,
        _ => 1 << 20,
    }
}

/// Text that stands where the answer to a method has its longest list.
fn member(method: &str) -> &'static str {
    match method {
        "eth_getBlockByNumber" => r#"{"transactions":["#,
        "eth_getProof" => r#"{"accountProof":["#,
        _ => r#"{"topics":["#,
    }
}

#[derive(Clone)]
enum Lie {
    Result(String),
    Body(String),
}

/// One cycle with this answer to `method`; KiB by which the peak exceeds what was held before.
async fn cycle(stage: &mut Stage, method: &'static str, lie: Lie, what: &str) -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").expect("the kernel forgets the peak");
    let before = memory("VmRSS:");
    let lie = std::sync::Arc::new(lie);
    stage.node().does(move |called, _| {
        if called != method {
            return Act::Pass;
        }
        match lie.as_ref().clone() {
            Lie::Result(text) => Act::Result(text),
            Lie::Body(text) => Act::Body(text.into_bytes()),
        }
    });
    let failure = stage.agent.cycle().await.failure.unwrap_or_else(|| panic!("{what}: believed"));
    let expected = [Reason::EndpointsSilent, Reason::HeaderUntrusted];
    assert!(expected.contains(&failure.reason), "{what}: {failure}");
    assert!(failure.message.len() < 1024, "{what}: {} bytes of message", failure.message.len());
    memory("VmHWM:").saturating_sub(before)
}

/// KiB.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|found| found.starts_with(line)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn disk(folder: &std::path::Path) -> u64 {
    let size = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() { disk(&entry.path()) } else { metadata.len() }
    };
    std::fs::read_dir(folder).unwrap().map(size).sum()
}
