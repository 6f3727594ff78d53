//! `countersign-sshd-chain`: `countersign-sshd` where an earlier AuthorizedKeysCommand goes on working (`--chain PROGRAM`).
//!
//! Run by `countersign-sshd`, which lies beside it and of which it is the same in everything else. About logins that are none of the
//! realm's business it asks that program, decides once more, and prints the lines that the program has for the very key that is offered;
//! else one line, or nothing. Always one line to syslog.

use std::ffi::OsString;
use std::process::{ExitCode, exit};

use countersign_snapshot::{Clock, Trust};
use countersign_sshd::program::{
    Asker, FAILURE, Options, SUCCESS, asked, close_to_others, deadline, end, end_noted, log, note, print, refused, send,
};
use countersign_sshd::{
    Answer, Deadline, Earlier, Granter, Group, Mode, Query, Reason, Refusal, Verdict, VerdictFacts, answer_on,
    lines_of_key, log_line_of_earlier,
};

fn main() -> ExitCode {
    ExitCode::from(status())
}

fn status() -> u8 {
    let asker = Asker::now();
    if close_to_others().is_err() {
        return FAILURE;
    }
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let options = Options::take(&mut arguments);
    let earlier = Earlier::take(&mut arguments, options.chain_limit);
    let (mode, user) = asked(&arguments);
    let Some(earlier) = earlier else {
        return end(&refused(Reason::BadArguments, "expected: keys %u %U %t %k --chain PROGRAM ..."), &user, mode);
    };
    let query = match Query::from_arguments(&arguments) {
        Ok(query) => query,
        Err(refusal) => return end(&Verdict::refused(refusal), &user, mode),
    };
    let facts = match decided(&options, &query, asker) {
        Ok(Decided { answer: Answer::Earlier(facts), .. }) => facts,
        ours => return end_ours(ours, &query, asker),
    };
    let lines = match ask(&earlier, &query, &facts) {
        Ok(lines) => lines,
        Err(Refusal { reason, detail }) => return end(&Verdict::Refuse { reason, detail, facts }, &user, mode),
    };
    // The program took its time. Whatever the realm has said meanwhile holds.
    match decided(&options, &query, asker) {
        Ok(Decided { answer: Answer::Earlier(facts), clock, deadline }) => {
            send(Reason::Chained, &log_line_of_earlier(&facts, &user));
            let status = print(&lines);
            if status == SUCCESS {
                note(&query, Granter::Earlier, asker, clock.as_ref(), &deadline);
            }
            status
        }
        ours => end_ours(ours, &query, asker),
    }
}

/// What the snapshot says.
struct Decided {
    answer: Answer,
    clock: Option<Clock>,
    deadline: Deadline,
}

/// Ends with what is not for the earlier command to answer.
fn end_ours(decided: Result<Decided, Refusal>, query: &Query, asker: Asker) -> u8 {
    match decided {
        Ok(Decided { answer: Answer::Ours(verdict), clock, deadline }) => {
            end_noted(&verdict, query, asker, clock.as_ref(), &deadline)
        }
        // Never asked about these.
        Ok(Decided { answer: Answer::Earlier(_), .. }) => FAILURE,
        Err(refusal) => end(&Verdict::refused(refusal), query.login().as_bytes(), Some(query.mode())),
    }
}

/// The answer of the snapshot that is in place now, by a deadline of its own.
fn decided(options: &Options, query: &Query, asker: Asker) -> Result<Decided, Refusal> {
    let deadline = deadline(query.login().as_bytes(), Some(query.mode()), asker)?;
    let (answer, clock) = answer_on(&options.directory, Trust::ROOT, query);
    deadline.wait_or_claim();
    Ok(Decided { answer, clock, deadline })
}

/// The realm has nothing to say: what whoever answered before it has for the key, within limits of its own.
fn ask(earlier: &Earlier, query: &Query, facts: &VerdictFacts) -> Result<Vec<u8>, Refusal> {
    let group = Group::default();
    let deadline = Deadline::start(earlier.timeout(), {
        let (group, user, facts) = (group.clone(), query.login().as_bytes().to_vec(), facts.clone());
        let detail = format!("it was not done after {} s", earlier.timeout().as_secs());
        move |_| {
            group.kill();
            log(&Verdict::Refuse { reason: Reason::ChainTimeout, detail, facts }, &user, Some(Mode::Keys));
            exit(0);
        }
    });
    let Ok(deadline) = deadline else {
        let detail = "the system gives no thread to keep the time".to_owned();
        return Err(Refusal { reason: Reason::ChainTimeout, detail });
    };
    let output = earlier.run(&group);
    deadline.wait_or_claim();
    group.kill();
    lines_of_key(&output?, query.blob()).ok_or(Refusal { reason: Reason::ChainNoKey, detail: String::new() })
}
