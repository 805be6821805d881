# One line each, over cargo and tests/run.

# Builds the bundled plugins, serves on embedded defaults, rebuilds plugins when their sources change.
run *args:
    cargo run --release -- dev {{args}}

# Installs what is missing where it can, then runs every check and every test; with names, only tests that match.
test *names:
    ./tests/run {{names}}

# Formatting and lints.
check:
    cargo fmt --all --check && cargo clippy --release --workspace --all-targets -- -D warnings

# Builds the bundled plugins into plugins/.
plugins:
    cargo run --release -- plugin build

# Prints the figures of one run as ratios: plugin against native, with against without.
bench *args:
    cargo run --release -p plugway-bench -- {{args}}

# Prints what fan-out costs beside nchan, FastAPI and a raw send loop, as ratios of one run.
bench-fanout *args:
    cargo run --release -p plugway-load -- {{args}}

# Prints what a streamed chat costs through the plugin openai, beside LiteLLM's proxy, as ratios of one run.
bench-chat *args:
    cargo run --release -p plugway-chat -- {{args}}

# Licences, advisories and duplicate versions of all dependencies (needs cargo-deny).
deny:
    cargo deny check
