#!/bin/bash
# System packages for the tests and for rebuilding the kernel programs. Idempotent; root on Debian or Ubuntu.
# A plain `cargo build` needs none of this: only Rust and a C linker.
set -euo pipefail

tools=${NV_TOOLS:-/var/cache/nv-tools}

need() { # the packages of a list that are not installed
  local p
  for p; do dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || echo "$p"; done
}

install() { # installs without starting services
  local missing policy=/usr/sbin/policy-rc.d made=
  mapfile -t missing < <(need "$@")
  [ ${#missing[@]} -eq 0 ] && return
  echo "setup: installing ${missing[*]}" >&2
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"; chmod +x "$policy"; made=1
  fi
  apt-get update -qq || true
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || {
    [ -n "$made" ] && rm -f "$policy"; return 1; }
  if [ -n "$made" ]; then rm -f "$policy"; fi
}

# What the tests drive: a real dockerd and containerd, CNI plugins, static busybox for images,
# namespaces, nftables for the comparison.
install docker.io containerd runc iptables containernetworking-plugins busybox-static iproute2 nftables

# The next Debian release's Docker and containerd, unpacked beside the system's: the runtime tests run on both. A
# private apt configuration, so that the system's own sources stay as they are.
newer_runtimes() {
  local root=$tools/runtimes apt=$tools/runtimes/apt suite=trixie package mirror
  local key=/usr/share/keyrings/debian-archive-keyring.gpg
  local packages=(docker.io docker-cli containerd) missing=()
  for package in "${packages[@]}"; do
    [ -e "$root/$suite/.done-$package" ] || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  [ -e "$key" ] || return 1
  mirror=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/debian.sources 2>/dev/null ||
    awk '$1=="deb"{print $2; exit}' /etc/apt/sources.list)
  [ -n "$mirror" ] || return 1
  mkdir -p "$apt"/{sources,lists/partial,cache/archives/partial} "$root/deb" "$root/$suite"
  echo "deb [signed-by=$key] $mirror $suite main" > "$apt/sources/$suite.list"
  cat > "$apt/conf" <<EOF
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$apt/sources";
Dir::State::Lists "$apt/lists";
Dir::Cache "$apt/cache";
Acquire::Languages "none";
APT::Sandbox::User "root";
EOF
  echo "setup: unpacking ${missing[*]} of $suite" >&2
  APT_CONFIG=$apt/conf apt-get update -qq || return 1
  for package in "${missing[@]}"; do
    rm -f "$root/deb/${package}"_*.deb
    (cd "$root/deb" && APT_CONFIG=$apt/conf apt-get download -qq "$package/$suite") || return 1
    dpkg -x "$root/deb/${package}"_*.deb "$root/$suite" || return 1
    touch "$root/$suite/.done-$package"
  done
  # Its runc needs a newer C library than this system may have: the daemons find the system's.
  rm -rf "$root/deb" "$apt" "$root/$suite"/usr/{bin,sbin}/runc
}
newer_runtimes || echo "setup: Docker and containerd of the next Debian are not to be had; their tests skip by name" >&2

# The stores of a cluster. etcd is this system's own package; Consul is in Debian bullseye alone, so it is unpacked beside the
# system from a private apt configuration. Where it is not to be had, its tests are skipped by name.
install etcd-server openssl
consul() {
  [ -x "$tools/consul/usr/bin/consul" ] && return
  local mirror version apt=$tools/apt
  mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -1)
  [ -n "$mirror" ] || mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' /etc/apt/sources.list | head -1)
  mkdir -p "$apt"/{src,lists/partial,cache/archives/partial} "$tools/consul"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bullseye main" > "$apt/src/bullseye.list"
  cat > "$apt/conf" <<CONF
Dir::Etc::SourceList "/dev/null"; Dir::Etc::SourceParts "$apt/src"; Dir::State::Lists "$apt/lists";
Dir::Cache "$apt/cache"; Acquire::Languages "none"; APT::Sandbox::User "root";
CONF
  echo "setup: unpacking Consul" >&2
  APT_CONFIG=$apt/conf apt-get update -qq &&
    version=$(APT_CONFIG=$apt/conf apt-cache madison consul | awk -F'|' '$3 ~ /bullseye\/main .*Packages/ {gsub(/ /, "", $2); print $2; exit}') &&
    [ -n "$version" ] &&
    (cd "$apt" && APT_CONFIG=$apt/conf apt-get download -qq "consul=$version") &&
    dpkg -x "$apt"/consul_*.deb "$tools/consul" && rm -f "$apt"/consul_*.deb
}
consul || echo "setup: Consul is not to be had from this system's mirror; its tests are skipped by name" >&2

# A wall clock that jumps, for the tests of the controller.
install faketime

# What captures are held against: libpcap's own filter compiler, and the readers that users open files with.
install tcpdump tshark wireshark-common

# Only for `cargo xtask bench datapath`: the C program that it compares with. `scripts/setup.sh bench` asks for it.
if [ "${1:-}" = bench ]; then
  install clang-14
fi

# The pinned toolchain of the kernel programs: core for BPF targets prebuilt, no nightly needed.
if install rustc-web libstd-rust-web-dev libstd-rust-web-dev-bpf llvm-22-dev; then
  if ! "$tools/bin/bpf-linker" --version 2>/dev/null | grep -q ' 0\.13\.0'; then
    echo "setup: building bpf-linker 0.13.0" >&2
    PATH=/usr/lib/llvm-22/bin:$PATH LLVM_PREFIX=/usr/lib/llvm-22 RUSTFLAGS="-L native=/usr/lib/llvm-22/lib" \
      CARGO_TARGET_DIR=$tools/build cargo install bpf-linker --version 0.13.0 --no-default-features \
      --features llvm-22 --locked --quiet --root "$tools"
    rm -rf "$tools/build"
  fi
else
  echo "setup: the kernel programs' toolchain is not to be had from this system's packages;" \
       "checks compare the object's recorded source digest instead" >&2
fi
