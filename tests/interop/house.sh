# A private folder with a daemon and the bundled server, for a check to source. It ends with the
# check. Nothing of the person's own configuration is read.
#
#   needs python3         the check fails where it is missing
#   start                 a daemon that is ready, and nobody logged in
#   serve                 the bundled server by itself, for who needs no daemon
#   log_in                as the bundled server's demo user
#   whoami MATERIAL       the HTTP status that the material opens at the provider
#   block LANGUAGE FILE   the first code block of that language on a page
#   equal WANTED FOUND    the check fails where they differ
# shellcheck shell=bash
set -euo pipefail

SELECTOR=gcp/billing-prod/deploy-bot
house=$(mktemp --directory --tmpdir aegis-interop-XXXXXX)
daemon=
export XDG_RUNTIME_DIR=$house/run XDG_CONFIG_HOME=$house/config XDG_STATE_HOME=$house/state
mkdir --mode=0700 "$XDG_RUNTIME_DIR" "$XDG_CONFIG_HOME" "$XDG_STATE_HOME"

leave() {
  if [ -n "$daemon" ]; then
    kill -TERM "$daemon" || true
    wait "$daemon" || true
  fi
  rm -rf "$house"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
  echo "$*" >&2
  [ ! -f "$house/daemon.log" ] || cat "$house/daemon.log" >&2
  exit 1
}

needs() {
  local tool
  for tool; do
    command -v "$tool" >/dev/null || fail "$tool is missing"
  done
}

start() {
  needs curl jq
  local line log
  exec {log}< <(RUST_LOG=info exec "$BROKER" daemon --mock 2>&1)
  daemon=$!
  # Its log says where it is and when it serves; what comes later is kept for a failure.
  while read -r -t 60 -u "$log" line; do
    echo "$line" >>"$house/daemon.log"
    if [[ $line =~ Bearer\ ([^\']+)\'.*\ (http://[^ ]+/)_ctl/approve.*\ url=(http://[^ ]+/) ]]; then
      control_token=${BASH_REMATCH[1]} control=${BASH_REMATCH[2]} api=${BASH_REMATCH[3]}
    elif [[ $line == *' serving '* ]]; then
      cat <&"$log" >>"$house/daemon.log" &
      return
    fi
  done
  fail 'the daemon does not serve'
}

serve() {
  needs jq
  local line out
  exec {out}< <(exec "$MOCK" --listen 127.0.0.1:0 --tls 127.0.0.1:0 --control 127.0.0.1:0 2>"$house/daemon.log")
  daemon=$!
  read -r -t 60 -u "$out" line || fail 'the bundled server does not start'
  api=$(jq --raw-output .api <<<"$line")/
  tls=$(jq --raw-output .tls <<<"$line")/
  control=$(jq --raw-output .control <<<"$line")/
  control_token=$(jq --raw-output .control_token <<<"$line")
}

log_in() {
  local code
  code=$("$BROKER" login --no-wait --json 2>/dev/null | jq --raw-output '.device.user_code')
  curl --silent --show-error --fail --output /dev/null \
    --header "Authorization: Bearer $control_token" --header 'Content-Type: application/json' \
    --data "{\"userCode\":\"$code\"}" "${control}_ctl/approve"
  "$BROKER" login --json >/dev/null 2>&1
}

whoami() {
  curl --silent --show-error --output /dev/null --write-out '%{http_code}' \
    --header "Authorization: Bearer $1" "${api}fake/gcp/whoami"
}

block() {
  awk -v begin="\`\`\`$1" '$0 == begin { inside = 1; next } inside && /^```/ { exit } inside' "$2"
}

equal() {
  [ "$1" = "$2" ] || fail "wanted $1, found $2"
}
