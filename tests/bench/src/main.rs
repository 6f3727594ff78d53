//! `countersign-bench NAME ARGUMENT…`: one part of the benchmarks (`./bench`). All of them are one program: what they share is linked once.

/// The parts; each module's documentation says what it measures, and with which arguments.
mod parts {
    pub(crate) mod delivery;
    pub(crate) mod flood;
    pub(crate) mod generate;
    pub(crate) mod helper;
    pub(crate) mod issue;
    pub(crate) mod krl;
    pub(crate) mod login;
    pub(crate) mod parallel;
    pub(crate) mod peers;
    pub(crate) mod replay;
    pub(crate) mod storm;
}

use std::{error::Error, ffi::OsString};

use parts::{delivery, flood, generate, helper, issue, krl, login, parallel, peers, replay, storm};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let name = arguments.next().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    match name.as_str() {
        "delivery" => delivery::run(),
        "flood" => flood::run(&arguments),
        "generate" => generate::run(&arguments),
        "helper" => helper::run(&arguments),
        "issue" => issue::run(),
        "krl" => krl::run(&arguments),
        "login" => login::run(&arguments),
        "parallel" => parallel::run(&arguments),
        "peers" => peers::run(&arguments),
        "replay" => replay::run(),
        "storm" => storm::run(&arguments),
        _ => Err(format!("unknown part '{name}': expected one of those that ./bench names, or generate").into()),
    }
}
