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
    RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --locked

# licenses, bans and sources (needs cargo-deny)
deny:
    cargo deny check bans licenses sources

# the JavaScript client: types, built files, size, tests with real gateways
web:
    cargo build --bin oxipush
    scripts/web

# 500 SIGKILLs of a gateway and 500 of its queue, and power cuts, at random moments, with ledgers of what must be there (CI: 20)
crash rounds="500":
    OXIPUSH_CRASH_ROUNDS={{rounds}} cargo test --release --test crash -- --nocapture
    OXIPUSH_CRASH_ROUNDS={{rounds}} cargo test --release --lib -- --nocapture a_killed_process power_cut

# every process of docker-compose.yml on loopback, until Ctrl-C
cluster:
    cargo build --release
    scripts/cluster up

# the tests of several nodes with a release build, 3,000 clients and etcd away for 30 s
cluster-long:
    ulimit -n $(ulimit -Hn); OXIPUSH_CLUSTER_CLIENTS=3000 OXIPUSH_CLUSTER_OUTAGE=30 cargo test --release --test cluster -- --nocapture --test-threads=1

# three nodes with so many clients, a rolling restart, and each fault so often, with ledgers (CI: 300, 1)
cluster-chaos clients="3000" rounds="10":
    ulimit -n $(ulimit -Hn); OXIPUSH_FLEET={{clients}} OXIPUSH_FLEET_LANES=8 OXIPUSH_FAULT_ROUNDS={{rounds}} cargo test --release --test cluster_live --test cluster_stored -- --nocapture --test-threads=1

# the bars of docs/performance.md on a machine that does nothing else; or only the named rows
bench *rows:
    scripts/bench {{rows}}

# criterion's micro-benchmarks, with the budgets that they guard
micro:
    cargo bench

# 10 minutes of churn, slow clients and pushes against a gateway that runs already on the default ports; its pid for the memory
soak pid seconds="600" rate="20000":
    cargo run --release -p pushbench -- soak --ws ws://127.0.0.1:8080/ws --http http://127.0.0.1:8081 -n 1000 --churn 50 --slow-share 0.05 --duration {{seconds}} --rate {{rate}} --pid {{pid}}

# Autobahn's fuzzing client against the frame reader and writer
autobahn:
    scripts/autobahn

# cargo-fuzz, so many seconds for each target (needs nightly)
fuzz seconds="60":
    scripts/fuzz {{seconds}}

# 30 SIGTERMs under load for each queue, with a ledger of what was accepted and received (CI: 4)
stops rounds="30":
    OXIPUSH_STOPS={{rounds}} cargo test --release --test stop loses_no_push -- --nocapture

# 500 SIGKILLs, and 60 frozen processes, full and failing disks and wrong clocks, while readers of streams come and go, with a ledger (CI: 12, 6)
chaos kills="500" troubles="60":
    OXIPUSH_CHAOS_KILLS={{kills}} OXIPUSH_CHAOS_TROUBLES={{troubles}} cargo test --release --test chaos -- --nocapture --test-threads=1

# so many seeds of the streams' simulation, 10,000 steps each (CI: 300); a failing one is shrunk and printed
simulate seeds="10000":
    OXIPUSH_SIMULATION={{seeds}} cargo test --release --test simulation -- --nocapture whatever_happens
