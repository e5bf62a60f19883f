# Sourced by scripts/bench and scripts/smoke: starts a gateway, and an nsqd, on free loopback ports below $work, and stops
# what it started. Wants: $oxipush (the program), $work (a folder).

started=()

# Stops what was started here, in reverse, and waits for it.
stop_all() {
    local index
    for ((index = ${#started[@]} - 1; index >= 0; index--)); do
        kill "${started[index]}" 2>/dev/null || true
        wait "${started[index]}" 2>/dev/null || true
    done
    started=()
}
trap stop_all EXIT
trap 'exit 130' INT TERM

# free_ports N: that many ports that nobody listens on just now
free_ports() {
    python3 - "$1" <<'PY'
import socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in sockets))
PY
}

# until_ready URL PID LOG: waits for a 2xx, 30 s at most
until_ready() {
    local try
    for ((try = 0; try < 300; try++)); do
        curl -fsS -o /dev/null --max-time 2 "$1" 2>/dev/null && return
        kill -0 "$2" 2>/dev/null || break
        sleep 0.1
    done
    echo "$0: nothing answers at $1; the log is $3:" >&2
    tail -n 20 "$3" >&2
    exit 1
}

# start_nsqd FOLDER [ARGUMENT…]: sets $nsqd_pid, $nsqd_tcp, $nsqd_http
start_nsqd() {
    local folder=$1 nsqd=${OXIPUSH_TOOLS:-.tools/bin}/nsqd ports
    shift
    [ -x "$nsqd" ] || nsqd=nsqd
    command -v "$nsqd" >/dev/null || { echo "$0: nsqd is missing: scripts/tools builds it" >&2; exit 1; }
    mkdir -p "$folder"
    read -ra ports <<<"$(free_ports 2)"
    nsqd_tcp=127.0.0.1:${ports[0]} nsqd_http=127.0.0.1:${ports[1]}
    "$nsqd" --tcp-address="$nsqd_tcp" --http-address="$nsqd_http" --broadcast-address=127.0.0.1 --data-path="$folder" \
        --output-buffer-timeout=1ms "$@" >"$folder/log" 2>&1 &
    nsqd_pid=$!
    started+=("$nsqd_pid")
    until_ready "http://$nsqd_http/ping" "$nsqd_pid" "$folder/log"
}

# start_redis FOLDER: a redis-server as docker-compose.yml has it; sets $redis_pid, $redis_url
start_redis() {
    local folder=$1 ports
    command -v redis-server >/dev/null || { echo "$0: redis-server is missing: scripts/tools installs it" >&2; exit 1; }
    mkdir -p "$folder"
    read -ra ports <<<"$(free_ports 1)"
    redis-server --bind 127.0.0.1 --port "${ports[0]}" --dir "$folder" --save '' --appendonly yes --appendfsync always \
        --maxmemory-policy noeviction >"$folder/log" 2>&1 &
    redis_pid=$!
    started+=("$redis_pid")
    redis_url=redis://127.0.0.1:${ports[0]}
    until redis-cli -p "${ports[0]}" ping >/dev/null 2>&1; do
        kill -0 "$redis_pid" 2>/dev/null || { tail -n 20 "$folder/log" >&2; exit 1; }
        sleep 0.1
    done
}

# start_etcd FOLDER: sets $etcd_url
start_etcd() {
    local folder=$1 ports pid
    command -v etcd >/dev/null || { echo "$0: etcd is missing: scripts/tools installs it" >&2; exit 1; }
    mkdir -p "$folder"
    read -ra ports <<<"$(free_ports 2)"
    etcd_url=http://127.0.0.1:${ports[0]}
    local peers=http://127.0.0.1:${ports[1]}
    etcd --data-dir "$folder/data" --listen-client-urls "$etcd_url" --advertise-client-urls "$etcd_url" \
        --listen-peer-urls "$peers" --initial-advertise-peer-urls "$peers" --initial-cluster "default=$peers" >"$folder/log" 2>&1 &
    pid=$!
    started+=("$pid")
    until_ready "$etcd_url/health" "$pid" "$folder/log"
}

# start_cluster NAME NODES KEY=VALUE…: so many gateways with one nsqd, an etcd and a redis-server; sets $pids (the gateways', nsqd's
# and Redis's), $addresses (clients of all of them, pushes of the first) and $first_http
start_cluster() {
    local folder=$work/$1 nodes=$2 node sockets= gateways= ports all=()
    shift 2
    rm -rf "$folder"
    start_nsqd "$folder/nsqd"
    start_etcd "$folder/etcd"
    start_redis "$folder/redis"
    for ((node = 1; node <= nodes; node++)); do
        read -ra ports <<<"$(free_ports 1)"
        start_gateway "$folder/gw-$node" OXIPUSH__NODE__ID="gw-$node" OXIPUSH__QUEUE__BACKEND=nsq \
            OXIPUSH__QUEUE__NSQD="$nsqd_tcp" OXIPUSH__QUEUE__NSQD_HTTP="$nsqd_http" OXIPUSH__CLUSTER__ETCD="$etcd_url" \
            OXIPUSH__CLUSTER__ALLOW_LOOPBACK=true OXIPUSH__SOCKET__ANONYMOUS=true OXIPUSH__REDIS__URL="$redis_url" \
            OXIPUSH__PEERS__LISTEN="127.0.0.1:${ports[0]}" "$@"
        sockets=$sockets${sockets:+,}${addresses[1]}
        gateways=$gateways$gateway_pid,
        [ "$node" = 1 ] && all=("${addresses[@]}")
    done
    addresses=(--ws "$sockets" "${all[@]:2}")
    first_http=${all[3]}
    pids=$gateways$nsqd_pid,$redis_pid
}

# start_gateway FOLDER [KEY=VALUE…]: a gateway that leaves its file descriptors to clients; sets $gateway_pid and $addresses, what pushbench wants to know of it
start_gateway() {
    local folder=$1 ports
    shift
    mkdir -p "$folder"
    read -ra ports <<<"$(free_ports 3)"
    env OXIPUSH__SOCKET__LISTEN="127.0.0.1:${ports[0]}" OXIPUSH__HTTP__LISTEN="127.0.0.1:${ports[1]}" \
        OXIPUSH__GRPC__LISTEN="127.0.0.1:${ports[2]}" OXIPUSH__DATA__DIR="$folder/data" \
        OXIPUSH__HTTP__MAX_CONNECTIONS=1000 OXIPUSH__GRPC__MAX_CONNECTIONS=200 "$@" \
        "$oxipush" >"$folder/log" 2>&1 &
    gateway_pid=$!
    started+=("$gateway_pid")
    until_ready "http://127.0.0.1:${ports[1]}/readyz" "$gateway_pid" "$folder/log"
    addresses=(--ws "ws://127.0.0.1:${ports[0]}/ws" --http "http://127.0.0.1:${ports[1]}" --grpc "http://127.0.0.1:${ports[2]}")
}

# start QUEUE NAME: a gateway (and its nsqd) with a folder of its own; sets $pids, the server's processes, and $addresses
start() {
    local queue=$1 folder=$work/$2
    rm -rf "$folder"
    if [ "$queue" = nsq ]; then
        start_nsqd "$folder/nsqd"
        start_gateway "$folder" OXIPUSH__QUEUE__BACKEND=nsq OXIPUSH__QUEUE__NSQD="$nsqd_tcp" \
            OXIPUSH__QUEUE__NSQD_HTTP="$nsqd_http" OXIPUSH__NODE__ID=bench
        pids=$gateway_pid,$nsqd_pid
    else
        start_gateway "$folder"
        pids=$gateway_pid
    fi
}
