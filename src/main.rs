//! The `tandem` binary. Everything is in the library; see [`tandem::cli`].

fn main() -> std::process::ExitCode {
    tandem::cli::main()
}
