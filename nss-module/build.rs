//! The name glibc looks for, and that it stays loaded: a thread may be inside it when somebody else calls `dlclose`. And that it loads on
//! older C libraries than the one it is linked with (`src/older_glibc.rs`).

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in ["-soname,libnss_countersign.so.2", "-z,nodelete", "-z,defs", "-z,relro", "-z,now"] {
        println!("cargo::rustc-cdylib-link-arg=-Wl,{argument}");
    }
    let target = |name| env::var(name).unwrap_or_default();
    if (target("CARGO_CFG_TARGET_ARCH").as_str(), target("CARGO_CFG_TARGET_ENV").as_str()) == ("x86_64", "gnu") {
        for name in ["stat64", "fstat64", "pthread_key_create", "pthread_key_delete", "pthread_setspecific"] {
            println!("cargo::rustc-cdylib-link-arg=-Wl,--wrap={name}");
        }
        // Before glibc 2.34 the keys of threads are in here; since then it is empty.
        println!("cargo::rustc-cdylib-link-arg=-Wl,--push-state,--no-as-needed,-l:libpthread.so.0,--pop-state");
    }
}
