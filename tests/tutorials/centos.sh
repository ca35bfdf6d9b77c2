#!/bin/bash
# CentOS hosts with the package of flannel 0.7.1: /etc/sysconfig/flanneld, its unit and start script.
. "$(dirname "$0")/lib.sh"
network 192.168.33.1/24
host master 192.168.33.10/24
host minion 192.168.33.11/24

# The network is at the package's prefix.
on master <<'END'
etcd --enable-v2=true --data-dir /var/lib/etcd/data --listen-client-urls http://0.0.0.0:2379 \
    --advertise-client-urls http://192.168.33.10:2379 >$LOGS/etcd.log 2>&1 &
eventually etcdctl cluster-health
etcdctl mkdir /atomic.io/network
etcdctl mk /atomic.io/network/config '{"Network":"172.30.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan"}}'
END

# What the package installs, and the reader edits.
for host in master minion; do
    on $host <<'END'
mkdir -p /etc/sysconfig
cat >/etc/sysconfig/flanneld <<'CONF'
# Flanneld configuration options

# etcd url location.  Point this to the server where etcd runs
FLANNEL_ETCD_ENDPOINTS="http://192.168.33.10:2379"

# etcd config key.  This is the configuration key that flannel queries
# For address range assignment
FLANNEL_ETCD_PREFIX="/atomic.io/network"

# Any additional options that you want to pass
FLANNEL_OPTIONS="-iface=eth0 -ip-masq"
CONF
cat >/etc/systemd/system/docker.service <<'UNIT'
[Service]
Type=notify
EnvironmentFile=-/run/flannel/docker
ExecStart=/usr/bin/dockerd $DOCKER_NETWORK_OPTIONS
UNIT
END
done

# The master has the package's own unit and start script.
on master <<'END'
cat >/usr/bin/flanneld-start <<'START'
#!/bin/sh
exec /usr/bin/flanneld \
    -etcd-endpoints=${FLANNEL_ETCD_ENDPOINTS:-${FLANNEL_ETCD}} \
    -etcd-prefix=${FLANNEL_ETCD_PREFIX:-${FLANNEL_ETCD_KEY}} \
    "$@"
START
chmod +x /usr/bin/flanneld-start
cat >/etc/systemd/system/flanneld.service <<'UNIT'
[Unit]
Description=Flanneld overlay address etcd agent
After=network-online.target
Before=docker.service

[Service]
Type=notify
EnvironmentFile=/etc/sysconfig/flanneld
EnvironmentFile=-/etc/sysconfig/docker-network
ExecStart=/usr/bin/flanneld-start $FLANNEL_OPTIONS
ExecStartPost=/usr/libexec/flannel/mk-docker-opts.sh -k DOCKER_NETWORK_OPTIONS -d /run/flannel/docker
Restart=on-failure

[Install]
WantedBy=multi-user.target
RequiredBy=docker.service
UNIT
systemctl enable flanneld
systemctl start flanneld
END
# The minion has twill's unit, which reads the same file.
on minion "$REPO" <<'END'
install -m 644 $1/dist/flanneld.service /etc/systemd/system
systemctl enable flanneld
systemctl start flanneld
grep 'variable FLANNEL_ETCD_PREFIX is taken for FLANNELD_ETCD_PREFIX' $LOGS/flanneld.service.log
END
for host in master minion; do
    on $host <<'END'
cat /run/flannel/subnet.env /run/flannel/docker
grep 'DOCKER_NETWORK_OPTIONS=" --bip=172\.30\..* --ip-masq=false --mtu=1450"' /run/flannel/docker
systemctl start docker
ip -4 addr show docker0 | grep 'inet 172\.30\.'
END
done
on master <<'END'
etcdctl ls /atomic.io/network/subnets
test "$(etcdctl ls /atomic.io/network/subnets | wc -l)" = 2
END
image master minion

pod=$(on minion <<'END'
docker run -d --name pod busybox httpd -f -h /bin >&2
docker exec pod hostname -i
END
)
on master "$pod" <<'END'
docker run -d --name pod busybox sleep 1000
eventually curl -s -o /dev/null --max-time 2 http://$1/busybox
docker exec pod ping -c 3 -i 0.2 $1 >ping; cat ping
grep ' 0% packet loss' ping
docker exec pod wget -q -O /dev/null http://$1/busybox
END

# The reader starts over: the whole directory is removed and written again, while flanneld runs.
on master "$pod" <<'END'
etcdctl rm --recursive /atomic.io/network
etcdctl mk /atomic.io/network/config '{"Network":"172.30.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan"}}'
eventually sh -c 'test "$(etcdctl ls /atomic.io/network/subnets | wc -l)" = 2'
eventually docker exec pod ping -c 1 -W 1 $1
END
