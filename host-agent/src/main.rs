//! The agent's command line: parse, call the library, print one error, exit.
fn main() {}
