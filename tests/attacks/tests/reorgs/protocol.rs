//! What every kind of entry goes through: seen, reorged out, the agent started again, re-included behind another entry, final. A case
//! says what is written, what the helper is asked, and what it must answer without and with it.

use attacks::{
    cast::{Cast, Post, Question, Who},
    node::Client,
    world::HostFiles,
};
use countersign_certificate::Id;
use countersign_registry::{Entry, replay::DENIAL_BLOCKS};
use countersign_sshd::Reason;

/// One kind of entry in one situation.
pub(crate) struct Case {
    name: &'static str,
    before: Vec<(Who, Entry)>,
    /// Each in a transaction of its own, by one writer.
    writes: Vec<(Who, Vec<Entry>)>,
    ask: Question,
    without: Reason,
    with: Reason,
    host: Option<Id>,
}

impl Case {
    /// `entry` makes `without` into `with`.
    pub(crate) fn new(
        name: &'static str,
        (who, entry): (Who, Entry),
        ask: &Question,
        without: Reason,
        with: Reason,
    ) -> Self {
        let writes = vec![(who, vec![entry])];
        Self { name, before: Vec::new(), writes, ask: ask.clone(), without, with, host: None }
    }

    /// What is written and final before.
    pub(crate) fn after(mut self, who: Who, entry: Entry) -> Self {
        self.before.push((who, entry));
        self
    }

    /// What is written in the same transaction.
    pub(crate) fn and(mut self, entry: Entry) -> Self {
        self.writes.last_mut().unwrap().1.push(entry);
        self
    }

    /// What is written in the next block.
    pub(crate) fn then(mut self, who: Who, entry: Entry) -> Self {
        self.writes.push((who, vec![entry]));
        self
    }

    /// The helper of another host is asked.
    pub(crate) fn at(mut self, host: Id) -> Self {
        self.host = Some(host);
        self
    }

    async fn post(&self, cast: &Cast) -> Post {
        for (who, entry) in &self.before {
            cast.put(*who, entry).await;
        }
        cast.world.anvil.finalize().await;
        cast.world.anvil.leave_finality_behind().await;
        let host = self.host.unwrap_or(cast.ids.host);
        let post = Post::of(cast, HostFiles::new(&cast.world, host, "")).await;
        self.says(&post, self.without, "before it is written");
        post
    }

    fn says(&self, post: &Post, reason: Reason, when: &str) {
        assert_eq!(post.ask(&self.ask), reason, "{}, {when}", self.name);
    }

    /// Returns the block of the first transaction.
    async fn write(&self, cast: &Cast) -> u64 {
        let before = cast.world.latest_number().await;
        for (who, entries) in &self.writes {
            cast.put_all(*who, entries).await;
        }
        before + 1
    }

    /// Another entry of the shard; where two blocks are needed already, there is no room for a third before finality.
    async fn filler(&self, cast: &Cast) {
        if let [(_, entries)] = self.writes.as_slice() {
            cast.put_filler(entries.first().unwrap().kind()).await;
        }
    }

    /// Writes before another entry of the shard, has it seen, and takes both back. Says what the published snapshot must say then.
    async fn seen_and_reorged_out(&self, cast: &Cast, post: &mut Post, seen: Reason, gone: Reason) {
        let start = cast.world.latest_number().await;
        self.write(cast).await;
        self.filler(cast).await;
        post.cycle(cast, self.name).await;
        self.says(post, seen, "seen");
        post.restart();
        self.says(post, seen, "seen, restarted");
        cast.reorg(cast.world.latest_number().await - start).await;
        post.cycle(cast, self.name).await;
        self.says(post, gone, "reorged out");
        post.restart();
        self.says(post, gone, "reorged out, restarted");
        post.cycle(cast, self.name).await;
        self.says(post, gone, "reorged out, restarted, and a cycle later");
    }

    /// A denial: from the latest view at once, through every reorg, until the final view has passed its block by 64 blocks without it.
    pub(crate) async fn denial(&self, cast: &Cast) {
        let mut post = self.post(cast).await;
        self.seen_and_reorged_out(cast, &mut post, self.with, self.with).await;

        // Re-included behind another entry, and gone again.
        let start = cast.world.latest_number().await;
        self.filler(cast).await;
        self.write(cast).await;
        let block = cast.world.latest_number().await;
        post.cycle(cast, self.name).await;
        self.says(&post, self.with, "re-included");
        cast.reorg(block - start).await;
        post.cycle(cast, self.name).await;
        self.says(&post, self.with, "reorged out again");
        post.restart();
        let node = &cast.world.anvil;
        if node.client == Client::Anvil {
            let behind = node.number("latest").await - node.number("finalized").await;
            node.mine(block + 63 + behind - node.number("latest").await).await;
            post.cycle(cast, self.name).await;
            assert_eq!(post.final_block(), block + 63);
        }
        while post.final_block() < block + DENIAL_BLOCKS {
            self.says(&post, self.with, "63 blocks later, or fewer");
            // On geth, finality comes in steps.
            node.mine(if node.client == Client::Anvil { 1 } else { 32 }).await;
            post.cycle(cast, self.name).await;
        }
        self.says(&post, self.without, "64 blocks later, no history having it");

        self.write(cast).await;
        post.cycle(cast, self.name).await;
        self.says(&post, self.with, "written again");
        node.finalize().await;
        if node.client == Client::Anvil {
            node.mine(80).await;
        }
        post.cycle(cast, self.name).await;
        self.says(&post, self.with, "final for long");
        post.restart();
        self.says(&post, self.with, "final, restarted");
        let stranger = Post::of(cast, HostFiles::new(&cast.world, self.host.unwrap_or(cast.ids.host), "")).await;
        self.says(&stranger, self.with, "final, to a host that has seen none of the forks");
    }

    /// Authority: from the final view, and only from there.
    pub(crate) async fn authority(&self, cast: &Cast) {
        let mut post = self.post(cast).await;
        self.seen_and_reorged_out(cast, &mut post, self.without, self.without).await;
        for _ in 0..3 {
            cast.world.anvil.mine(1).await;
            post.cycle(cast, self.name).await;
            self.says(&post, self.without, "a block later without it");
        }
        cast.world.anvil.finalize().await;
        post.cycle(cast, self.name).await;
        self.says(&post, self.without, "final without it");
        self.filler(cast).await;
        let block = self.write(cast).await;
        post.cycle(cast, self.name).await;
        while post.final_block() < block {
            self.says(&post, self.without, "re-included, and not final");
            post.restart();
            cast.world.anvil.mine(1).await;
            post.cycle(cast, self.name).await;
        }
        self.says(&post, self.with, "final");
        post.restart();
        self.says(&post, self.with, "final, restarted");
        cast.world.anvil.mine(5).await;
        post.cycle(cast, self.name).await;
        self.says(&post, self.with, "final for long");
    }

    /// A deed by somebody whose role is final: from the latest view, and only while it is there.
    pub(crate) async fn deed(&self, cast: &Cast) {
        let mut post = self.post(cast).await;
        self.seen_and_reorged_out(cast, &mut post, self.with, self.without).await;
        self.filler(cast).await;
        self.write(cast).await;
        post.cycle(cast, self.name).await;
        self.says(&post, self.with, "re-included");
        cast.world.anvil.finalize().await;
        post.cycle(cast, self.name).await;
        self.says(&post, self.with, "final");
        post.restart();
        self.says(&post, self.with, "final, restarted");
        cast.world.anvil.mine(5).await;
        post.cycle(cast, self.name).await;
        self.says(&post, self.with, "final for long");
    }
}

/// What the helper is asked about most.
pub(crate) struct Questions {
    /// alice's plain key.
    pub(crate) key: Question,
    /// carol's plain key, by way of the group.
    pub(crate) group: Question,
    /// alice's plain key, by way of the host's label.
    pub(crate) label: Question,
    /// carol's plain key into the login of the user alice.
    pub(crate) into_alice: Question,
    /// alice's logged certificate.
    pub(crate) logged: Question,
    /// The same certificate without a proof.
    pub(crate) unlogged: Question,
    /// alice's approved certificate.
    pub(crate) vault: Question,
    /// Two minutes after the newest block.
    pub(crate) late: Question,
    /// Ten minutes after the newest block.
    pub(crate) too_late: Question,
}

impl Questions {
    pub(crate) fn new(cast: &Cast) -> Self {
        use attacks::{cast::CAROL_KEY, paper::blob};
        let ids = &cast.ids;
        let key = Question::new(cast.alice_blob.clone(), "deploy");
        Self {
            group: Question::new(blob(CAROL_KEY), "group"),
            label: Question::new(cast.alice_blob.clone(), "label"),
            into_alice: Question::new(blob(CAROL_KEY), "alice"),
            logged: Question::new(cast.paper().logged(ids.batch), "deploy"),
            unlogged: Question::new(cast.paper().unlogged(), "deploy"),
            vault: Question::new(cast.vault(ids.request).unlogged(), "vault"),
            late: Question { late_secs: 120, ..key.clone() },
            too_late: Question { late_secs: 600, ..key.clone() },
            key,
        }
    }
}
