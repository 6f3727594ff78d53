# Sourced by ./quickstart and tests/two-hosts, inside the bed: how a story is told. Each step prints the command a person would type,
# then runs it; the first thing that does not hold ends the story with the logs of everything that ran beside it.

if [[ -t 1 ]]; then bold=$'\e[1m' dim=$'\e[2m' off=$'\e[0m'; else bold='' dim='' off=''; fi
step() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }
shown() { printf '%s$' "$dim"; printf ' %s' "${@@Q}" | sed "s/'\([A-Za-z0-9_@%+=:,.\/-][A-Za-z0-9_@%+=:,.\/-]*\)'/\1/g"; printf '%s\n' "$off"; }
run() { shown "$@"; "$@"; }
fail() { printf '\nquickstart: %s\n' "$*" >&2; exit 1; }

background=()
start() { # NAME COMMAND…: runs beside the story, output in NAME.log, standard input from $input where that is set
  local name=$1
  shift
  shown "$@"
  "$@" <"${input:-/dev/null}" >"$name.log" 2>&1 &
  background+=($!)
}
stop_all() {
  local status=$? pid
  if ((status)); then
    for log in *.log; do printf '\n--- %s\n' "$log"; tail -n 20 "$log"; done >&2
  fi
  for pid in "${background[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  exit "$status"
}
trap stop_all EXIT
trap 'exit 130' INT TERM

# Waits until a command succeeds: for an event, with a deadline.
await() { # SECONDS WHAT COMMAND…
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || fail "waited in vain for $what"
    sleep 0.1
  done
}

# The helper's and sshd's words go to syslog; here, to a file.
syslog() {
  cat >syslog.py <<'END'
import os, socket

log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind("/dev/log")
os.chmod("/dev/log", 0o666)
while True:
    print(log.recv(65536).decode(errors="replace").split(": ", 1)[-1].rstrip("\0"))
END
  start syslog python3 -u syslog.py
  await 10 "the log socket" test -S /dev/log
}

# The helper's user, the helper and what PAM runs beside it, and the realm file: what a host's package brings.
install_helper() { # HELPER REALM-FILE
  groupadd --system countersign
  useradd --system --gid countersign --home-dir /nonexistent --shell /usr/sbin/nologin countersign
  useradd --create-home --shell /bin/bash --password '*' deploy
  install -d /usr/lib/countersign
  run install -o root -g root -m 0711 "$1" "$1-session" /usr/lib/countersign/
  install -D -m 644 "$2" /etc/countersign/realm.toml
  install -D -m 644 /dev/null /etc/countersign/empty
  mkdir -p /var/lib/countersign && chmod 755 /var/lib/countersign
}
