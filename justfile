# What is done often. `just --list` shows them; .ci/run is what CI runs.

# everything that CI runs
ci:
    .ci/run

# all tests, or only the named files of tests/
test *names:
    scripts/test {{names}}

# format and lints, as CI has them
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked

# licenses, bans and sources (needs cargo-deny)
deny:
    cargo deny check bans licenses sources

# 500 SIGKILLs at random moments, with a ledger of what was accepted and received (CI: 20)
crash rounds="500":
    OXIPUSH_CRASH_ROUNDS={{rounds}} cargo test --release --test crash -- --nocapture
