//! `nvctl`: the command line of nv. All of it is in the library, so that tests can run it.

fn main() -> std::process::ExitCode {
    nvctl::main()
}
