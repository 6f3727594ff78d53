//! Entries that mean something else in another order, and what a denial that a reorg took back keeps from counting.

use attacks::{
    cast::{BOB_KEY, CAROL_KEY, Cast, Post, Question, Who},
    paper::blob,
    world::HostFiles,
};
use countersign_agent::reason::Reason as AgentReason;
use countersign_registry::{
    entries::{Entry, Targets},
    replay::setting,
};
use countersign_sshd::Reason;

use crate::{protocol::Questions, settings};

/// The final view passes `block` by this many blocks.
async fn pass(cast: &Cast, post: &mut Post, block: u64, by: u64) {
    let (latest, last) = (cast.world.latest_number().await, cast.world.anvil.number("finalized").await);
    cast.world.anvil.mine(block + by - last).await;
    post.cycle(cast, "passing").await;
    assert_eq!(post.final_block(), block + by, "from {last} and {latest}");
}

async fn stranger(cast: &Cast) -> Post {
    Post::of(cast, HostFiles::new(&cast.world, cast.ids.host, "")).await
}

#[tokio::test]
async fn an_unlock_that_a_reorg_puts_behind_its_lock_counts_once_final_and_one_it_puts_before_it_does_nothing() {
    let cast = Cast::new().await;
    let ask = Questions::new(&cast);
    let lock = |key| Entry::Lock(Targets::Keys(vec![key]));
    let unlock = |key| Entry::Unlock(Targets::Keys(vec![key]));
    let (alice, carol) = (cast.alice_key, countersign_certificate::Fingerprint20::of_blob(&blob(CAROL_KEY)));

    // First the unlock, of nothing; then the lock.
    let mut post = Post::new(&cast).await;
    cast.put(Who::Roots, &unlock(alice)).await;
    cast.put(Who::Admin, &lock(alice)).await;
    let block = cast.world.latest_number().await;
    post.cycle(&cast, "unlock, lock").await;
    assert_eq!(post.ask(&ask.key), Reason::KeyLocked);
    cast.rollback(2).await;
    cast.put(Who::Admin, &lock(alice)).await;
    cast.put(Who::Roots, &unlock(alice)).await;
    post.cycle(&cast, "lock, unlock").await;
    assert_eq!(post.ask(&ask.key), Reason::KeyLocked);
    pass(&cast, &mut post, block, 63).await;
    assert_eq!(post.ask(&ask.key), Reason::KeyLocked, "the lock was seen in a later block than the final one's");
    assert_eq!(stranger(&cast).await.ask(&ask.key), Reason::Granted, "to whom the history alone counts");
    post.restart();
    pass(&cast, &mut post, block, 64).await;
    assert_eq!(post.ask(&ask.key), Reason::Granted);

    // First the lock, then its unlock; then the other way round.
    cast.put(Who::Admin, &lock(carol)).await;
    cast.put(Who::Roots, &unlock(carol)).await;
    post.cycle(&cast, "lock, unlock").await;
    assert_eq!(post.ask(&ask.group), Reason::KeyLocked);
    cast.rollback(2).await;
    cast.put(Who::Roots, &unlock(carol)).await;
    cast.put(Who::Admin, &lock(carol)).await;
    let block = cast.world.latest_number().await;
    post.cycle(&cast, "unlock, lock").await;
    pass(&cast, &mut post, block, 80).await;
    assert_eq!(post.ask(&ask.group), Reason::KeyLocked, "nothing has ended it");
    assert_eq!(stranger(&cast).await.ask(&ask.group), Reason::KeyLocked);
}

#[tokio::test]
async fn a_grant_that_a_reorg_puts_behind_its_removal_never_counts() {
    let cast = Cast::new().await;
    let mut post = Post::new(&cast).await;
    let grant = cast.grant(0x40, cast.ids.bob, "deploy");
    let ask = Question::new(blob(BOB_KEY), "deploy");
    let remove = Entry::Remove(vec![cast.id_of(Who::Admin, &grant)]);
    cast.put(Who::Admin, &grant).await;
    cast.put(Who::Second, &remove).await;
    post.cycle(&cast, "grant, removal").await;
    assert_eq!(post.ask(&ask), Reason::NoGrant);
    cast.rollback(2).await;
    cast.put(Who::Second, &remove).await;
    cast.put(Who::Admin, &grant).await;
    let block = cast.world.latest_number().await;
    post.cycle(&cast, "removal, grant").await;
    pass(&cast, &mut post, block, 80).await;
    assert_eq!(post.ask(&ask), Reason::NoGrant);
    assert_eq!(stranger(&cast).await.ask(&ask), Reason::NoGrant);
}

/// What an ADMIN adds after its lock, or the loss of its role, is void. A reorg that takes the denial back and leaves the addition must
/// not change that as long as the denial is in force.
#[tokio::test]
async fn additions_of_an_admin_whose_denial_a_reorg_took_back_do_not_count_while_the_denial_is_in_force() {
    let cast = Cast::new().await;
    let second = cast.address(Who::Second);
    let mut bookmark = attacks::cast::Bookmark::new(&cast).await;
    let denials = [
        ("a lock", Who::Admin, Entry::Lock(Targets::Actors(vec![second]))),
        ("a lost role", Who::Roots, cast.roles(Who::Second, 0)),
    ];
    let ask = Question::new(blob(BOB_KEY), "deploy");
    for (what, who, denial) in denials {
        let mut post = Post::new(&cast).await;
        cast.put(who, &denial).await;
        let block = cast.world.latest_number().await;
        post.cycle(&cast, what).await;
        cast.rollback(1).await;
        // One stands behind what it wrote in the place of the denial, and one behind a record that others refer to.
        cast.put(Who::Second, &cast.grant(0x41, cast.ids.bob, "deploy")).await;
        cast.put(Who::Second, &cast.membership(0x42, cast.ids.bob)).await;
        post.cycle(&cast, what).await;
        pass(&cast, &mut post, block, 3).await;
        let of_group = Question::new(blob(BOB_KEY), "group");
        assert_eq!(post.ask(&ask), Reason::NoGrant, "{what}: final, and void as long as the denial counts");
        assert_eq!(post.ask(&of_group), Reason::NoGrant, "{what}: the membership too");
        post.restart();
        pass(&cast, &mut post, block, 63).await;
        assert_eq!(post.ask(&ask), Reason::NoGrant, "{what}: restarted, 63 blocks later");
        pass(&cast, &mut post, block, 64).await;
        assert_eq!(post.ask(&ask), Reason::Granted, "{what}: no history has the denial");
        assert_eq!(post.ask(&of_group), Reason::Granted, "{what}: no history has the denial");
        assert_eq!(stranger(&cast).await.ask(&ask), Reason::Granted, "{what}: to whom the history alone counts");
        bookmark.restore(&cast).await;
    }
}

#[tokio::test]
async fn waiting_additions_and_confirmations_of_an_admin_whose_lock_a_reorg_took_back_do_not_count_either() {
    let cast = Cast::new().await;
    let ask = Question::new(blob(BOB_KEY), "deploy");
    let lock = Entry::Lock(Targets::Actors(vec![cast.address(Who::Second)]));
    let mut bookmark = attacks::cast::Bookmark::new(&cast).await;
    for (what, setting) in [("delayed", (setting::DIRECTORY_DELAY, 600)), ("confirmed", (setting::DIRECTORY_QUORUM, 2))]
    {
        cast.put(Who::Roots, &settings(&[setting])).await;
        cast.world.anvil.finalize().await;
        let grant = cast.grant(0x43, cast.ids.bob, "deploy");
        let mut post = Post::new(&cast).await;
        let writer = if what == "delayed" { Who::Second } else { Who::Admin };
        cast.put(writer, &grant).await;
        cast.world.anvil.finalize().await;
        post.cycle(&cast, "waits").await;
        assert_eq!(post.ask(&ask), Reason::NoGrant, "{what}: waits");
        cast.put(Who::Admin, &lock).await;
        let block = cast.world.latest_number().await;
        post.cycle(&cast, "locked").await;
        cast.rollback(1).await;
        if what == "confirmed" {
            cast.put(Who::Second, &Entry::Confirm(vec![cast.id_of(writer, &grant)])).await;
        }
        cast.world.anvil.call("evm_increaseTime", serde_json::json!([1_000])).await;
        cast.world.anvil.mine(2).await;
        post.cycle(&cast, "the lock is gone").await;
        pass(&cast, &mut post, block, 30).await;
        assert_eq!(post.ask(&ask), Reason::NoGrant, "{what}: the delay is over, and the lock is in force");
        post.restart();
        pass(&cast, &mut post, block, 63).await;
        assert_eq!(post.ask(&ask), Reason::NoGrant, "{what}: 63 blocks later");
        pass(&cast, &mut post, block, 64).await;
        assert_eq!(post.ask(&ask), Reason::Granted, "{what}: no history has the lock");
        bookmark.restore(&cast).await;
    }
}

/// A key that two users registered is the earlier one's. Its removal must not give it to the other before it is final: a reorg could
/// take the removal back.
#[tokio::test]
async fn the_removal_of_a_registered_key_gives_it_to_nobody_else_before_it_is_final() {
    let cast = Cast::new().await;
    let mut shared = cast.key(0x44, cast.ids.carol, 0);
    let Entry::KeyAdd(add) = &mut shared else { unreachable!("a key") };
    add.publicKey = cast.alice_blob.clone().into();
    cast.put(Who::Admin, &shared).await;
    cast.world.anvil.finalize().await;
    let ask = Question::new(cast.alice_blob.clone(), "group");
    let mut post = Post::new(&cast).await;
    assert_eq!(post.ask(&ask), Reason::NoGrant, "alice's");
    cast.put(Who::Admin, &Entry::Remove(vec![cast.ids.key])).await;
    let block = cast.world.latest_number().await;
    post.cycle(&cast, "removed").await;
    assert_eq!(post.ask(&ask), Reason::KeyUnknown, "nobody's");
    cast.reorg(1).await;
    post.cycle(&cast, "reorged out").await;
    pass(&cast, &mut post, block, 63).await;
    assert_eq!(post.ask(&ask), Reason::KeyUnknown, "nobody's: no final history gives it to carol");
    pass(&cast, &mut post, block, 64).await;
    assert_eq!(post.ask(&ask), Reason::NoGrant, "alice's again");
    cast.put(Who::Admin, &Entry::Remove(vec![cast.ids.key])).await;
    cast.world.anvil.finalize().await;
    post.cycle(&cast, "final").await;
    assert_eq!(post.ask(&ask), Reason::Granted, "carol's");
}

#[tokio::test]
async fn a_critical_entry_stops_publishing_while_it_is_there_and_for_good_once_final() {
    let cast = Cast::new().await;
    let mut post = Post::new(&cast).await;
    let critical = attacks::world::unknown(0x0080);
    cast.world.by_roots(std::slice::from_ref(&critical)).await;
    post.refuses(&cast, "seen", AgentReason::UpgradeNeeded).await;
    post.restart();
    post.refuses(&cast, "seen, restarted", AgentReason::UpgradeNeeded).await;
    cast.reorg(1).await;
    cast.world.root_writes_are_gone(1);
    post.cycle(&cast, "reorged out").await;
    cast.world.by_roots(&[critical]).await;
    cast.world.anvil.mine(5).await;
    post.refuses(&cast, "final", AgentReason::UpgradeNeeded).await;
    post.restart();
    post.refuses(&cast, "final, restarted", AgentReason::UpgradeNeeded).await;
}

#[tokio::test]
async fn a_shorter_chain_publishes_nothing_until_it_has_grown_to_the_height_that_was_seen() {
    let cast = Cast::new().await;
    let ask = Questions::new(&cast);
    let mut post = Post::new(&cast).await;
    cast.put(Who::Admin, &Entry::Remove(vec![cast.ids.membership])).await;
    cast.put(Who::Admin, &cast.grant(0x45, cast.ids.bob, "deploy")).await;
    post.cycle(&cast, "seen").await;
    cast.rollback(2).await;
    post.refuses(&cast, "two blocks less", AgentReason::LatestWentBack).await;
    cast.put_filler(countersign_registry::Kind::REMOVE).await;
    post.restart();
    post.refuses(&cast, "one block less", AgentReason::LatestWentBack).await;
    cast.put_filler(countersign_registry::Kind::BATCH).await;
    post.cycle(&cast, "as high").await;
    assert_eq!(post.ask(&ask.group), Reason::NoGrant, "the removal is in force");
}
