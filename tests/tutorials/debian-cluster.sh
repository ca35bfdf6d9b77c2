#!/bin/bash
# A small cluster of Debian hosts with flannel 0.7: flags of that version, files in /var/lib.
. "$(dirname "$0")/lib.sh"
hosts 10.0.0.1/24 master=10.0.0.10 node=10.0.0.11
etcd_on master

# The network. Without a backend it is udp.
on master <<'END'
etcdctl set /coreos.com/network/config '{"Network":"172.17.0.0/16"}'
END

# flannel's unit with the flags of 0.7; -interface never was one, but is common.
for host in master node; do
    on $host <<'END'
mkdir -p /var/lib/flanneld/networks
cat >/etc/systemd/system/flanneld.service <<'UNIT'
[Unit]
Description=Network fabric for containers
Before=docker.service

[Service]
Type=notify
ExecStart=/usr/bin/flanneld \
    -etcd-endpoints=http://10.0.0.10:2379 \
    -logtostderr=true \
    -ip-masq=true \
    -subnet-dir=/var/lib/flanneld/networks \
    -subnet-file=/var/lib/flanneld/subnet.env \
    -interface=eth0
Restart=always
UNIT
cat >/etc/systemd/system/docker.service.d/flannel.conf <<'UNIT'
[Service]
EnvironmentFile=/var/lib/flanneld/subnet.env
ExecStart=
ExecStart=/usr/bin/dockerd --bip=${FLANNEL_SUBNET} --mtu=${FLANNEL_MTU} --ip-forward=true --ip-masq=false
UNIT
systemctl daemon-reload
systemctl start flanneld
grep 'flag --interface is taken for --iface' $LOGS/flanneld.service.log
grep 'flag --subnet-dir is ignored' $LOGS/flanneld.service.log
cat /var/lib/flanneld/subnet.env
grep FLANNEL_MTU=1472 /var/lib/flanneld/subnet.env
ip -4 addr show flannel0 | grep 'inet 172\.17\.'
systemctl start docker
ip -4 addr show docker0 | grep "inet $(sed -n 's/FLANNEL_SUBNET=//p' /var/lib/flanneld/subnet.env)"
END
done
on master <<'END'
for lease in $(etcdctl ls /coreos.com/network/subnets); do etcdctl get $lease; done
test "$(etcdctl ls /coreos.com/network/subnets | wc -l)" = 2
END
image master node

# Something that listens on one host, telnet on the other.
server=$(on node <<'END'
docker run -d --name server busybox sh -c 'while true; do echo "this is $(hostname -i)" | nc -l -p 2323; done' >&2
docker exec server hostname -i
END
)
on master "$server" <<'END'
docker run -d --name client busybox sleep 1000
eventually docker exec client sh -c "nc -w 2 $1 2323 </dev/null | grep 'this is $1'"
eventually docker exec client sh -c "sleep 0.5 | telnet $1 2323 | grep 'this is $1'"
docker exec client ping -c 3 -i 0.2 $1 >ping; cat ping
grep 'ttl=60' ping
grep ' 0% packet loss' ping
docker exec client ping -c 1 10.0.0.1
END

# The subnet stays over a restart of the host: its file is in /var/lib.
on node <<'END'
before=$(grep FLANNEL_SUBNET /var/lib/flanneld/subnet.env)
systemctl stop flanneld
rm -rf /run/flannel
systemctl start flanneld
test "$before" = "$(grep FLANNEL_SUBNET /var/lib/flanneld/subnet.env)"
END
on master "$server" <<'END'
eventually docker exec client ping -c 1 -W 1 $1
END
