#!/usr/bin/env bash
# Runs one Apache Kafka broker (KRaft, combined controller) on loopback, for
# development and for the tests. Everything it has lives in DIR.
#
#   kafka.sh start DIR    fetch (once), format (once), start, wait until it answers;
#                         prints bootstrap=127.0.0.1:PORT
#   kafka.sh stop DIR     stop the broker that was started, and wait for its end
#   kafka.sh status DIR   print running or stopped; exit code 0 or 3
#
# Needs java 17 or newer and mvn. ROOST_KAFKA_PORT is the port of the broker
# (0, the default, picks free ones; a restart keeps those of the last start).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
die() { echo "kafka.sh: $*" >&2; exit 1; }
note() { echo "kafka.sh: $*" >&2; }

usage() { sed -n '2,11p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//' >&2; exit 2; }
[ $# -eq 2 ] || usage
verb=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
pidfile=$dir/kafka.pid
portfile=$dir/ports

# The pid counts only if it still is the process that was started: same start
# time, so that a reused pid is never signalled. A zombie counts as ended.
start_time() { sed -n 's/.*) //; /^[ZX]/!p' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
running() {
  [ -s "$pidfile" ] || return 1
  local pid started
  read -r pid started <"$pidfile" || return 1
  [ -n "$pid" ] && [ "$(start_time "$pid")" = "$started" ]
}

# A file descriptor of bash itself tells whether something listens.
port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_port() {
  local p
  for _ in $(seq 50); do
    p=$((20000 + RANDOM % 12000)) # below the range that the kernel hands out
    if [ "$p" != "${1:-}" ] && ! port_open "$p"; then echo "$p"; return; fi
  done
  die "found no free port"
}

check_needs() {
  case ${ROOST_KAFKA_PORT:-0} in *[!0-9]*) die "ROOST_KAFKA_PORT is '$ROOST_KAFKA_PORT': want a port number, or 0" ;; esac
  command -v java >/dev/null || die "java is missing: install a JRE of version 17 or newer"
  local major
  major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1)
  [ "${major:-0}" -ge 17 ] || die "java is version ${major:-unknown}: Kafka 4 needs 17 or newer"
}

# Fetches the libraries once for each content of pom.xml.
fetch() {
  local sum
  sum=$(cksum <"$here/pom.xml" | tr ' ' '-')
  [ -f "$dir/lib/.complete-$sum" ] && return
  command -v mvn >/dev/null || die "mvn is missing: install Maven 3.8 or newer"
  note "fetching Apache Kafka with Maven (about 100 MB the first time) ..."
  rm -rf "$dir/lib" "$dir/lib.new"
  mvn -B -q -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
    -DoutputDirectory="$dir/lib.new" >"$dir/maven.log" 2>&1 &
  local mvn=$! waited=0
  while kill -0 "$mvn" 2>/dev/null; do
    sleep 1
    waited=$((waited + 1))
    if [ $((waited % 5)) -eq 0 ]; then
      note "  $(find "$dir/lib.new" -name '*.jar' 2>/dev/null | wc -l) jars after ${waited} s"
    fi
  done
  wait "$mvn" || { tail -20 "$dir/maven.log" >&2; die "Maven failed; see $dir/maven.log"; }
  touch "$dir/lib.new/.complete-$sum"
  mv "$dir/lib.new" "$dir/lib"
}

configure() {
  local port=${ROOST_KAFKA_PORT:-0} controller
  if [ "$port" = 0 ] && [ -s "$portfile" ]; then
    read -r port controller <"$portfile"
  fi
  if [ "$port" = 0 ] || { [ "${ROOST_KAFKA_PORT:-0}" = 0 ] && { port_open "$port" || port_open "${controller:-$port}"; }; }; then
    port=$(free_port)
    controller=
  fi
  port_open "$port" && die "port $port is in use; set ROOST_KAFKA_PORT to another, or to 0"
  [ -n "${controller:-}" ] || controller=$(free_port "$port")
  echo "$port $controller" >"$portfile"
  cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$dir/data
auto.create.topics.enable=false
num.partitions=32
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.retention.hours=24
log.segment.bytes=67108864
num.network.threads=2
num.io.threads=4
PROPERTIES
  cat >"$dir/log4j2.properties" <<PROPERTIES
status=error
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=[%d] %p %m (%c)%n
rootLogger.level=info
rootLogger.appenderRef.console.ref=console
PROPERTIES
}

run_java() { # class and arguments
  java -Xms128m -Xmx512m -XX:+UseG1GC -XX:MaxGCPauseMillis=20 \
    -Dlog4j2.configurationFile="$dir/log4j2.properties" -cp "$dir/lib/*" "$@"
}

format() {
  [ -f "$dir/data/meta.properties" ] && return
  note "formatting $dir/data"
  local id
  id=$(run_java kafka.tools.StorageTool random-uuid 2>>"$dir/kafka.log" | tail -1)
  run_java kafka.tools.StorageTool format --standalone -t "$id" -c "$dir/server.properties" \
    >>"$dir/kafka.log" 2>&1 || { tail -20 "$dir/kafka.log" >&2; die "formatting failed; see $dir/kafka.log"; }
}

# Waits for the broker that runs; fails when it ends instead.
await() {
  local port
  port=$(cut -d' ' -f1 "$portfile")
  for _ in $(seq 300); do
    running || return 1
    # It opens the port before it serves: wait for the end of its own start too.
    if grep -q "Kafka Server started" "$dir/kafka.log" && port_open "$port"; then
      echo "bootstrap=127.0.0.1:$port"
      return
    fi
    sleep 0.2
  done
  die "no answer on port $port within 60 s; see $dir/kafka.log"
}

start() {
  if running; then
    note "already running"
    await && return
    note "it was just ending"
  fi
  check_needs
  fetch
  [ ! -f "$dir/kafka.log" ] || mv "$dir/kafka.log" "$dir/kafka.log.1"
  configure
  format
  note "starting; log in $dir/kafka.log"
  nohup setsid java -Xms128m -Xmx512m -XX:+UseG1GC -XX:MaxGCPauseMillis=20 \
    -Dlog4j2.configurationFile="$dir/log4j2.properties" -cp "$dir/lib/*" \
    kafka.Kafka "$dir/server.properties" >>"$dir/kafka.log" 2>&1 </dev/null &
  local pid=$!
  echo "$pid $(start_time "$pid")" >"$pidfile"
  await || { tail -20 "$dir/kafka.log" >&2; die "the broker ended; see $dir/kafka.log"; }
}

stop() {
  running || { note "not running"; rm -f "$pidfile"; return; }
  local pid
  read -r pid _ <"$pidfile"
  kill "$pid"
  for i in $(seq 300); do
    running || { rm -f "$pidfile"; note "stopped"; return; }
    [ "$i" = 250 ] && { note "no end after 50 s, killing pid $pid"; kill -9 "$pid"; }
    sleep 0.2
  done
  die "pid $pid does not end"
}

case $verb in
  start) start ;;
  stop) stop ;;
  status) if running; then echo "running bootstrap=127.0.0.1:$(cut -d' ' -f1 "$portfile")"; else echo stopped; exit 3; fi ;;
  *) usage ;;
esac
