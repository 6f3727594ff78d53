//! Writing to a real chain: refusals before and after mining, nonces, stuck transactions, greedy nodes.

#![expect(clippy::arithmetic_side_effects, reason = "a test fails loudly")]

mod support;

use std::{
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy_primitives::{B256, U256};
use countersign_chain::{
    ChainError,
    endpoints::Endpoints,
    keys::ActorKey,
    realm_file::HeaderTrust,
    send::{FeeCaps, Patience, Progress, Sender, SignedAppend},
    signing::{SigningKey, p256_public_key},
    sync::Cursor,
};
use countersign_registry::{
    Kind,
    entries::{Entry, payload},
    shard,
    sign::{self, Write},
    signature::P256Form,
};
use serde_json::json;
use support::{
    Anvil, FUNDED_KEY, OTHER_KEY, World, endpoints, key, limits, look, note, patience,
    proxy::{Act, Proxy},
    sender, texts,
};

fn impatient() -> Patience {
    Patience { stuck: Duration::from_millis(300), ..patience() }
}

fn impatient_sender(nodes: Endpoints) -> Sender {
    Sender::new(nodes, key(FUNDED_KEY), 31337, impatient(), FeeCaps::default())
}

#[tokio::test]
async fn progress_tells_the_hash_before_it_is_sent_and_the_block_at_the_end() {
    let world = World::new().await;
    let mut steps = Vec::new();
    let mined = world
        .admin
        .append(world.pin.contract, world.pin.realm, &note("alice"), &mut |step| steps.push(step))
        .await
        .unwrap();
    assert!(
        matches!(steps.first(), Some(Progress::Sending { transaction, nonce: 2, .. }) if *transaction == mined.transaction),
        "{steps:?}"
    );
    assert_eq!(steps.get(1), Some(&Progress::Sent { transaction: mined.transaction }));
    assert_eq!(steps.last(), Some(&Progress::Mined { transaction: mined.transaction, block: mined.block }));
    assert_eq!(mined.entries.len(), 1);
    assert_eq!(mined.entries[0].data, note("alice").data);
}

#[tokio::test]
async fn a_refusal_of_the_contract_is_told_in_words_and_costs_nothing() {
    let world = World::new().await;
    let before = world.admin.balance().await.unwrap();
    let forbidden = Write { shard: shard::shard(4, 0), kind: Kind::COUNTERSIGN.0, data: sign::clear(b"x") };
    let mut steps = Vec::new();
    let error = world
        .admin
        .append(world.pin.contract, world.pin.realm, &forbidden, &mut |step| steps.push(step))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the registry refuses: {} has no role that may write entries of kind 0x0500 in realm {}",
            world.admin.address(),
            world.pin.realm
        )
    );
    assert_eq!(steps, []);
    assert_eq!(world.admin.balance().await.unwrap(), before);
}

#[tokio::test]
async fn a_transaction_that_fails_only_when_mined_is_reported_with_its_reason() {
    let world = World::new().await;
    world.anvil.call("evm_setAutomine", json!([false])).await;
    let write = [sign::write(
        shard::GOVERNANCE,
        &Entry::RoleSet(payload::RoleSet { actor: key(OTHER_KEY).address(), roles: 1, x25519: B256::ZERO }),
    )];
    // Both are right when they are estimated; the second has the nonce of the first.
    let (first, second, ()) = tokio::join!(world.by_roots_at(1, &write), world.by_roots_at(1, &write), async {
        loop {
            let pending = world.anvil.call("txpool_status", json!([])).await;
            if pending["pending"] == "0x2" {
                world.anvil.mine(1).await;
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let (won, lost) = if first.is_ok() { (first, second) } else { (second, first) };
    assert_eq!(won.unwrap().entries.len(), 1);
    let error = lost.unwrap_err();
    assert!(matches!(error, ChainError::Reverted { transaction: Some(_), .. }), "{error}");
}

#[tokio::test]
async fn parallel_appends_of_one_sender_all_land_each_with_its_own_nonce() {
    let world = World::on(Anvil::with(&["--block-time", "1"])).await;
    let texts: Vec<String> = (0..6).map(|number| format!("note {number}")).collect();
    let nonces = Mutex::new(Vec::new());
    let all = texts.iter().map(|text| {
        let (world, nonces) = (&world, &nonces);
        async move {
            let mut report = |step| {
                if let Progress::Sending { nonce, .. } = step {
                    nonces.lock().unwrap().push(nonce);
                }
            };
            world.admin.append(world.pin.contract, world.pin.realm, &note(text), &mut report).await
        }
    });
    for outcome in futures::future::join_all(all).await {
        outcome.unwrap();
    }
    let mut nonces = nonces.into_inner().unwrap();
    nonces.sort_unstable();
    assert_eq!(nonces, [2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn two_senders_of_one_account_do_not_lose_an_entry() {
    let world = World::new().await;
    let other = sender(&world.anvil.url, FUNDED_KEY);
    for text in ["one", "two"] {
        world.note(&[text]).await;
        other.append(world.pin.contract, world.pin.realm, &note(text), &mut |_| ()).await.unwrap();
    }
    world.anvil.mine(3).await;
    let update = look(&mut world.ledger(HeaderTrust::Dev, &[&world.anvil.url]), &Cursor::default()).await.unwrap();
    assert_eq!(texts(&update.final_entries), ["one", "one", "two", "two"]);
}

#[tokio::test]
async fn a_stuck_transaction_is_replaced_with_a_higher_fee_under_the_same_nonce() {
    let world = World::new().await;
    world.anvil.call("evm_setAutomine", json!([false])).await;
    let stuck = impatient_sender(endpoints(&[&world.anvil.url]));
    let replaced = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&replaced);
    let mut report = move |step| {
        if let Progress::Sending { nonce, cost, .. } = step {
            seen.lock().unwrap().push((nonce, cost));
        }
    };
    let write = note("late");
    let (mined, ()) = tokio::join!(stuck.append(world.pin.contract, world.pin.realm, &write, &mut report), async {
        while replaced.lock().unwrap().len() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world.anvil.mine(1).await;
    });
    assert_eq!(mined.unwrap().entries.len(), 1);
    let sent = replaced.lock().unwrap().clone();
    assert!(sent.iter().all(|(nonce, _)| *nonce == sent[0].0), "{sent:?}");
    assert!(sent.windows(2).all(|pair| pair[1].1 * U256::from(10) >= pair[0].1 * U256::from(11)), "{sent:?}");
    world.anvil.mine(1).await;
    let once = look(&mut world.ledger(HeaderTrust::Dev, &[&world.anvil.url]), &Cursor::default()).await.unwrap();
    assert_eq!(texts(&once.latest_entries), ["late"], "replaced, not repeated");
}

#[tokio::test]
async fn an_interrupted_run_waits_on_by_hash() {
    let world = World::new().await;
    world.anvil.call("evm_setAutomine", json!([false])).await;
    let short = Patience { give_up: Duration::from_millis(200), ..patience() };
    let first = Sender::new(endpoints(&[&world.anvil.url]), key(FUNDED_KEY), 31337, short, FeeCaps::default());
    let error = first.append(world.pin.contract, world.pin.realm, &note("x"), &mut |_| ()).await.unwrap_err();
    let ChainError::NotMined { transaction, .. } = error else { panic!("{error}") };
    world.anvil.mine(1).await;
    let mined = sender(&world.anvil.url, FUNDED_KEY).resume(transaction, &mut |_| ()).await.unwrap();
    assert_eq!((mined.transaction, mined.entries.len()), (transaction, 1));
}

#[tokio::test]
async fn an_account_without_money_is_named_with_what_it_needs() {
    let world = World::new().await;
    let poor = ActorKey::generate().unwrap();
    let address = poor.address();
    let sender = Sender::new(endpoints(&[&world.anvil.url]), poor, 31337, patience(), FeeCaps::default());
    let inbox = Write { shard: shard::shard(7, 0), kind: Kind::ENROL.0, data: sign::clear(b"hello") };
    let error = sender.append(world.pin.contract, world.pin.realm, &inbox, &mut |_| ()).await.unwrap_err();
    assert!(
        matches!(&error, ChainError::Funds { account, balance, .. } if *account == address && balance.is_zero()),
        "{error}"
    );
}

#[tokio::test]
async fn a_node_that_quotes_an_absurd_fee_cannot_burn_the_account() {
    let world = World::new().await;
    let greedy = Proxy::start(&world.anvil.url, |method, _| match method {
        "eth_maxPriorityFeePerGas" => Act::Say(json!("0xffffffffffffffffffff")),
        "eth_estimateGas" => Act::Say(json!("0x1000000000")),
        _ => Act::Pass,
    })
    .await;
    let mut cost = U256::ZERO;
    let mut report = |step| {
        if let Progress::Sending { cost: at_most, .. } = step {
            cost = at_most;
        }
    };
    let sender = Sender::new(endpoints(&[&greedy.url]), key(FUNDED_KEY), 31337, patience(), FeeCaps::default());
    sender.append(world.pin.contract, world.pin.realm, &note("x"), &mut report).await.unwrap();
    let gwei = U256::from(1_000_000_000u64);
    assert_eq!(cost, U256::from(1u64 << 24) * U256::from(1000) * gwei);
}

#[tokio::test]
async fn a_node_that_leaves_out_the_base_fee_does_not_get_the_price_it_asks_for() {
    let world = World::new().await;
    let hungry = Proxy::start(&world.anvil.url, |method, _| match method {
        "eth_getBlockByNumber" => Act::Alter(Box::new(|block| {
            block.as_object_mut().unwrap().remove("baseFeePerGas");
        })),
        "eth_gasPrice" => Act::Say(json!("0xffffffffffffffffffff")),
        _ => Act::Pass,
    })
    .await;
    let alone = Sender::new(endpoints(&[&hungry.url]), key(FUNDED_KEY), 31337, patience(), FeeCaps::default());
    let mut steps = Vec::new();
    let error =
        alone.append(world.pin.contract, world.pin.realm, &note("x"), &mut |step| steps.push(step)).await.unwrap_err();
    assert!(error.to_string().contains("the block has no baseFeePerGas") && steps.is_empty(), "{error}, {steps:?}");

    let nodes = endpoints(&[&hungry.url, &world.anvil.url]);
    let sender = Sender::new(nodes, key(FUNDED_KEY), 31337, patience(), FeeCaps::default());
    let mined = sender.append(world.pin.contract, world.pin.realm, &note("x"), &mut |_| ()).await.unwrap();
    let transaction = world.anvil.call("eth_getTransactionByHash", json!([mined.transaction])).await;
    assert_eq!(transaction["type"], "0x2", "{transaction}");
    let tip: U256 = serde_json::from_value(transaction["maxPriorityFeePerGas"].clone()).unwrap();
    assert!(tip <= U256::from(FeeCaps::default().tip), "{tip}");
}

#[tokio::test]
async fn a_signed_write_is_sent_by_another_account_and_only_once() {
    let world = World::new().await;
    let actor = key(OTHER_KEY);
    let role = Entry::RoleSet(payload::RoleSet { actor: actor.address(), roles: 1, x25519: B256::ZERO });
    world.by_roots_at(1, &[sign::write(shard::GOVERNANCE, &role)]).await.unwrap();
    let writes = vec![note("signed"), note("twice")];
    let (nonce, deadline) = (U256::ZERO, U256::from(u64::MAX));
    let domain = sign::domain(world.pin.chain_id, world.pin.contract);
    let digest = sign::append_digest(&domain, actor.address(), world.pin.realm, &writes, nonce, deadline);
    let signature = actor.sign(&digest).unwrap().as_bytes().to_vec().into();
    let signed = SignedAppend { actor: actor.address(), realm: world.pin.realm, writes, nonce, deadline, signature };
    let mined = world.admin.append_by_sig(world.pin.contract, &signed, &mut |_| ()).await.unwrap();
    assert!(mined.entries.iter().all(|entry| entry.actor == actor.address()));
    assert_eq!(mined.entries.len(), 2);
    let error = world.admin.append_by_sig(world.pin.contract, &signed, &mut |_| ()).await.unwrap_err();
    assert_eq!(error.to_string(), "the registry refuses: nonce 0 was signed, the next one is 1");
}

#[tokio::test]
async fn a_p256_key_signs_and_another_account_sends() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    std::fs::write(&path, include_str!("../../tests/vectors/p256/key.pem")).unwrap();
    let load = || SigningKey::load(&path, |_| None, |_| panic!("a PEM file has no password"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(load().unwrap_err().to_string().contains("expected mode 0600, got 0644"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let key = load().unwrap();
    let public = p256_public_key(include_str!("../../tests/vectors/p256/public.pem")).unwrap();
    assert_eq!(key.address(), public.address(P256Form::Digest));
    let actor = key.address();
    let role = Entry::RoleSet(payload::RoleSet { actor, roles: 1, x25519: B256::ZERO });
    world.by_roots_at(1, &[sign::write(shard::GOVERNANCE, &role)]).await.unwrap();
    let (writes, nonce, deadline) = (vec![note("by a token")], U256::ZERO, U256::from(u64::MAX));
    let realm = world.pin.realm;
    let domain = sign::domain(world.pin.chain_id, world.pin.contract);
    let digest = sign::append_digest(&domain, actor, realm, &writes, nonce, deadline);
    let signed = |digest| SignedAppend {
        actor,
        realm,
        writes: writes.clone(),
        nonce,
        deadline,
        signature: key.sign(&digest).unwrap(),
    };
    let send = async |signed| world.admin.append_by_sig(world.pin.contract, &signed, &mut |_| ()).await;
    let error = send(signed(B256::ZERO)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("the registry refuses: not a signature by {actor} over these writes"));
    let mined = send(signed(digest)).await.unwrap();
    assert_eq!(mined.entries.iter().map(|entry| entry.actor).collect::<Vec<_>>(), [actor]);
}

#[tokio::test]
async fn a_send_whose_answer_is_lost_is_not_sent_under_a_second_nonce() {
    let world = World::new().await;
    let deaf = Proxy::start(&world.anvil.url, |method, _| match method {
        // The node takes it; what comes back is rubbish.
        "eth_sendRawTransaction" => Act::Alter(Box::new(|result| *result = json!("lost"))),
        _ => Act::Pass,
    })
    .await;
    let nodes = Endpoints::new(std::slice::from_ref(&deaf.url), limits()).unwrap();
    let sender = Sender::new(nodes, key(FUNDED_KEY), 31337, patience(), FeeCaps::default());
    sender.append(world.pin.contract, world.pin.realm, &note("once"), &mut |_| ()).await.unwrap();
    world.anvil.mine(3).await;
    let update = look(&mut world.ledger(HeaderTrust::Dev, &[&world.anvil.url]), &Cursor::default()).await.unwrap();
    assert_eq!(texts(&update.final_entries), ["once"]);
}

#[tokio::test]
async fn a_node_that_lags_with_the_nonce_is_overruled_by_the_refusal() {
    let world = World::new().await;
    let stale = Proxy::start(&world.anvil.url, |method, _| match method {
        "eth_getTransactionCount" => Act::Say(json!("0x0")),
        _ => Act::Pass,
    })
    .await;
    let sender = Sender::new(endpoints(&[&stale.url]), key(FUNDED_KEY), 31337, patience(), FeeCaps::default());
    let mut nonces = Vec::new();
    let mut report = |step| {
        if let Progress::Sending { nonce, .. } = step {
            nonces.push(nonce);
        }
    };
    sender.append(world.pin.contract, world.pin.realm, &note("x"), &mut report).await.unwrap();
    assert_eq!(nonces, [0, 1, 2]);
}

#[tokio::test]
async fn nodes_that_fail_while_a_receipt_is_awaited_do_not_end_the_wait() {
    let world = World::new().await;
    let failures = std::sync::atomic::AtomicUsize::new(0);
    let shaky = Proxy::start(&world.anvil.url, move |method, _| match method {
        "eth_getTransactionReceipt" if failures.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 3 => Act::HangUp,
        _ => Act::Pass,
    })
    .await;
    let sender = Sender::new(endpoints(&[&shaky.url]), key(FUNDED_KEY), 31337, patience(), FeeCaps::default());
    let mined = sender.append(world.pin.contract, world.pin.realm, &note("x"), &mut |_| ()).await.unwrap();
    assert_eq!(mined.entries.len(), 1);
}
