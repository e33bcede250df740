#!/usr/bin/env bash
# Rhizomq, RabbitMQ and ActiveMQ side by side: the same load on all of them, in turns, in one run of `rhizomq bench stomp`.
#
#   benches/compare.sh                        one node each: our own, RabbitMQ's durable classic queues, ActiveMQ's KahaDB
#   NODES=3 benches/compare.sh                three nodes each: our own, and RabbitMQ's quorum queues (ActiveMQ has none)
#   benches/compare.sh --workload send --json further options go to `rhizomq bench stomp`
#
# It installs nothing. What it finds of Debian's packages rabbitmq-server and activemq it starts by itself, on loopback, with
# data in a scratch directory of its own on the disk of DIR (default: here); services that run already it leaves alone. All is
# ended and deleted when it ends, however it ends. What is not there is skipped, and it says so.
#
#   PROGRAM     the rhizomq to run [default: target/release/rhizomq beside this script, which is built if it isn't there]
#   PORT_BASE   the first of some twenty ports that are free [default: 21600]
set -euo pipefail

nodes=${NODES:-1}
# Below those that systems give to outgoing connections.
base=${PORT_BASE:-21600}
here=$(cd "$(dirname "$0")/.." && pwd)
program=${PROGRAM:-$here/target/release/rhizomq}
scratch=$(mktemp -d "$(cd "${DIR:-.}" && pwd)/rhizomq-compare-XXXXXX")
pids=()
bench=
epmd=

say() { echo "compare.sh: $*" >&2; }

cleanup() {
    trap '' INT TERM
    # It ends its own nodes first.
    if [ -n "$bench" ] && kill -TERM "$bench" 2>/dev/null; then wait "$bench" || true; fi
    for pid in "${pids[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do
        # A broker that takes longer to stop has nothing that is worth waiting for.
        for _ in $(seq 100); do kill -0 -- "-$pid" 2>/dev/null || break; sleep 0.1; done
        kill -KILL -- "-$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    # Erlang's name server outlives the nodes that started it; this one listens to a port of our own.
    if [ -n "$epmd" ]; then ERL_EPMD_PORT=$base "$epmd" -kill >/dev/null 2>&1 || true; fi
    rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Waits until a port is open, or the process that should open it has ended: PORT PID SECONDS
await() {
    local left=$(($3 * 10))
    until is_open "$1"; do
        if ! kill -0 "$2" 2>/dev/null || [ "$left" -le 0 ]; then return 1; fi
        left=$((left - 1))
        sleep 0.1
    done
}

# Starts a command as a process group of its own, its output in a file: LOG COMMAND...
start() {
    local log=$1
    shift
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    set +m
    pids+=($!)
}

# What a broker that did not come up had to say: NAME LOG
failed() {
    say "SKIPPED $1: it does not get ready; the end of its log:"
    tail -n 15 "$2" >&2 || true
}

brokers=()

rabbitmq() {
    local sbin server number names=() ports=()
    for sbin in /usr/lib/rabbitmq/lib/*/sbin; do [ -x "$sbin/rabbitmq-server" ] && server=$sbin/rabbitmq-server; done
    if [ -z "${server:-}" ] || ! command -v epmd >/dev/null; then
        say "SKIPPED RabbitMQ: it is not installed (Debian: rabbitmq-server)"
        return
    fi
    epmd=$(command -v epmd)
    for number in $(seq "$nodes"); do names+=("rhizomq-compare-$number@localhost"); done
    for number in $(seq "$nodes"); do
        local dir=$scratch/rabbitmq-$number port=$((base + number)) at
        mkdir -p "$dir"
        echo '[rabbitmq_stomp].' >"$dir/enabled_plugins"
        {
            echo "listeners.tcp = none"
            echo "stomp.listeners.tcp.1 = 127.0.0.1:$port"
            echo "stomp.default_user = guest"
            echo "stomp.default_pass = guest"
            # A disk that is shared with others must not look like a full one.
            echo "disk_free_limit.absolute = 50MB"
            if [ "$nodes" -gt 1 ]; then
                echo "cluster_formation.peer_discovery_backend = classic_config"
                for at in "${!names[@]}"; do
                    echo "cluster_formation.classic_config.nodes.$((at + 1)) = ${names[$at]}"
                done
            fi
        } >"$dir/rabbitmq.conf"
        # One for all nodes: they let each other in by it.
        [ -e "$scratch/.erlang.cookie" ] || { head -c 15 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$scratch/.erlang.cookie"; }
        chmod 400 "$scratch/.erlang.cookie"
        start "$dir.log" env HOME="$scratch" ERL_CRASH_DUMP="$dir/crash" ERL_EPMD_PORT="$base" ERL_EPMD_ADDRESS=127.0.0.1 \
            RABBITMQ_NODENAME="${names[$((number - 1))]}" RABBITMQ_DIST_PORT=$((base + 10 + number)) \
            RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_CONFIG_FILE="$dir/rabbitmq.conf" \
            RABBITMQ_ADVANCED_CONFIG_FILE="$dir/none.config" RABBITMQ_ENABLED_PLUGINS_FILE="$dir/enabled_plugins" \
            RABBITMQ_MNESIA_BASE="$dir/mnesia" RABBITMQ_LOG_BASE="$dir/log" RABBITMQ_PID_FILE="$dir/pid" \
            RABBITMQ_GENERATED_CONFIG_DIR="$dir/config" RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}" \
            "$server"
        ports+=("127.0.0.1:$port")
    done
    for number in $(seq "$nodes"); do
        if ! await "$((base + number))" "${pids[$((${#pids[@]} - nodes + number - 1))]}" 120; then
            failed RabbitMQ "$scratch/rabbitmq-$number.log"
            return
        fi
    done
    # They serve clients before they have found each other.
    if ! HOME="$scratch" ERL_EPMD_PORT="$base" RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_NODENAME="${names[0]}" \
        "${server%rabbitmq-server}rabbitmqctl" await_online_nodes "$nodes" --timeout 60 >"$scratch/ctl.log" 2>&1; then
        failed "RabbitMQ's cluster" "$scratch/ctl.log"
        return
    fi
    brokers+=("--broker" "rabbitmq=$(IFS=,; echo "${ports[*]}")")
}

activemq() {
    local jar=/usr/share/activemq/bin/activemq.jar port=$((base + 20)) dir=$scratch/activemq
    if [ "$nodes" -gt 1 ]; then
        say "SKIPPED ActiveMQ: it has no queues that are kept on several nodes' disks"
        return
    fi
    if [ ! -e "$jar" ] || ! command -v java >/dev/null; then
        say "SKIPPED ActiveMQ: it is not installed (Debian: activemq)"
        return
    fi
    mkdir -p "$dir"
    start "$dir.log" java -Xms512M -Xmx512M -Dactivemq.home=/usr/share/activemq -Dactivemq.base="$dir" \
        -Dactivemq.data="$dir" -Djava.io.tmpdir="$dir" -jar "$jar" start \
        "broker:(stomp://127.0.0.1:$port)?brokerName=rhizomq-compare&useJmx=false&persistent=true&dataDirectory=$dir"
    if ! await "$port" "${pids[-1]}" 60; then
        failed ActiveMQ "$dir.log"
        return
    fi
    brokers+=("--broker" "activemq=127.0.0.1:$port")
}

for port in $(seq "$base" $((base + 20))); do
    if is_open "$port"; then
        say "port $port is in use; choose others with PORT_BASE"
        exit 1
    fi
done
[ -x "$program" ] || (cd "$here" && cargo build --release --bin rhizomq)

options=(--nodes "$nodes" --header persistent:true --dir "$scratch")
if [ "$nodes" -gt 1 ]; then
    # Quorum queues: what is declared with the first SEND, and must be the same in a SUBSCRIBE. Topics' queues can't be such.
    options+=(--header x-queue-type:quorum --subscribe-header x-queue-type:quorum)
    [[ " $* " == *" --workload"* ]] || options+=(--workload "send,consume,latency")
fi
rabbitmq
activemq
say "measuring ${brokers[*]:-nothing but our own}"
# In the background, so that a signal to this script is not held up by it.
"$program" bench stomp "${options[@]}" "${brokers[@]}" "$@" &
bench=$!
wait "$bench" && code=0 || code=$?
bench=
exit "$code"
