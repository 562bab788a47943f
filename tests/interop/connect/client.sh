# For the checks of this folder to source: the bundled server by itself, and its schema as buf
# reads it.
# shellcheck shell=bash
. "$(dirname "$0")/../house.sh"
here=$(cd "$(dirname "$0")" && pwd)
[ -e "$here/.installed" ] || fail "the clients are not installed: run $here/setup"
export PATH=$here/.node:$here/node_modules/.bin:$PATH

needs openssl
serve
# buf keeps what it makes of the schema in the home.
export HOME=$house/home SCHEMA=$house/aegis.binpb proto=$here/../../../mock/proto
export api tls control control_token house
mkdir --mode=0700 "$HOME"
buf build "$proto" --output "$SCHEMA"
