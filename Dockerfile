# SPDX-License-Identifier: Apache-2.0
# One image with quantd, quant-worker and quantctl. Stages:
#
#   packages   Debian 13 with what the programs are compiled with
#   build      compiles and strips them, and lists the Debian packages of their shared libraries
#   test       ./dev test with the same packages:  docker build --target test .
#   runtime    (the default) the programs, those packages, and a user without rights
#
#   docker build -t quantd --build-arg REVISION=$(git rev-parse --short=12 HEAD) .
#
# Packages are named in deploy/debian/*.txt, which ./dev reads too. QUANT_JOBS: parallel compile jobs, as with ./dev.
ARG BASE=docker.io/library/debian:trixie-slim

FROM ${BASE} AS packages
COPY deploy/debian /src/deploy/debian
RUN apt-get update -qq \
 && sed -e 's/#.*//' /src/deploy/debian/build.txt \
    | DEBIAN_FRONTEND=noninteractive xargs apt-get install -y -qq --no-install-recommends \
 && rm -rf /var/lib/apt/lists/*

FROM packages AS build
ARG QUANT_JOBS=
ARG REVISION=
WORKDIR /src
COPY . .
# Objects of earlier builds are kept in a cache of the builder, so that a change costs what it changes.
RUN --mount=type=cache,target=/root/.cache/ccache \
    export CCACHE_DIR=/root/.cache/ccache CCACHE_BASEDIR=/src CCACHE_NOHASHDIR=1 QUANT_REVISION="$REVISION" \
 && cmake -S . -B build/release --preset release -DQUANT_BENCHMARKS=OFF >/dev/null \
 && cmake --build build/release -j "${QUANT_JOBS:-$(nproc)}" --target quantd quant-worker quantctl \
 && deploy/image/collect build/release/bin /out

FROM packages AS test
ARG QUANT_JOBS=
# What to test, as ./dev test takes it.
ARG TESTS=
RUN apt-get update -qq \
 && sed -e 's/#.*//' /src/deploy/debian/test.txt /src/deploy/debian/lint.txt /src/deploy/debian/run.txt \
    | DEBIAN_FRONTEND=noninteractive xargs apt-get install -y -qq --no-install-recommends \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/quantd/ccache QUANT_JOBS="$QUANT_JOBS" ./dev test $TESTS

FROM ${BASE} AS runtime
ARG REVISION=
LABEL org.opencontainers.image.title="quantd" \
      org.opencontainers.image.description="Quantization service: quantd, quant-worker, quantctl" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/debian:trixie-slim" \
      org.opencontainers.image.revision="${REVISION}"
COPY deploy/debian/run.txt deploy/debian/image.txt /tmp/
COPY --from=build /out/packages.txt /tmp/
RUN apt-get update -qq \
 && sed -e 's/#.*//' /tmp/run.txt /tmp/image.txt /tmp/packages.txt \
    | DEBIAN_FRONTEND=noninteractive xargs apt-get install -y -qq --no-install-recommends \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log /tmp/*.txt \
 && groupadd --gid 10001 quant \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin quant \
 && install -d -o quant -g quant -m 0700 /var/lib/quantd /var/cache/quant-worker
COPY --from=build /out/bin/ /usr/local/bin/
# Every program runs here once, so that an image that lacks a library is not made.
RUN quantd --version && quant-worker --version && quantctl --version
USER 10001:10001
VOLUME ["/var/lib/quantd", "/var/cache/quant-worker"]
# gRPC; metrics, /healthz and /readyz of quantd; metrics of a worker.
EXPOSE 9000 9700 9701
# Of quantd; a container that runs a worker says `quant-worker probe`.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["quantd", "probe"]
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["quantd", "--listen", ":9000", "--data", "/var/lib/quantd", "--metrics", ":9700"]
