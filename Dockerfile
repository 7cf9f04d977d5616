# The one binary on a small Debian. Works with and without BuildKit.
#
#   docker build -t anabranch .
#
# The first build compiles RocksDB, 35 CPU minutes. It is in a layer of its own with the other dependencies, which is
# made anew only when a Cargo.toml, Cargo.lock or rust-toolchain.toml changes.

FROM debian:bookworm-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl gcc g++ libc6-dev libclang-dev libssl-dev make pkg-config \
 && rm -rf /var/lib/apt/lists/*
ENV CARGO_HOME=/opt/cargo RUSTUP_HOME=/opt/rustup PATH=/opt/cargo/bin:$PATH
WORKDIR /src
COPY rust-toolchain.toml ./
RUN curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs -o /tmp/rustup-init \
 && sh /tmp/rustup-init -y --no-modify-path --profile minimal \
      --default-toolchain "$(sed -nE 's/^channel *= *"(.*)"/\1/p' rust-toolchain.toml)" \
 && rm /tmp/rustup-init

# The dependencies alone: the manifests with empty crates.
COPY Cargo.toml Cargo.lock ./
COPY core/Cargo.toml core/
COPY schemas/Cargo.toml schemas/
COPY runtime/Cargo.toml runtime/
COPY journal/Cargo.toml journal/
COPY ingest/Cargo.toml ingest/
COPY store-node/Cargo.toml store-node/
COPY cdc/Cargo.toml cdc/
COPY bridge/Cargo.toml bridge/
COPY cli/Cargo.toml cli/
COPY tests/Cargo.toml tests/
RUN for crate in core schemas runtime journal ingest store-node cdc bridge cli tests; do \
      mkdir -p $crate/src && touch $crate/src/lib.rs; \
      ! grep -q '^\[build-dependencies\]' $crate/Cargo.toml || echo 'fn main() {}' > $crate/build.rs; \
    done \
 && rm cli/src/lib.rs && echo 'fn main() {}' > cli/src/main.rs \
 && cargo build --release --locked --bin anabranch

COPY . .
# The real sources may be older than the empty ones.
RUN find . -path ./target -prune -o -type f -exec touch {} + \
 && cargo build --release --locked --bin anabranch

FROM debian:bookworm-slim
# libssl3 is for Kafka with TLS, curl for health checks.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl libssl3 libstdc++6 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --user-group --home-dir /var/lib/anabranch --create-home anabranch \
 && mkdir /certificates /keys /trusted \
 && chown anabranch:anabranch /certificates /keys /trusted
COPY --from=build /src/target/release/anabranch /usr/local/bin/anabranch
USER anabranch
WORKDIR /var/lib/anabranch
# HTTP API, admin and metrics, bridge, store node.
EXPOSE 8080 8081 4040 7070
ENTRYPOINT ["anabranch"]
CMD ["--help"]
