//! Controller and agent of nv in one process; see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    nv_allinone::main()
}
