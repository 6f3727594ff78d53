//! Built on a new C library, loaded on an old one: Debian 11 has glibc 2.31.
//!
//! Five functions that the standard library calls bear, on a new glibc, versions that an old one does not have (`stat64` and `fstat64`
//! 2.33, the keys of threads 2.34, when libpthread became a part of libc). The linker sends their calls here (`--wrap`, in build.rs), and from here
//! they go on to the same functions under the versions that every glibc of this machine type has. Only jumps: arguments and results are untouched,
//! but for the number of the structure's layout (1) that the old names of `stat64` and `fstat64` take first.
#![expect(unsafe_code, reason = "names with versions are the assembler's business")]

std::arch::global_asm!(
    r#"
    .pushsection .text.countersign_older_glibc, "ax", @progbits
    .macro countersign_wrap name
    .globl __wrap_\name
    .hidden __wrap_\name
    .type __wrap_\name, @function
__wrap_\name:
    .endm

    countersign_wrap stat64
    mov rdx, rsi
    mov rsi, rdi
    mov edi, 1
    jmp __xstat64@PLT

    countersign_wrap fstat64
    mov rdx, rsi
    mov esi, edi
    mov edi, 1
    jmp __fxstat64@PLT

    .macro countersign_thread_key name
    .symver countersign_\name, \name@GLIBC_2.2.5
    countersign_wrap \name
    jmp countersign_\name@PLT
    .endm

    countersign_thread_key pthread_key_create
    countersign_thread_key pthread_key_delete
    countersign_thread_key pthread_setspecific
    .popsection
"#
);
