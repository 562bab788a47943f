# What the checks of this folder share: a daemon nobody is logged in to, the clients on the PATH,
# and the command that they start as their server. For a check to source.
#
#   SERVER          the command and its arguments: the shim, recorded
#   control PATH…   the bundled server's control API, as curl takes it
#   approve CODE    the person approves the login with that code
#   material        a program gets the credential, so that its material exists
#   ok WORDS        says that something was as it must be
#   judge WORDS     holds everything that was recorded against the protocol, and searches it for
#                   the bundled server's secrets; see judge.py
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../house.sh"
trap 'echo "${0##*/}: line $LINENO failed" >&2' ERR
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ -e "$here/.installed" ] || fail "the clients are not installed: run $here/setup"

export PATH=$here/.node:$here/node_modules/.bin:$here/.venv/bin:$PATH
export HOME=$house/home TMPDIR=$house/tmp PYTHONDONTWRITEBYTECODE=1
mkdir --mode=0700 "$HOME" "$TMPDIR" "$house/records"

# The clients hand their server next to no environment, so the socket is named.
SERVER=("$here/recorded" "$house/records" "$BROKER" mcp --socket "$XDG_RUNTIME_DIR/aegis-broker/mcp.sock")

start
# For the scripts.
export control control_token BROKER

control() {
  curl --silent --show-error --fail --header "Authorization: Bearer $control_token" \
    --header 'Content-Type: application/json' "$@"
}

approve() {
  control --output /dev/null --data "{\"userCode\":\"$1\"}" "${control}_ctl/approve"
}

material() {
  "$BROKER" get "$SELECTOR" >/dev/null 2>&1 || fail 'no material for a program'
}

ok() {
  echo "ok  $*"
}

judge() {
  # The shims of clients that are gone end by themselves.
  flock --timeout 20 "$house/records.lock" true || fail 'a shim outlives its client'
  control "${control}_ctl/secrets" >"$house/secrets.json"
  python "$here/judge.py" "$house/records" "$house/secrets.json" "$@" || fail 'the record is not as it must be'
}
