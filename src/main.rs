//! The gateway's program.

fn main() -> std::process::ExitCode {
    oxipush::cli::run()
}
