//! `countersign`: parses arguments, calls the library, returns its exit code.

fn main() -> std::process::ExitCode {
    countersign::run(std::env::args_os())
}
