# What the tutorials of this directory have in common: hosts that are namespaces of this machine.
# Source it first. Needs root, and target/docker and target/moto, which `make tutorials` fetches.
#
#   hosts ROUTER/LEN NAME=ADDRESS ...   hosts on the network of the tutorial, and the router between
#                                       them; each has /etc, /opt, /usr, /var and /run of its own
#   etcd_on NAME                        etcd with its v2 API, for all of them
#   on NAME [ARGUMENT ...] <<'END'      commands in one, each printed before it runs; the first that
#                                       fails ends all
#   eventually COMMAND                  waits until a command succeeds, in the shell or on a host
#   image NAME ...                      what `docker pull busybox` gives a reader
#
# All of it ends with the script, whose processes are in one pid namespace.

set -eu
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# The directory of the programs: by default, of those that `cargo test` has built.
PROGRAMS=$(realpath -m "${PROGRAMS:-$REPO/target/debug}")

if [ "${TUTORIAL_WORK:-}" = "" ]; then
    [ "$(id -u)" = 0 ] || { echo "${0##*/}: run it as root" >&2; exit 1; }
    for need in "$PROGRAMS/flanneld" "$PROGRAMS/flannel-lab" "$REPO/target/docker" "$REPO/target/moto"; do
        [ -e "$need" ] || { echo "${0##*/}: $need is missing: run make tutorials" >&2; exit 1; }
    done
    TUTORIAL_WORK=$(mktemp -d)
    export TUTORIAL_WORK
    NAME=tutorial-$$
    export NAME
    status=0
    unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private \
        -- bash "$0" >"$TUTORIAL_WORK.log" 2>&1 </dev/null || status=$?
    # The containers' part of the cgroup tree is the machine's.
    find /sys/fs/cgroup -depth -type d -path "*/$NAME*" -exec rmdir {} + 2>/dev/null || true
    if [ $status != 0 ] || [ "${VERBOSE:-}" != "" ]; then cat "$TUTORIAL_WORK.log" >&2; fi
    rm -rf "$TUTORIAL_WORK" "$TUTORIAL_WORK.log"
    echo "${0##*/}: $([ $status = 0 ] && echo "ran to its last line" || echo "FAILED")"
    exit $status
fi

mount -t tmpfs tmpfs "$TUTORIAL_WORK"
trap 'show_logs' EXIT
ip link set lo up
ip link add br0 type bridge
ip link set br0 up

show_logs() {
    [ $? != 0 ] || return 0
    local failed
    failed=$(tail -n 3 "$TUTORIAL_WORK.log")
    tail -n 25 "$TUTORIAL_WORK"/*/run.d/*.log 2>/dev/null || true
    printf '\nIt failed here:\n%s\n' "$failed"
}

hosts() {
    ip addr add "$1" dev br0
    local network=$1 host
    shift
    for host in "$@"; do
        make_host "${host%=*}" "${host#*=}/${network#*/}" "${network%/*}"
    done
}

# make_host NAME ADDRESS/LEN ROUTER
make_host() {
    local name=$1 dir=$TUTORIAL_WORK/$1
    mkdir -p "$dir"/{etc,opt,usr,var}.{u,w} "$dir/run.d"
    unshare --net --mount --uts --propagation private -- bash -c '
        set -e
        dir=$1
        for top in etc opt usr var; do
            mount -t overlay overlay -o "lowerdir=/$top,upperdir=$dir/$top.u,workdir=$dir/$top.w" /$top
        done
        mount -t tmpfs tmpfs /run
        mkdir -p /run/docker /run/containerd /var/lib/docker /var/lib/etcd "$dir/docker"
        mount --bind "$dir/docker" /var/lib/docker
        hostname "$2"
        touch "$dir/ready"
        exec sleep infinity' host "$dir" "$name" &
    echo $! >"$dir/pid"
    eventually test -e "$dir/ready"
    ip link add "v$name" type veth peer name eth0 netns "$(cat "$dir/pid")"
    ip link set "v$name" master br0 up
    install_programs | on "$name" >/dev/null
    on "$name" "$2" "$3" <<'END'
ip link set lo up
ip link set eth0 up
ip addr add $1 dev eth0
ip route add default via $2
END
}

# What a reader of the tutorial has installed before its first line.
install_programs() {
    cat <<END
ln -sf $PROGRAMS/flanneld /usr/bin/flanneld
install -D $REPO/dist/mk-docker-opts.sh /usr/libexec/flannel/mk-docker-opts.sh
install $REPO/tests/tutorials/systemctl /usr/bin/systemctl
ln -sf $REPO/target/docker/usr/bin/* $REPO/target/docker/usr/sbin/* /usr/bin/
mkdir -p /etc/docker /etc/systemd/system/docker.service.d
cat >/etc/docker/daemon.json <<JSON
{"exec-opts": ["native.cgroupdriver=cgroupfs"], "cgroup-parent": "/$NAME", "oom-score-adjust": 0}
JSON
cat >/usr/lib/systemd/system/docker.service <<'UNIT'
[Service]
Type=notify
ExecStart=/usr/bin/dockerd \$DOCKER_NETWORK_OPTIONS
UNIT
END
}

etcd_on() {
    on "$1" <<'END'
address=$(ip -4 -o addr show eth0 | sed 's|.*inet \([0-9.]*\)/.*|\1|')
etcd --enable-v2=true --data-dir /var/lib/etcd/data --listen-client-urls http://0.0.0.0:2379 \
    --advertise-client-urls http://$address:2379 >$LOGS/etcd.log 2>&1 &
eventually etcdctl cluster-health
END
}

on() {
    local dir=$TUTORIAL_WORK/$1
    { declare -f eventually; cat; } | nsenter --net --mount --uts --target "$(cat "$dir/pid")" -- \
        env -i PATH=/usr/bin:/usr/sbin:/bin:/sbin HOME=/root ETCDCTL_API=2 LOGS="$dir/run.d" \
        NAME="$NAME" bash -eux -o pipefail -s "${@:2}"
}

# Waits for up to three minutes: the machine may be busy.
eventually() {
    local end=$((SECONDS + 180))
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "never: $*" >&2; return 1; }
        sleep 0.1
    done
}

image() {
    local tree=$TUTORIAL_WORK/tree applet
    mkdir -p "$tree/bin" "$tree/www"
    cp "$(command -v busybox)" "$tree/bin/busybox"
    for applet in sh ping httpd wget nc telnet ip ifconfig sleep cat hostname traceroute; do
        ln -s busybox "$tree/bin/$applet"
    done
    tar -C "$tree" -cf "$TUTORIAL_WORK/busybox.tar" .
    for name in "$@"; do
        echo "eventually docker version; docker import $TUTORIAL_WORK/busybox.tar busybox" \
            | on "$name"
    done
}
