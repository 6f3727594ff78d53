//! `countersign doctor`: on a host, as root, what is wrong with it, what follows from that, and what to change.

pub mod switch;

use std::path::{Path, PathBuf};

use clap::Args;
use countersign_agent::config::{AbsolutePath, Config, DEFAULT_PATH};
use countersign_agent::status::Status;
use countersign_doctor::{Agent, Credential, Finding, Host, Logins, Report, examine, examine_logins};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Show, escape};
use switch::SwitchArgs;

/// Where things are on this host.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// sshd
    #[arg(long, value_name = "PATH", default_value = "/usr/sbin/sshd")]
    sshd: PathBuf,
    /// sshd's configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/ssh/sshd_config")]
    sshd_config: PathBuf,
    /// The agent's configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    agent_config: PathBuf,
    /// Ask about this login too
    #[arg(long, value_name = "LOGIN")]
    login: Option<String>,
    /// Log in with this private key (and the certificate beside it), which has to work
    #[arg(long, value_name = "FILE", requires = "login")]
    identity: Option<PathBuf>,
    /// Log in with this certificate for the private key
    #[arg(long, value_name = "FILE", requires = "identity")]
    certificate: Option<PathBuf>,
    /// The port of the sshd that runs, where it is not the configuration's
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Do not log in, nor try to
    #[arg(long, conflicts_with_all = ["identity", "enable"])]
    no_login: bool,
    /// Switching Countersign on and off
    #[command(flatten)]
    switch: SwitchArgs,
}

impl DoctorArgs {
    fn credential(&self) -> Option<Credential> {
        let (login, identity) = (self.login.clone()?, self.identity.clone()?);
        Some(Credential { login, identity, certificate: self.certificate.clone() })
    }
}

/// The report as printed.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Diagnosis(Report);

impl Show for Diagnosis {
    fn text(&self) -> String {
        let mut text = String::new();
        self.0.findings.iter().for_each(|finding| text.push_str(&told(finding)));
        for unchecked in &self.0.not_checked {
            text.push_str(&format!("not looked at: {}: {}\n", unchecked.check, lines(&unchecked.why)));
        }
        let checked = self.0.checked.join(", ");
        match self.0.findings.len() {
            0 => text.push_str(&format!("no findings; looked at: {checked}\n")),
            count => text.push_str(&format!("{count} findings; looked at: {checked}\n")),
        }
        text
    }
}

/// A finding for people.
fn told(finding: &Finding) -> String {
    format!(
        "{}: {}: {}: {}\n    so:     {}\n    change: {}\n\n",
        finding.severity,
        finding.code,
        escape(&finding.about),
        lines(&finding.found),
        lines(&finding.consequence),
        lines(&finding.change)
    )
}

/// What other programs said may have several lines; each is escaped.
fn lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n            ")
}

/// Why the agent publishes nothing new, in its own words; once or twice is a node that does not answer.
fn problem(state_dir: &Path) -> Option<String> {
    const SOME: u64 = 3;
    let status = Status::read(state_dir).ok().filter(|status| status.failures >= SOME)?;
    let failure = status.last_failure?;
    Some(format!("{}: {} ({} times in a row)", failure.reason, failure.message, status.failures))
}

fn host(args: DoctorArgs) -> Host {
    let agent = Config::load(&args.agent_config).map(|config| {
        let is_the_hosts = config.snapshot_dir() == Path::new("/var/lib/countersign/snapshot");
        let files = config.plain_sshd.as_ref();
        let path = |path: Option<&AbsolutePath>| path.map(|path| path.as_path().to_owned());
        Agent {
            snapshot: config.snapshot_dir(),
            state: config.state_dir.as_path().to_owned(),
            group: config.group.clone(),
            helper_user: config.sessions.helper_user.clone(),
            revoked_keys: path(files.and_then(|files| files.revoked_keys.as_ref())),
            ca_keys: path(files.and_then(|files| files.ca_keys.as_ref())),
            ends_sessions: config.sessions.end.unwrap_or(is_the_hosts) && !config.sessions.dry_run,
            only_helper: config.sessions.only_helper,
            problem: problem(config.state_dir.as_path()),
        }
    });
    let agent = agent.map_err(|error| match error.hint() {
        Some(hint) => format!("{error} ({hint})"),
        None => error.to_string(),
    });
    Host {
        sshd: args.sshd,
        sshd_config: args.sshd_config,
        agent_config: args.agent_config,
        agent,
        login: args.login,
        ..Host::default()
    }
}

/// Prints what is wrong.
///
/// # Errors
/// [`CliError::Refused`] where anything is, and where something could not be looked at: of that nobody knows.
pub fn run(context: &Context, args: DoctorArgs) -> Result<(), CliError> {
    let logins = Logins { credential: args.credential(), port: args.port };
    let (try_logins, switch) = (!args.no_login, args.switch.clone());
    let host = host(args);
    if switch.is_asked() {
        return switch.run(context, &host, logins);
    }
    let mut report = examine(&host);
    if try_logins {
        let _progress = context.printer.progress("trying logins");
        examine_logins(&host, &logins, &mut report);
    }
    let verdict = verdict(&report);
    context.printer.result(&Diagnosis(report))?;
    verdict.map_or(Ok(()), |why| Err(CliError::Refused(why)))
}

/// Why the exit code is 1. What somebody leaves out by an option is not in the report at all.
fn verdict(report: &Report) -> Option<String> {
    match (report.findings.len(), report.not_checked.len()) {
        (0, 0) => None,
        (0, missed) => Some(format!("{missed} things on this host could not be looked at")),
        (count, _) => Some(format!("{count} findings on this host")),
    }
}

#[cfg(test)]
mod tests {
    use countersign_doctor::Code;

    use super::*;

    #[test]
    fn a_monitor_sees_what_was_found_and_what_nobody_could_look_at() {
        let mut report = Report::default();
        report.checked("sshd");
        assert_eq!(verdict(&report), None);
        report.not_checked("match", "Match RDomain *: nobody can be asked about");
        assert_eq!(verdict(&report).unwrap(), "1 things on this host could not be looked at");
        report.find(Finding::new(Code::OtherMethods, "x", "y"));
        assert_eq!(verdict(&report).unwrap(), "1 findings on this host");
    }
}
