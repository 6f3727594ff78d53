//! Deploying the registry on real chains: through the factory, without one, twice, against nodes that lie and others who are faster.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

mod support;

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256, keccak256};
use countersign_chain::{
    ChainError,
    contract::Artifact,
    deployment::{Deployment, FACTORY, Proved, SALT, Way, address_by_factory},
    keys::ActorKey,
    profile::FeeModel,
    send::{FeeCaps, Patience, Progress, Sender},
    survey::survey,
};
use harness::world::{deployment, deployment_of, patience};
use serde_json::{Value, json};
use support::{
    Anvil, FUNDED_KEY, OTHER_KEY, endpoints, key,
    proxy::{Act, Proxy},
    tool,
};
use url::Url;

const NO_FACTORY: [&str; 1] = ["--disable-default-create2-deployer"];

fn artifact() -> Artifact {
    Artifact::built_in().unwrap()
}

/// anvil with a block: under its block 0 nothing can be proved.
async fn chain(arguments: &[&str]) -> Anvil {
    let anvil = Anvil::with(arguments);
    anvil.mine(1).await;
    anvil
}

fn sender_on(node: &Anvil, secret: &str) -> Sender {
    Sender::new(node.endpoints(), key(secret), node.chain_id, patience(), FeeCaps::default())
}

async fn nonce(node: &Anvil, account: Address) -> Value {
    node.call("eth_getTransactionCount", json!([account, "pending"])).await
}

/// A transaction that reaches `geth --dev` while it seals a block can lie there until another one comes.
async fn nudged<T>(geth: &Anvil, work: impl Future<Output = T>) -> T {
    let nudge = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            geth.mine(1).await;
        }
    };
    tokio::select! {
        done = work => done,
        () = nudge => panic!("it goes on for ever"),
    }
}

async fn through(proxy: &Proxy, node: &Anvil) -> Deployment {
    deployment(node, endpoints(&[&proxy.url])).await
}

#[tokio::test]
async fn the_factorys_address_is_the_one_that_cast_computes_and_whoever_comes_second_finds_it() {
    let anvil = chain(&[]).await;
    let place = deployment(&anvil, anvil.endpoints()).await;
    let init_code_hash = keccak256(&artifact().bytecode).to_string();
    let output = Command::new(tool("cast"))
        .args(["create2", "--deployer", &FACTORY.to_string(), "--salt", &SALT.to_string()])
        .args(["--init-code-hash", &init_code_hash])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&address_by_factory(&artifact()).to_string()), "{text}");

    let first = sender_on(&anvil, FUNDED_KEY);
    assert_eq!(place.find(Some(first.address()), false).await.unwrap(), None);
    let plan = place.plan(&first, false).await.unwrap();
    assert_eq!((plan.way.clone(), plan.contract), (Way::Factory, address_by_factory(&artifact())));
    let before = first.balance().await.unwrap();
    let deployed = place.carry_out(&first, &plan, &mut |_| ()).await.unwrap();
    let mined = deployed.mined.clone().unwrap();
    assert_eq!((deployed.proved.contract, deployed.block()), (plan.contract, mined.block));
    assert!(mined.gas_used <= plan.gas && before - first.balance().await.unwrap() <= plan.fee);

    let second = sender_on(&anvil, OTHER_KEY);
    let found = place.ensure(&second, false).await.unwrap();
    assert_eq!((found.proved.contract, found.mined), (plan.contract, None));
    assert_eq!(nonce(&anvil, second.address()).await, "0x0", "nothing was sent");
}

#[tokio::test]
async fn a_missing_factory_is_placed_by_its_presigned_transaction_where_the_chain_takes_it() {
    let anvil = chain(&NO_FACTORY).await;
    let place = deployment(&anvil, anvil.endpoints()).await;
    let sender = sender_on(&anvil, FUNDED_KEY);
    let plan = place.plan(&sender, false).await.unwrap();
    let placed = Way::PlaceFactory { missing: U256::from(10_000_000_000_000_000u64) };
    assert_eq!(plan.way, placed);
    assert_eq!(nonce(&anvil, sender.address()).await, "0x0", "a plan sends nothing");
    // Neither one node's objection nor its lie about the payer leads to an address that others do not look at.
    let objects = Proxy::start(&anvil.url, |method, params| match method {
        "eth_sendRawTransaction" => Act::Fail(-32000, "only replay-protected (EIP-155) transactions allowed over RPC"),
        "eth_getTransactionCount" if params[0] == "0x3fab184622dc19b6109349b94811493bf2a45362" => {
            Act::Say(json!("0x1"))
        }
        _ => Act::Pass,
    })
    .await;
    let fails = Proxy::start(&anvil.url, |method, _| match method {
        "eth_sendRawTransaction" => Act::HangUp,
        _ => Act::Pass,
    })
    .await;
    let way =
        async |urls: &[&Url]| deployment(&anvil, endpoints(urls)).await.plan(&sender, false).await.map(|plan| plan.way);
    for urls in [[&objects.url, &fails.url, &anvil.url], [&anvil.url, &fails.url, &objects.url]] {
        assert_eq!(way(&urls).await.unwrap(), placed);
    }
    let reason = way(&[&objects.url]).await.unwrap();
    assert!(matches!(&reason, Way::Plain { reason } if reason.contains("replay-protected")), "{reason:?}");
    for urls in [&[&objects.url, &fails.url][..], &[&fails.url, &objects.url], &[&fails.url]] {
        let error = way(urls).await.unwrap_err();
        assert!(matches!(error, ChainError::Transport { .. }), "{error}");
    }
    let before = sender.balance().await.unwrap();
    let deployed = place.carry_out(&sender, &plan, &mut |_| ()).await.unwrap();
    assert_eq!(deployed.proved.contract, address_by_factory(&artifact()), "the same as everywhere");
    let spent = before - sender.balance().await.unwrap();
    assert!(spent <= plan.fee, "{spent} of {plan:?}, {:?}", deployed.mined);
    assert_eq!(place.ensure(&sender, false).await.unwrap().mined, None);
}

#[tokio::test]
async fn geth_takes_no_presigned_transaction_so_the_account_deploys_and_finds_it_again() {
    let geth = Anvil::geth().await;
    let place = deployment(&geth, geth.endpoints()).await;
    let sender = sender_on(&geth, FUNDED_KEY);
    let plan = place.plan(&sender, false).await.unwrap();
    assert!(matches!(&plan.way, Way::Plain { reason } if reason.contains("replay-protected")), "{plan:?}");
    let mut report = |_| ();
    let unasked = place.ensure(&sender, false).await.unwrap_err().to_string();
    assert!(unasked.ends_with("; an address of the account's own has to be asked for"), "{unasked}");
    assert_eq!(nonce(&geth, sender.address()).await, "0x0", "nothing was sent");
    let deployed = nudged(&geth, place.carry_out(&sender, &plan, &mut report)).await.unwrap();
    assert_eq!(deployed.proved.contract, plan.contract);
    let again = place.ensure(&sender, false).await.unwrap();
    assert_eq!((again.proved.contract, again.mined), (plan.contract, None));
    // The node's word alone is not enough: it says that the next account has one too.
    let code = geth.call("eth_getCode", json!([plan.contract, "latest"])).await;
    let lying = Proxy::start(&geth.url, move |method, _| match method {
        "eth_getCode" => Act::Say(code.clone()),
        "eth_getTransactionCount" => Act::Say(json!("0x3")),
        _ => Act::Pass,
    })
    .await;
    let other = key(OTHER_KEY).address();
    assert_eq!(through(&lying, &geth).await.find(Some(other), false).await.unwrap(), None);
    assert!(survey(&geth.endpoints()).await.unwrap().p256, "geth's development chain has Osaka's rules");
}

#[tokio::test]
async fn a_geth_that_takes_presigned_transactions_gets_the_factory_and_the_same_address() {
    let geth = Anvil::geth_with(&["--rpc.allow-unprotected-txs"]).await;
    let place = deployment(&geth, geth.endpoints()).await;
    let sender = sender_on(&geth, FUNDED_KEY);
    let plan = place.plan(&sender, false).await.unwrap();
    assert!(matches!(plan.way, Way::PlaceFactory { .. }), "{plan:?}");
    let deployed = nudged(&geth, place.ensure(&sender, false)).await.unwrap();
    assert_eq!(deployed.proved.contract, address_by_factory(&artifact()));
    let again = place.ensure(&sender_on(&geth, OTHER_KEY), false).await.unwrap();
    assert_eq!((again.proved.contract, again.mined), (deployed.proved.contract, None));
}

#[tokio::test]
async fn a_node_that_says_the_contract_is_there_or_is_not_is_not_believed() {
    let anvil = chain(&[]).await;
    let (contract, expected) = (address_by_factory(&artifact()), artifact().code_hash);
    let says = |hash: B256| {
        move |method: &str, params: &Value| match method {
            "eth_getProof" if params[0] == json!(contract) => Act::Alter(Box::new(move |answer| {
                answer["codeHash"] = json!(hash);
                answer["nonce"] = json!("0x1");
            })),
            "eth_getCode" => Act::Say(json!(artifact().bytecode)),
            _ => Act::Pass,
        }
    };
    let there = Proxy::start(&anvil.url, says(expected)).await;
    let error = through(&there, &anvil).await.find(None, false).await.unwrap_err();
    assert!(matches!(error, ChainError::Proof { .. }), "{error}");

    // Two nodes of which one lies: the other proves that there is nothing.
    let both = deployment(&anvil, endpoints(&[&there.url, &anvil.url])).await;
    assert_eq!(both.find(None, false).await.unwrap(), None);

    let sender = sender_on(&anvil, FUNDED_KEY);
    deployment(&anvil, anvil.endpoints()).await.ensure(&sender, false).await.unwrap();
    for hash in [B256::repeat_byte(1), KECCAK256_EMPTY] {
        let other = Proxy::start(&anvil.url, says(hash)).await;
        let error = through(&other, &anvil).await.find(None, false).await.unwrap_err();
        assert!(matches!(error, ChainError::Proof { .. }), "{error}");
    }
    let absent = Proxy::start(&anvil.url, |method, _| match method {
        "eth_getProof" => Act::Alter(Box::new(|answer| {
            answer["codeHash"] = json!(KECCAK256_EMPTY);
            answer["nonce"] = json!("0x0");
            answer["balance"] = json!("0x0");
        })),
        _ => Act::Pass,
    })
    .await;
    let error = through(&absent, &anvil).await.at(contract).await.unwrap_err();
    assert!(matches!(error, ChainError::Proof { .. }), "{error}");
}

#[tokio::test]
async fn other_code_at_the_address_is_a_clear_error_and_coins_there_change_nothing() {
    let anvil = chain(&[]).await;
    let place = deployment(&anvil, anvil.endpoints()).await;
    let contract = address_by_factory(&artifact());
    anvil.fund(contract).await;
    assert_eq!(place.find(None, false).await.unwrap(), None, "an account with coins is no contract");
    let error = place.at(contract).await.unwrap_err();
    assert!(matches!(error, ChainError::CodeHash { got: KECCAK256_EMPTY, .. }), "{error}");
    let mut other = artifact();
    other.code_hash = B256::repeat_byte(1);
    let place = deployment_of(&anvil, anvil.endpoints(), FeeModel::Gas, other).await;
    let sender = sender_on(&anvil, FUNDED_KEY);
    for _ in 0..2 {
        // After the deployment, and before the next.
        let error = place.ensure(&sender, false).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("contract at {contract}: code hash is {}, expected {}", artifact().code_hash, B256::repeat_byte(1))
        );
    }
    assert_eq!(nonce(&anvil, sender.address()).await, "0x1");
}

#[tokio::test]
async fn an_account_without_coins_learns_what_it_needs_before_anything_is_sent() {
    let anvil = chain(&[]).await;
    let place = deployment(&anvil, anvil.endpoints()).await;
    let poor = ActorKey::generate().unwrap();
    let address = poor.address();
    let sender = Sender::new(anvil.endpoints(), poor, anvil.chain_id, patience(), FeeCaps::default());
    let error = place.plan(&sender, false).await.unwrap_err();
    assert!(
        matches!(&error, ChainError::Funds { account, balance, needed } if *account == address && balance.is_zero() && !needed.is_zero()),
        "{error}"
    );
}

#[tokio::test]
async fn a_run_that_ends_between_sending_and_the_receipt_is_found_by_the_next() {
    for plain in [false, true] {
        let anvil = chain(&[]).await;
        let place = deployment(&anvil, anvil.endpoints()).await;
        anvil.call("evm_setAutomine", json!([false])).await;
        let sender = sender_on(&anvil, FUNDED_KEY);
        let plan = place.plan(&sender, plain).await.unwrap();
        let sent = tokio::sync::Notify::new();
        let mut report = |step| {
            if matches!(step, Progress::Sent { .. }) {
                sent.notify_one();
            }
        };
        tokio::select! {
            _ = place.carry_out(&sender, &plan, &mut report) => panic!("nothing is mined yet"),
            () = sent.notified() => {}
        }
        let next = sender_on(&anvil, FUNDED_KEY);
        let (settled, ()) = tokio::join!(next.settle(), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            anvil.mine(1).await;
        });
        assert_eq!(settled.unwrap(), 1);
        let found = place.find(Some(next.address()), plain).await.unwrap().unwrap();
        assert_eq!(found.contract, plan.contract);
        assert_eq!(nonce(&anvil, next.address()).await, "0x1", "one transaction, not two");
    }
}

#[tokio::test]
async fn whoever_deploys_it_first_does_no_harm() {
    let anvil = chain(&[]).await;
    let place = deployment(&anvil, anvil.endpoints()).await;
    anvil.call("evm_setAutomine", json!([false])).await;
    let (victim, other) = (sender_on(&anvil, FUNDED_KEY), sender_on(&anvil, OTHER_KEY));
    let plan = place.plan(&victim, false).await.unwrap();
    let theirs = place.plan(&other, false).await.unwrap();
    let (mut first, mut second) = (|_| (), |_| ());
    let (one, two, ()) = tokio::join!(
        place.carry_out(&victim, &plan, &mut first),
        place.carry_out(&other, &theirs, &mut second),
        async {
            while anvil.call("txpool_status", json!([])).await["pending"] != "0x2" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anvil.mine(1).await;
        }
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((one.proved.contract, two.proved.contract), (plan.contract, plan.contract));
    assert_eq!([one.mined, two.mined].iter().flatten().count(), 1, "one made it, the other found it");
}

#[tokio::test]
async fn who_is_second_waits_for_trusted_headers_that_lag_and_finds_the_contract() {
    let anvil = chain(&[]).await;
    let lag = Arc::new(AtomicUsize::new(0));
    let lagging = Proxy::start(&anvil.url, {
        let lag = Arc::clone(&lag);
        move |method, params| match method {
            "eth_getBlockByNumber"
                if params[0] == "latest"
                    && lag.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() =>
            {
                Act::Ask(json!(["0x1", false]))
            }
            _ => Act::Pass,
        }
    })
    .await;
    let place = through(&lagging, &anvil).await;
    let (slow, fast) = (sender_on(&anvil, FUNDED_KEY), sender_on(&anvil, OTHER_KEY));
    let plan = place.plan(&slow, false).await.unwrap();
    deployment(&anvil, anvil.endpoints()).await.ensure(&fast, false).await.unwrap();
    lag.store(3, Ordering::SeqCst);
    let deployed = place.carry_out(&slow, &plan, &mut |_| ()).await.unwrap();
    assert_eq!((deployed.proved.contract, deployed.mined), (plan.contract, None));
    assert_eq!((lag.load(Ordering::SeqCst), nonce(&anvil, slow.address()).await), (0, json!("0x0")));
}

#[tokio::test]
async fn what_a_reorg_has_undone_is_not_confirmed_when_its_number_is_final() {
    let anvil = chain(&[]).await;
    let place = deployment(&anvil, anvil.endpoints()).await;
    let sender = sender_on(&anvil, FUNDED_KEY);
    let before = anvil.call("evm_snapshot", json!([])).await;
    let first = place.ensure(&sender, false).await.unwrap().proved;
    anvil.mine(3).await;
    assert_eq!(place.confirm(&first).await.unwrap(), first);

    anvil.call("evm_revert", json!([before])).await;
    anvil.call("evm_increaseTime", json!([7])).await;
    anvil.mine(4).await;
    let error = place.confirm(&first).await.unwrap_err();
    assert!(error.to_string().ends_with("does not have it: deploy again"), "{error}");

    // Another block of that number that has it is as good, and is what is told.
    let again = place.ensure(&sender, false).await.unwrap().proved;
    let moved = Proved { block_hash: first.block_hash, ..again };
    assert_eq!(place.confirm(&moved).await.unwrap(), again);
}

#[tokio::test]
async fn earlier_transactions_that_never_come_into_a_block_are_named() {
    let anvil = chain(&[]).await;
    anvil.call("evm_setAutomine", json!([false])).await;
    let payer = key(FUNDED_KEY).address();
    anvil.call("eth_sendTransaction", json!([{ "from": payer, "to": payer }])).await;
    let short = Patience { give_up: Duration::from_millis(100), ..patience() };
    let sender = Sender::new(anvil.endpoints(), key(FUNDED_KEY), anvil.chain_id, short, FeeCaps::default());
    let error = sender.settle().await.unwrap_err();
    assert_eq!(error.to_string(), format!("1 earlier transactions of {payer} are not mined after 0 s"));
}

#[tokio::test]
async fn on_a_rollup_the_plan_counts_what_publishing_costs() {
    let anvil = chain(&[]).await;
    let oracle = Proxy::start(&anvil.url, |method, params| match method {
        "eth_call" if params[0]["to"] == "0x420000000000000000000000000000000000000f" => {
            let word = params[0]["input"].as_str().unwrap();
            assert!(word.starts_with("0xf1c7a58b"), "{word}");
            Act::Say(json!(B256::from(U256::from(777_000_000_000_000_000u64))))
        }
        _ => Act::Pass,
    })
    .await;
    let fee = async |fees| {
        let place = deployment_of(&anvil, endpoints(&[&oracle.url]), fees, artifact()).await;
        place.plan(&sender_on(&anvil, FUNDED_KEY), false).await.unwrap().fee
    };
    let difference = fee(FeeModel::GasAndData).await - fee(FeeModel::Gas).await;
    assert_eq!(difference, U256::from(777_000_000_000_000_000u64));
}

#[tokio::test]
async fn chains_of_no_use_are_refused_by_id_by_their_headers_and_by_what_their_contracts_see() {
    let anvil = Anvil::on_demand();
    let error = deployment(&anvil, anvil.endpoints()).await.find(None, false).await.unwrap_err();
    assert!(error.to_string().ends_with("the chain needs a block"), "{error}");
    let found = survey(&anvil.endpoints()).await.unwrap();
    assert_eq!((found.chain_id, found.p256), (31337, true));

    let by_id = Proxy::start(&anvil.url, |method, _| match method {
        "eth_chainId" => Act::Say(json!("0xa4b1")),
        _ => Act::Pass,
    })
    .await;
    let by_header = Proxy::start(&anvil.url, |method, _| match method {
        "eth_getBlockByNumber" => Act::Alter(Box::new(|block| block["l1BlockNumber"] = json!("0x153f0a1"))),
        _ => Act::Pass,
    })
    .await;
    let by_number = Proxy::start(&anvil.url, |method, params| match method {
        "eth_call" if params[0]["to"].is_null() => Act::Say(json!(B256::from(U256::from(22_278_305u64)))),
        _ => Act::Pass,
    })
    .await;
    let sealed = Proxy::start(&anvil.url, |method, _| match method {
        "eth_getBlockByNumber" => Act::Alter(Box::new(|block| {
            block["mixHash"] = json!("0x63746963616c2062797a616e74696e65206661756c7420746f6c6572616e6365");
        })),
        _ => Act::Pass,
    })
    .await;
    let without_p256 = Proxy::start(&anvil.url, |method, params| match method {
        "eth_call" if params[0]["to"] == "0x0000000000000000000000000000000000000100" => Act::Say(json!("0x")),
        _ => Act::Pass,
    })
    .await;
    for (proxy, text) in [
        (&by_id, "chain id 42161 is refused: its contracts see another block number than its logs carry"),
        (&by_header, "contracts on chains like Arbitrum see the parent chain's block number"),
        (&sealed, "chains of IBFT 2.0 and QBFT leave seals out of their hashes, and cannot be used"),
        (&by_number, "chain id 31337 is refused: in block 0 its contracts see block number 22278305, and logs carry 0"),
    ] {
        let error = survey(&endpoints(&[&proxy.url])).await.unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
    assert!(!survey(&endpoints(&[&without_p256.url])).await.unwrap().p256);
    // The same header is refused wherever one is read, not only when a realm is made.
    let place = through(&by_header, &anvil).await;
    let error = place.find(None, false).await.unwrap_err();
    assert!(matches!(error, ChainError::Header { .. }), "{error}");
}
