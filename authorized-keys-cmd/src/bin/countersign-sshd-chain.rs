//! `countersign-sshd-chain`: `countersign-sshd` where an earlier AuthorizedKeysCommand goes on working (`--chain PROGRAM`).
//!
//! Run by `countersign-sshd`, which lies beside it and of which it is the same in everything else. About logins that are none of the
//! realm's business it asks that program, and prints the lines that this has for the very key that is offered; else one line, or
//! nothing. Always one line to syslog.

use std::ffi::OsString;
use std::process::{ExitCode, exit};

use countersign_snapshot::Trust;
use countersign_sshd::program::{Options, asked, deadline, end, end_noted, log, print, refused, send};
use countersign_sshd::{
    Answer, Deadline, Earlier, Group, Mode, Query, Reason, Refusal, Verdict, VerdictFacts, answer_on, lines_of_key,
    log_line_of_earlier,
};

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let options = Options::take(&mut arguments);
    let earlier = Earlier::take(&mut arguments, options.chain_limit);
    let (mode, user) = asked(&arguments);
    let Some(earlier) = earlier else {
        return end(&refused(Reason::BadArguments, "expected: keys %u %U %t %k --chain PROGRAM ..."), &user, mode);
    };
    let deadline = match deadline(&user, mode) {
        Ok(deadline) => deadline,
        Err(refusal) => return end(&Verdict::refused(refusal), &user, mode),
    };
    let query = Query::from_arguments(&arguments);
    let answer = match &query {
        Ok(query) => answer_on(&options.directory, Trust::ROOT, query),
        Err(refusal) => Answer::Ours(Verdict::refused(refusal.clone())),
    };
    deadline.wait_or_claim();
    match (answer, query) {
        (Answer::Ours(verdict), Ok(query)) => end_noted(&verdict, query),
        (Answer::Ours(verdict), Err(_)) => end(&verdict, &user, mode),
        (Answer::Earlier(_), Err(refusal)) => end(&Verdict::refused(refusal), &user, mode),
        (Answer::Earlier(facts), Ok(query)) => ask(&earlier, &query, facts),
    }
}

/// The realm has nothing to say: whoever answered before it does, within limits of its own.
fn ask(earlier: &Earlier, query: &Query, facts: VerdictFacts) -> ExitCode {
    let user = query.login().as_bytes();
    let refuse =
        |Refusal { reason, detail }, facts| end(&Verdict::Refuse { reason, detail, facts }, user, Some(Mode::Keys));
    let group = Group::default();
    let deadline = Deadline::start(earlier.timeout(), {
        let (group, user, facts) = (group.clone(), user.to_vec(), facts.clone());
        let detail = format!("it was not done after {} s", earlier.timeout().as_secs());
        move || {
            group.kill();
            log(&Verdict::Refuse { reason: Reason::ChainTimeout, detail, facts }, &user, Some(Mode::Keys));
            exit(0);
        }
    });
    let Ok(deadline) = deadline else {
        let detail = "the system gives no thread to keep the time".to_owned();
        return refuse(Refusal { reason: Reason::ChainTimeout, detail }, facts);
    };
    let output = earlier.run(&group);
    deadline.wait_or_claim();
    group.kill();
    let output = match output {
        Ok(output) => output,
        Err(refusal) => return refuse(refusal, facts),
    };
    let Some(lines) = lines_of_key(&output, query.blob()) else {
        return refuse(Refusal { reason: Reason::ChainNoKey, detail: String::new() }, facts);
    };
    send(Reason::Chained, &log_line_of_earlier(&facts, user));
    print(&lines)
}
