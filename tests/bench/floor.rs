//! The floor of every process: does nothing.
fn main() {}
