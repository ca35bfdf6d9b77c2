#!/bin/bash
# Docker hosts on a vxlan network of flannel 0.6.2, with two members of etcd and its v2 API.
. "$(dirname "$0")/lib.sh"
hosts 192.168.205.1/24 docker-node1=192.168.205.10 docker-node2=192.168.205.11

# etcd, a member on each host. The second one's start lets the first become healthy.
for node in 1 2; do
    on docker-node$node $node $((9 + node)) <<'END'
etcd --enable-v2=true --data-dir /var/lib/etcd/data --name docker-node$1 \
    --initial-advertise-peer-urls http://192.168.205.$2:2380 \
    --listen-peer-urls http://192.168.205.$2:2380 \
    --listen-client-urls http://192.168.205.$2:2379,http://127.0.0.1:2379 \
    --advertise-client-urls http://192.168.205.$2:2379 \
    --initial-cluster-token etcd-cluster \
    --initial-cluster docker-node1=http://192.168.205.10:2380,docker-node2=http://192.168.205.11:2380 \
    --initial-cluster-state new >$LOGS/etcd.log 2>&1 &
END
done
on docker-node2 <<'END'
eventually etcdctl cluster-health
etcdctl cluster-health | tail -n 1 | grep "cluster is healthy"
END

# The network: its range, how it is cut, vxlan's number.
on docker-node1 <<'END'
cat >flannel-network-config.json <<JSON
{
    "Network": "10.0.0.0/8",
    "SubnetLen": 20,
    "SubnetMin": "10.10.0.0",
    "SubnetMax": "10.99.0.0",
    "Backend": {
        "Type": "vxlan",
        "VNI": 100,
        "Port": 8472
    }
}
JSON
etcdctl set /coreos.com/network/config <flannel-network-config.json
rm flannel-network-config.json
END

# flannel, in the background, without any flag.
for node in 1 2; do
    on docker-node$node <<'END'
nohup flanneld >$LOGS/flanneld.log 2>&1 &
eventually test -e /run/flannel/subnet.env
ip -4 addr show flannel.100 | grep 'inet 10\.'
ip -d link show flannel.100 | grep 'vxlan id 100 .* dstport 8472'
END
done
on docker-node1 <<'END'
etcdctl ls /coreos.com/network/subnets
test "$(etcdctl ls /coreos.com/network/subnets | wc -l)" = 2
for lease in $(etcdctl ls /coreos.com/network/subnets); do
    etcdctl get $lease | grep '"BackendType":"vxlan","BackendData":{"VNI":100,"VtepMAC":"'
done
END

# Docker takes its subnet and MTU from flannel.
for node in 1 2; do
    on docker-node$node <<'END'
source /run/flannel/subnet.env
dockerd --bip=${FLANNEL_SUBNET} --mtu=${FLANNEL_MTU} >$LOGS/dockerd.log 2>&1 &
END
done
image docker-node1 docker-node2
on docker-node1 <<'END'
docker run -d --name test1 busybox sh -c "while true; do sleep 3600; done"
docker exec test1 ifconfig eth0 | grep 'MTU:1450'
END
on docker-node2 <<'END' | tee "$TUTORIAL_WORK/test2"
docker run -d --name test2 busybox sh -c "while true; do sleep 3600; done" >/dev/null
docker exec test2 hostname -i
END
test2=$(cat "$TUTORIAL_WORK/test2")
on docker-node1 "$test2" <<'END'
docker exec test1 ping -c 4 -i 0.2 $1 >ping; cat ping
grep "4 packets received" ping
grep "ttl=62" ping
END
