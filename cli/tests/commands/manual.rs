//! The manual page and the JSON page say what the program has: neither more nor less.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Arg, Command};

const BEGIN: &str = "# COMMANDS\n";
const END: &str = "\n# CONFIGURATION\n";

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/man/countersign.1.md")
}

fn definition(arg: &Arg) -> String {
    let value =
        arg.get_value_names().and_then(|names| names.first()).map(|name| format!(" *{name}*")).unwrap_or_default();
    let takes_value = arg.get_action().takes_values();
    let value = if takes_value { value.as_str() } else { "" };
    let name = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("**-{short}**, **\\-\\-{long}**{value}"),
        (_, Some(long)) => format!("**\\-\\-{long}**{value}"),
        _ => value.trim().to_owned(),
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let choices: Vec<String> = arg.get_possible_values().iter().map(|choice| choice.get_name().to_owned()).collect();
    let choices = if takes_value && !choices.is_empty() { format!(" ({})", choices.join(", ")) } else { String::new() };
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let default = if takes_value && !defaults.is_empty() && !defaults[0].is_empty() {
        format!(" [default: {}]", defaults.join(","))
    } else {
        String::new()
    };
    format!("{name}\n:   {help}{choices}{default}\n")
}

fn is_own(arg: &Arg) -> bool {
    !matches!(arg.get_id().as_str(), "help" | "version") && !arg.is_global_set()
}

/// The options that all commands that write have are described once.
fn writes(arg: &Arg) -> bool {
    arg.get_help_heading() == Some("Writing")
}

fn describe(command: &Command, path: &str, text: &mut String) {
    let subcommands: Vec<&Command> = command.get_subcommands().filter(|sub| sub.get_name() != "help").collect();
    for sub in subcommands {
        let path = format!("{path} {}", sub.get_name());
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        if sub.has_subcommands() {
            writeln!(text, "## {path}\n\n{about}.\n").unwrap();
            describe(sub, &path, text);
            continue;
        }
        let operands: Vec<String> = sub
            .get_positionals()
            .map(|arg| {
                let name =
                    arg.get_value_names().and_then(|names| names.first()).map_or_else(String::new, ToString::to_string);
                let many = if matches!(arg.get_action(), clap::ArgAction::Append) { "…" } else { "" };
                if arg.is_required_set() { format!(" *{name}*{many}") } else { format!(" [*{name}*{many}]") }
            })
            .collect();
        let level = if path.split(' ').count() > 2 { "###" } else { "##" };
        writeln!(text, "{level} {path}{}\n\n{about}.\n", operands.join("")).unwrap();
        for arg in sub.get_arguments().filter(|arg| is_own(arg) && !writes(arg)) {
            writeln!(text, "{}", definition(arg)).unwrap();
        }
        if sub.get_arguments().any(writes) {
            writeln!(text, "And the options of commands that write.\n").unwrap();
        }
    }
}

fn commands() -> String {
    let mut command = countersign::args::command();
    command.build();
    let mut text = format!("{BEGIN}\nThese options go with every command:\n\n");
    for arg in command.get_arguments().filter(|arg| arg.is_global_set()) {
        writeln!(text, "{}", definition(arg)).unwrap();
    }
    text.push_str("These go with every command that writes:\n\n");
    let add = command.find_subcommand("user").and_then(|user| user.find_subcommand("add")).unwrap();
    for arg in add.get_arguments().filter(|arg| writes(arg)) {
        writeln!(text, "{}", definition(arg)).unwrap();
    }
    describe(&command, "countersign", &mut text);
    text.trim_end().to_owned()
}

#[test]
fn the_manual_page_describes_every_command_and_flag_as_the_program_does() {
    let written = std::fs::read_to_string(page()).unwrap();
    let (before, rest) = written.split_once(BEGIN).expect("the page has a COMMANDS section");
    let (_, after) = rest.split_once(END).expect("the page has a CONFIGURATION section after it");
    let expected = format!("{before}{}\n{END}{after}", commands());
    if std::env::var_os("COUNTERSIGN_WRITE_MANUAL").is_some() {
        std::fs::write(page(), &expected).unwrap();
    }
    assert!(
        written == expected,
        "{} is not what the program has: run this test with COUNTERSIGN_WRITE_MANUAL=1 and look at the difference",
        page().display()
    );
}
