# The gateway (the last stage, the default); nginx with confd (--target nginx); etcd (--target etcd).

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --package oxipush \
    && mkdir -p /image /data \
    && cp target/release/oxipush /image/oxipush \
    # the libraries that it is linked to, where its loader looks for them
    && ldd /image/oxipush | grep -o '/[^ ]*' | xargs -I{} cp --parents --dereference {} /image

FROM golang:1.26-alpine AS confd
WORKDIR /src
COPY tools/confd .
RUN CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o /confd github.com/abtreece/confd/cmd/confd

FROM nginx:1.28-alpine AS nginx
COPY --from=confd /confd /usr/local/bin/confd
COPY confd /etc/confd
COPY nginx/nginx.conf /etc/nginx/nginx.conf
CMD ["/etc/confd/run"]

# Debian's, which the tests run too.
FROM debian:bookworm-slim AS etcd
RUN apt-get update && apt-get install -y --no-install-recommends etcd-server etcd-client && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 -m 700 /var/lib/etcd
# etcd 3.4 runs on arm64 when told to, and on others passes this by
ENV ETCDCTL_API=3 ETCD_UNSUPPORTED_ARCH=arm64
USER 65532:65532

# The binary alone, with the C library it needs; no shell, no root.
#   docker run -p 8080:8080 -p 8081:8081 -p 9002:9002 -e OXIPUSH__AUTH__KEYS=<key> -e OXIPUSH__TOKEN__SECRET=<secret> oxipush
FROM scratch
COPY --from=build /image /
COPY --from=build --chown=65532:65532 /data /data
USER 65532:65532
WORKDIR /data
VOLUME /data
# A container's loopback is reached by nobody, so it listens everywhere; the push API does not start like that without keys.
ENV OXIPUSH__SOCKET__LISTEN=0.0.0.0:8080 OXIPUSH__HTTP__LISTEN=0.0.0.0:8081 OXIPUSH__GRPC__LISTEN=0.0.0.0:9002
EXPOSE 8080 8081 9002
HEALTHCHECK --interval=5s --timeout=6s --start-period=30s CMD ["/oxipush", "health"]
ENTRYPOINT ["/oxipush"]
