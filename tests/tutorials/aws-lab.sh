#!/bin/bash
# Instances of EC2 on a network of flannel 0.11 with the aws-vpc backend.
. "$(dirname "$0")/lib.sh"
hosts 172.31.16.1/20 node1=172.31.28.198 node2=172.31.17.20
etcd_on node1
ip link set br0 mtu 9001
for node in node1 node2; do
    ip link set v$node mtu 9001
    echo "ip link set eth0 mtu 9001" | on $node
done

# The VPC: EC2, the metadata service, and the router between the instances.
sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 \
    net.ipv4.conf.br0.send_redirects=0
mkdir -p "$TUTORIAL_WORK/vpc/run.d"
"$REPO/target/moto/bin/python" "$REPO/tests/tutorials/vpc.py" 172.31.16.1 \
    "$TUTORIAL_WORK/vpc/run.d/ec2.log" 172.31.28.198 172.31.17.20 >"$TUTORIAL_WORK/vpc/run.d/vpc.log" 2>&1 &
eventually grep 'i-' "$TUTORIAL_WORK/vpc/run.d/vpc.log"

# The network.
on node1 <<'END'
etcdctl set /coreos.com/network/config '{"Network":"10.1.0.0/16","Backend":{"Type":"aws-vpc"}}'
etcdctl get /coreos.com/network/config
END

# flannel finds out where it runs, and makes its route.
for node in node1 node2; do
    on $node <<'END'
export AWS_ENDPOINT_URL_EC2=http://172.31.16.1:5000
flanneld -etcd-endpoints=http://172.31.28.198:2379 >>$LOGS/flanneld.log 2>&1 &
echo $! >/run/flanneld.pid
eventually test -e /run/flannel/subnet.env
cat /run/flannel/subnet.env
grep FLANNEL_MTU=9001 /run/flannel/subnet.env
addr=$(ip -4 -o addr show eth0 | sed 's|.*inet \([0-9.]*\)/.*|\1|')
grep "Found eni-.* that has $addr IP address" $LOGS/flanneld.log
grep 'Route table configured: false' $LOGS/flanneld.log
grep 'Found route table rtb-' $LOGS/flanneld.log
grep 'Route added to table rtb-.*: 10.1.*/24 - eni-' $LOGS/flanneld.log
END
done
ip route show | grep '10\.1\..* via 172.31.28.198'
eventually sh -c "ip route show | grep '10\.1\..* via 172.31.17.20'"

# Docker takes its subnet and MTU from flannel.
for node in node1 node2; do
    on $node <<'END'
source /run/flannel/subnet.env
dockerd --bip=${FLANNEL_SUBNET} --mtu=${FLANNEL_MTU} --ip-masq=false >$LOGS/dockerd.log 2>&1 &
END
done
image node1 node2

# A container that listens on one instance, nc and curl on the other.
server=$(on node2 <<'END'
docker run -d --name server busybox sh -c \
    'while true; do printf "HTTP/1.0 200 OK\r\n\r\nthis is $(hostname -i)\n" | nc -l -p 8000; done' >&2
docker exec server hostname -i
END
)
on node1 "$server" <<'END'
docker run -d --name client busybox sleep 1000
eventually docker exec client sh -c "nc -w 2 $1 8000 </dev/null | grep 'this is $1'"
eventually sh -c "curl -s --max-time 2 http://$1:8000/ | grep 'this is $1'"
docker exec client ping -c 3 -i 0.2 $1 >ping; cat ping
grep ' 0% packet loss' ping
END

# A restart finds its route and leaves it alone.
on node2 <<'END'
kill $(cat /run/flanneld.pid)
while kill -0 $(cat /run/flanneld.pid); do sleep 0.1; done
rm /run/flannel/subnet.env
export AWS_ENDPOINT_URL_EC2=http://172.31.16.1:5000
flanneld -etcd-endpoints=http://172.31.28.198:2379 >>$LOGS/flanneld.log 2>&1 &
echo $! >/run/flanneld.pid
eventually test -e /run/flannel/subnet.env
test "$(grep -c 'Route added' $LOGS/flanneld.log)" = 1
END

# Somebody deletes the routes. flannel finds out within some ten minutes, or at SIGHUP.
"$REPO/target/moto/bin/python" - <<'END'
import boto3

ec2 = boto3.client(
    "ec2",
    region_name="eu-west-1",
    endpoint_url="http://172.31.16.1:5000",
    aws_access_key_id="a",
    aws_secret_access_key="s",
)
for table in ec2.describe_route_tables()["RouteTables"]:
    for route in table["Routes"]:
        if route["DestinationCidrBlock"].startswith("10.1."):
            ec2.delete_route(
                RouteTableId=table["RouteTableId"], DestinationCidrBlock=route["DestinationCidrBlock"]
            )
END
eventually sh -c "! ip route show | grep '10\.1\.'"
for node in node1 node2; do
    on $node <<'END'
kill -HUP $(cat /run/flanneld.pid)
END
done
on node1 "$server" <<'END'
eventually docker exec client ping -c 1 -W 1 $1
END
