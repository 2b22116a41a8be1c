#!/usr/bin/env bash
# Installs what a fresh Debian 12 lacks to build and to run `make demo` or `make test`. Does nothing where nothing is missing.
#
#   scripts/setup.sh build    a C toolchain, DPDK's headers, libclang, Rust
#   scripts/setup.sh demo     build, and QEMU with the parts of its guests
#   scripts/setup.sh test     demo, and cargo-nextest and the foreign peers the end-to-end tests meet
#   scripts/setup.sh bench    build, and the switches to compare with
#
# Packages come from apt (as root), Rust from static.rust-lang.org, cargo-nextest from crates.io.
set -euo pipefail

what=${1:-test}
rust_version=1.95.0

build=(build-essential pkg-config libdpdk-dev libclang-dev clang ca-certificates curl)
demo=(qemu-system-x86 busybox-static xz-utils util-linux iproute2)
test=(dpdk-dev tshark systemd ethtool openvswitch-switch isc-dhcp-client ndisc6 nftables)
bench=(dpdk-dev iproute2 openvswitch-switch-dpdk util-linux valgrind)
case $what in
build) packages=("${build[@]}") ;;
demo) packages=("${build[@]}" "${demo[@]}") ;;
test) packages=("${build[@]}" "${demo[@]}" "${test[@]}") ;;
bench) packages=("${build[@]}" "${bench[@]}") ;;
*)
    echo "usage: $0 build|demo|test|bench" >&2
    exit 2
    ;;
esac

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: missing packages: ${missing[*]}" >&2
        echo "setup: run this as root, or: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    echo "setup: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        cat "$log" >&2
        exit 1
    fi
    rm -f "$log"
fi

# Rust: any toolchain of at least our version will do.
export PATH="$HOME/.cargo/bin:$PATH"
have=$(rustc --version 2>/dev/null | cut -d ' ' -f 2 || true)
if [ "$(printf '%s\n' "$rust_version" "${have:-0}" | sort -V | head -n 1)" != "$rust_version" ]; then
    if command -v rustup >/dev/null; then
        echo "setup: rustc ${have:-none} is older than $rust_version; taking that for this folder"
        rustup toolchain install --profile minimal -c clippy -c rustfmt "$rust_version"
        rustup override set "$rust_version"
    else
        echo "setup: installing Rust $rust_version (rustup) into $HOME/.cargo"
        download=$(mktemp -d)
        trap 'rm -rf "$download"' EXIT
        url=https://static.rust-lang.org/rustup/dist/x86_64-unknown-linux-gnu/rustup-init
        curl -fsS -o "$download/rustup-init" "$url"
        sum=$(curl -fsS "$url.sha256" | cut -d ' ' -f 1)
        echo "$sum  $download/rustup-init" | sha256sum --quiet --check -
        chmod +x "$download/rustup-init"
        "$download/rustup-init" -y --quiet --no-modify-path --profile minimal -c clippy -c rustfmt \
            --default-toolchain "$rust_version" >/dev/null
    fi
fi

if [ "$what" = test ] && ! cargo nextest --version >/dev/null 2>&1; then
    echo "setup: installing cargo-nextest from crates.io (some minutes, once)"
    cargo install --locked --quiet cargo-nextest
fi
