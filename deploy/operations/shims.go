//go:build linux

package main

import (
	"os"
	"path/filepath"
)

// shims stand in for what a namespace lacks. LAB is the lab's directory, HOST the host's name.
var shims = map[string]string{
	"scp": `#!/bin/bash
# scp FILE... HOST:DIR
set -e
to=${!#}
cp "${@:1:$#-1}" "$LAB/${to%%:*}/root/"
`,
	"apt-get": `#!/bin/bash
# apt-get install -y ./FILE.deb, or what is there already
set -e
[ "$1 $2" = "install -y" ]
case $3 in
  ./*.deb) dpkg -i "$3" ;;
  *) command -v "$3" ;;
esac
`,
	// The settings of this machine are not the hosts'.
	"sysctl": `#!/bin/bash
[ "$*" = --system ]
`,
	"make": `#!/bin/bash
set -e
[ "$*" = dist ]
PATH=${PATH#"$LAB/shims:"} make -C "$REPO" dist > "$LAB/dist.log" 2>&1 || { cat "$LAB/dist.log"; exit 1; }
ln -sfn "$REPO/dist" dist
`,
	"systemctl": `#!/bin/bash
# What the documents need of systemctl, with the unit as it is installed.
set -euo pipefail
unit=/usr/lib/systemd/system/roost.service
pidfile=$LAB/$HOST/roost.pid
log=$LAB/$HOST/roost.log
get() { sed -n "s/^$1=//p" $unit; }
alive() { [ -s $pidfile ] && kill -0 "$(cat $pidfile)" 2>/dev/null; }
start() {
  local user; user=$(get User)
  : > $log
  # The environment is the unit's, and what the embedded broker needs.
  ( set -a; . "$(get EnvironmentFile | sed s/^-//)"; set +a
    export ROOST_UNSAFE_EMBEDDED_BROKER=true ROOST_REPLICATION=1
    unset HOST LAB HOME
    exec setsid setpriv --reuid "$user" --regid "$user" --init-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
      bash -c 'echo $$ >&9; exec 9>&-; exec "$@"' - $(get ExecStart) >> $log 2>&1 < /dev/null 9> $pidfile ) &
  for _ in $(seq 600); do
    grep -q '^member .* serves' $log && return
    sleep 0.1
    [ -s $pidfile ] && ! alive && break
  done
  cat $log >&2
  exit 1
}
stop() {
  alive || return 0
  local pid; pid=$(cat $pidfile)
  kill -TERM $pid
  for _ in $(seq 1700); do kill -0 $pid 2>/dev/null || { rm -f $pidfile; return; }; sleep 0.1; done
  echo "roost does not end" >&2
  exit 1
}
case "$*" in
  "enable --now roost") start ;;
  "disable --now roost") stop ;;
  "restart roost") stop; start ;;
  "status --no-pager roost") alive ;;
  "reload haproxy")
    # As many sockets as this machine lets a process have.
    sed 's/^\( *maxconn\) [0-9]\{6,\}$/\1 4000/' /etc/haproxy/haproxy.cfg > "$LAB/$HOST/haproxy.cfg"
    haproxy -D -f "$LAB/$HOST/haproxy.cfg" -p "$LAB/$HOST/haproxy.pid" $([ -s "$LAB/$HOST/haproxy.pid" ] && echo -sf $(cat "$LAB/$HOST/haproxy.pid")) ;;
  *) echo "systemctl: $*?" >&2; exit 1 ;;
esac
`,
}

func writeShims(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range shims {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	return nil
}
