//! `countersign doctor --enable` and `--disable`: says what will change, asks, and does it.

use std::io::IsTerminal as _;

use clap::Args;
use countersign_doctor::{
    Code, Earlier, Finding, Host, Logins, Plan, Recovery, Service, Wishes, disable, enable, running,
};
use serde::Serialize;

use super::told;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{self, Show, escape};

/// What is switched, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Switching Countersign on and off")]
pub struct SwitchArgs {
    /// Have sshd ask Countersign, once a login (--login, --identity) has gone through it
    #[arg(long, requires = "identity", conflicts_with = "disable")]
    enable: bool,
    /// Put every file back that --enable wrote, and have sshd read that
    #[arg(long)]
    disable: bool,
    /// With --enable: the ledger's users exist on this host (/etc/nsswitch.conf)
    #[arg(long, requires = "enable")]
    accounts: bool,
    /// With --enable: sessions end with their access (the hook in /etc/pam.d/sshd)
    #[arg(long, requires = "enable")]
    sessions: bool,
    /// With --enable: this local login stays open to the keys in /etc/countersign/breakglass.keys
    #[arg(long, value_name = "LOGIN", requires = "enable")]
    break_glass: Option<String>,
    /// With --enable: the AuthorizedKeysCommand that sshd asks so far goes on behind ours (--chain)
    #[arg(long, requires = "enable", conflicts_with = "replace_earlier")]
    keep_earlier: bool,
    /// With --enable: nobody asks the AuthorizedKeysCommand any more that sshd asks so far
    #[arg(long, requires = "enable")]
    replace_earlier: bool,
    /// Show what would be changed, and change nothing
    #[arg(long, conflicts_with = "yes")]
    plan: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What was switched.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Switched {
    /// `planned`, `enabled`, `disabled`, `nothing-to-do`, `refused`, `taken-back`, or `stuck`.
    outcome: &'static str,
    /// The files.
    files: Vec<String>,
    /// Why not.
    findings: Vec<Finding>,
    #[serde(skip)]
    plan: String,
}

impl Show for Switched {
    fn text(&self) -> String {
        let findings: String = self.findings.iter().map(told).collect();
        format!("{findings}{}{}\n", self.plan, self.outcome)
    }
}

impl SwitchArgs {
    pub(super) fn is_asked(&self) -> bool {
        self.enable || self.disable
    }

    pub(super) fn run(&self, context: &Context, host: &Host, logins: Logins) -> Result<(), CliError> {
        if self.disable { self.disable(context, host, &logins) } else { self.enable(context, host, logins) }
    }

    fn enable(&self, context: &Context, host: &Host, logins: Logins) -> Result<(), CliError> {
        let Some(credential) = logins.credential else {
            return Err(CliError::Missing { what: "a login that has to work", flag: "--login LOGIN --identity FILE" });
        };
        let wishes = Wishes {
            credential,
            port: logins.port,
            accounts: self.accounts,
            sessions: self.sessions,
            break_glass: self.break_glass.clone(),
            earlier: match (self.keep_earlier, self.replace_earlier) {
                (true, _) => Some(Earlier::Keep),
                (_, true) => Some(Earlier::Replace),
                _ => None,
            },
        };
        let plan = match Plan::make(host, &wishes) {
            Ok(plan) => plan,
            Err(finding) => return end(context, Vec::new(), Err(vec![finding]), "enabled"),
        };
        let files: Vec<String> = plan.changes().iter().map(|change| change.path.display().to_string()).collect();
        if files.is_empty() {
            return end(context, files, Ok(()), "nothing-to-do");
        }
        let text = self.text(host, &wishes, &plan);
        if self.plan {
            let planned = Switched { outcome: "planned", files, findings: Vec::new(), plan: text };
            return context.printer.result(&planned);
        }
        self.confirm(&text, "Enable?")?;
        let done = enable(host, &wishes, &plan, &mut |step| context.printer.note(step));
        end(context, files, done, "enabled")
    }

    fn text(&self, host: &Host, wishes: &Wishes, plan: &Plan) -> String {
        let service = running(host, wishes.port).map_or_else(|why| why, |address| Service::at(address).text());
        let mut text: String = plan.text().lines().map(|line| format!("{}\n", escape(line))).collect();
        text.push_str(&format!("{service}\n"));
        text.push_str("from then on passwords and ~/.ssh/authorized_keys open nothing on this host\n");
        if wishes.break_glass.is_none() {
            text.push_str(
                "no login stays open without the ledger: --break-glass LOGIN, or docs/operations.md#break-glass\n",
            );
        }
        text
    }

    fn disable(&self, context: &Context, host: &Host, logins: &Logins) -> Result<(), CliError> {
        let recovery =
            Recovery::load().map_err(|source| CliError::File { path: countersign_doctor::recovery_path(), source })?;
        let Some(recovery) = recovery else { return end(context, Vec::new(), Ok(()), "nothing-to-do") };
        let files: Vec<String> = recovery.paths().iter().map(|path| path.display().to_string()).collect();
        let mut text: String = files.iter().map(|file| format!("put {} back as it was\n", escape(file))).collect();
        text.push_str("from then on sshd decides without the ledger, as before\n");
        if self.plan {
            let planned = Switched { outcome: "planned", files, findings: Vec::new(), plan: text };
            return context.printer.result(&planned);
        }
        self.confirm(&text, "Disable?")?;
        let done = disable(host, logins.port, &mut |step| context.printer.note(step));
        end(context, files, done, "disabled")
    }

    fn confirm(&self, text: &str, question: &str) -> Result<(), CliError> {
        if self.yes {
            return Ok(());
        }
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Err(CliError::Missing { what: "a confirmation", flag: "--yes, or a terminal to ask at" });
        }
        output::message(text.trim_end());
        output::message(&format!("{question} [y/N]"));
        let mut answer = String::new();
        stdin.read_line(&mut answer).map_err(|source| CliError::Stream { stream: "input", source })?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(CliError::Refused("not confirmed; nothing was changed".to_owned())),
        }
    }
}

fn end(
    context: &Context,
    files: Vec<String>,
    done: Result<(), Vec<Finding>>,
    outcome: &'static str,
) -> Result<(), CliError> {
    let findings = done.err().unwrap_or_default();
    let has = |code: Code| findings.iter().any(|finding| finding.code == code);
    let outcome = match () {
        () if findings.is_empty() => outcome,
        () if has(Code::SwitchStuck) => "stuck",
        () if has(Code::SwitchTakenBack) => "taken-back",
        () => "refused",
    };
    let refused = match outcome {
        "stuck" => Some("the host is neither as it was nor as it should be"),
        "taken-back" => Some("the host is as it was before"),
        "refused" => Some("nothing was changed"),
        _ => None,
    };
    context.printer.result(&Switched { outcome, files, findings, plan: String::new() })?;
    refused.map_or(Ok(()), |why| Err(CliError::Refused(why.to_owned())))
}
