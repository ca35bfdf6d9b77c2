#!/bin/bash
# Docker hosts on a vxlan network of flannel 0.17, with units of systemd.
. "$(dirname "$0")/lib.sh"
hosts 192.168.64.1/24 node1=192.168.64.3 node2=192.168.64.4
etcd_on node1

# The network.
on node1 <<'END'
etcdctl set /coreos.com/network/config '{"Network":"10.244.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan"}}'
END

# flannel's unit, with its options in a file, and Docker's drop-in.
for node in node1 node2; do
    on $node <<'END'
cat >/etc/default/flannel <<OPTS
FLANNEL_OPTS="--etcd-endpoints=http://192.168.64.3:2379 --ip-masq"
OPTS
cat >/etc/systemd/system/flannel.service <<'UNIT'
[Unit]
Description=Flanneld overlay address etcd agent
After=network.target etcd.service
Before=docker.service

[Service]
Type=notify
EnvironmentFile=/etc/default/flannel
ExecStart=/usr/bin/flanneld $FLANNEL_OPTS
ExecStartPost=/usr/libexec/flannel/mk-docker-opts.sh -k DOCKER_NETWORK_OPTIONS -d /run/flannel/docker
Restart=on-failure

[Install]
WantedBy=multi-user.target
UNIT
cat >/etc/systemd/system/docker.service.d/flannel.conf <<UNIT
[Service]
EnvironmentFile=-/run/flannel/docker
UNIT
systemctl daemon-reload
systemctl enable flannel
systemctl start flannel
systemctl status flannel
cat /run/flannel/subnet.env /run/flannel/docker
ip -d link show flannel.1 | grep 'mtu 1450'
ip -d link show flannel.1 | grep 'vxlan id 1 .* dstport 8472 nolearning'
systemctl restart docker
END
done
image node1 node2

# A web server on the second host, a client on the first.
web=$(on node2 <<'END'
docker run -d --name web busybox sh -c 'echo "hello from $(hostname -i)" >/www/index.html; httpd -f -h /www' >&2
docker exec web hostname -i
END
)
on node1 "$web" <<'END'
eventually curl -s --max-time 2 http://$1/
curl -s http://$1/ | grep "hello from $1"
docker run -d --name client busybox sleep 1000
docker exec client ping -c 3 -i 0.2 $1 >ping; cat ping
grep 'ttl=62' ping
grep ' 0% packet loss' ping
docker exec client wget -q -O - http://$1/ | grep "hello from $1"
ip route | grep '10.244.*via 10.244.*dev flannel.1 onlink'
bridge fdb show dev flannel.1 | grep 'dst 192.168.64.4 self permanent'
iptables -S FORWARD | grep FLANNEL-FWD
iptables -t nat -S POSTROUTING | grep FLANNEL-POSTRTG
END

# Reconfigured: the device is made again, and the subnet stays.
on node1 "$web" <<'END'
before=$(grep FLANNEL_SUBNET /run/flannel/subnet.env)
ip link del flannel.1
systemctl restart flannel
ip link show flannel.1
test "$before" = "$(grep FLANNEL_SUBNET /run/flannel/subnet.env)"
eventually docker exec client ping -c 1 -W 1 $1
END
