//! `countersign completions`: scripts for shells, from the same definitions as the flags.

use clap::Args;
use clap_complete::Shell;

use crate::context::Context;
use crate::error::CliError;

/// Which shell.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// [`CliError::Stream`].
pub fn run(context: &Context, args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::args::command(), "countersign", &mut script);
    context.printer.raw(&script)
}
