#!/bin/bash
# CentOS hosts with the package of flannel 0.7.1: /etc/sysconfig/flanneld, its unit and start script.
. "$(dirname "$0")/lib.sh"
hosts 192.168.33.1/24 master=192.168.33.10 minion=192.168.33.11
etcd_on master

# The network is at the package's prefix.
on master <<'END'
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
cat >/etc/systemd/system/docker.service.d/flannel.conf <<UNIT
[Service]
EnvironmentFile=-/run/flannel/docker
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

# The tutorial ends with Kubernetes, in which flannel is a pod and needs no etcd. What ran so far ends.
for host in master minion; do
    on $host <<'END'
docker rm -f pod
systemctl stop docker
systemctl stop flanneld
ip link del flannel.1
ip link del docker0
rm -r /run/flannel
END
done

# The cluster, as kubeadm and the controller manager leave it: an API server, two nodes with podCIDRs,
# a service account for flannel.
KUBERNETES=$TUTORIAL_WORK/kubernetes
on master "$KUBERNETES" "$PROGRAMS" <<'END'
mkdir -p $1/account
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $1/key.pem \
    -out $1/account/ca.crt -subj /CN=kubernetes -addext basicConstraints=critical,CA:FALSE \
    -addext subjectAltName=IP:192.168.33.10
printf 'token of flannel' >$1/account/token
$2/flannel-lab netns-agent kube-api 192.168.33.10:6443 $1/nodes.json \
    --certificate $1/account/ca.crt --key $1/key.pem >$LOGS/kube-api.log 2>&1 &
eventually curl -s --cacert $1/account/ca.crt https://192.168.33.10:6443/double/requests
curl -s --cacert $1/account/ca.crt -X PUT https://192.168.33.10:6443/double/faults \
    --json '{"token":"token of flannel"}'
curl -s --cacert $1/account/ca.crt https://192.168.33.10:6443/double/nodes --json '[
    {"metadata":{"name":"master","annotations":{"node":"master"}},"spec":{"podCIDR":"10.244.0.0/24"}},
    {"metadata":{"name":"minion","annotations":{"node":"minion"}},"spec":{"podCIDR":"10.244.1.0/24"}}]'
END

# kube-flannel.yml: today's on the master, that of flannel 0.7.1 on the minion. Nothing but the image
# is changed in them.
sed 's|quay.io/coreos/flannel:v0.7.1-amd64|twill:0.1.0|' "$REPO/tests/tutorials/kube-flannel-0.7.yml" \
    >"$KUBERNETES/minion.yml"
cp "$REPO/dist/kubernetes/kube-flannel.yml" "$KUBERNETES/master.yml"
for host in master minion; do
    on $host "$KUBERNETES" "$REPO" "$PROGRAMS" <<'END'
mkdir -p /opt/cni/bin $1/image
ln -sf $3/flanneld $1/image/flanneld
ln -sf flanneld $1/image/install-conf
ln -s $2/target/docker/usr/lib/cni/* /opt/cni/bin
install $2/tests/tutorials/cni-flannel /opt/cni/bin/flannel
export NODE=$(hostname) API=192.168.33.10:6443 IMAGE=$1/image SERVICE_ACCOUNT=$1/account
$2/target/moto/bin/python $2/tests/tutorials/kubelet apply $1/$NODE.yml
eventually test -e /run/flannel/subnet.env
cat /run/flannel/subnet.env
grep FLANNEL_NETWORK=10.244.0.0/16 /run/flannel/subnet.env
curl -s --cacert $1/account/ca.crt -H 'Authorization: Bearer token of flannel' \
    https://$API/api/v1/nodes/$NODE >node
grep '"flannel.alpha.coreos.com/backend-type":"vxlan"' node
eventually sh -c "curl -s --cacert $1/account/ca.crt -H 'Authorization: Bearer token of flannel' \
    https://$API/api/v1/nodes/$NODE | grep FlannelIsUp"
END
done
on master <<'END'
grep FLANNEL_SUBNET=10.244.0.1/24 /run/flannel/subnet.env
cmp /etc/cni/net.d/10-flannel.conflist /run/kubelet/config-maps/kube-flannel-cfg/cni-conf.json
END
on minion <<'END'
grep FLANNEL_SUBNET=10.244.1.1/24 /run/flannel/subnet.env
eventually cmp /etc/cni/net.d/10-flannel.conf /run/kubelet/config-maps/kube-flannel-cfg/cni-conf.json
END

# A pod that listens on one node, a pod that asks on the other.
web=$(on minion "$REPO" <<'END'
$1/target/moto/bin/python $1/tests/tutorials/kubelet pod web
ip netns exec web busybox httpd -h /bin
END
)
on master "$REPO" "$web" <<'END'
$1/target/moto/bin/python $1/tests/tutorials/kubelet pod client
eventually ip netns exec client curl -s -o /dev/null --max-time 2 http://$2/busybox
ip netns exec client ping -c 3 -i 0.2 $2 >ping; cat ping
grep ' 0% packet loss' ping
END
