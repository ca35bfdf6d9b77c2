"""A VPC for instances that are namespaces: moto as EC2, the metadata service of each instance, and a
router that does what the route tables say.

    vpc.py ROUTER LOG ADDRESS ...

The calling namespace is the VPC: its bridge joins the instances, and ROUTER is its address there. EC2 is
at port 5000 of it, with its log in LOG, the metadata service (IMDSv2 only) at 169.254.169.254. A route is followed only if the
interface that it leads to has no source/destination check, as in a real VPC.
"""

import http.server
import ipaddress
import json
import subprocess
import sys
import threading
import time

import boto3
from botocore.config import Config

ROUTER = sys.argv[1]
ADDRESSES = sys.argv[3:]
REGION = "eu-west-1"
ROLE = {
    "Code": "Success",
    "AccessKeyId": "ASIATUTORIAL",
    "SecretAccessKey": "secret",
    "Token": "session",
    "Expiration": "2999-01-01T00:00:00Z",
}


def client():
    arguments = [sys.executable, "-m", "moto.server", "-H", ROUTER, "-p", "5000"]
    log = open(sys.argv[2], "w")
    subprocess.Popen(arguments, stdout=log, stderr=log)
    ec2 = boto3.client(
        "ec2",
        region_name=REGION,
        endpoint_url=f"http://{ROUTER}:5000",
        aws_access_key_id="a",
        aws_secret_access_key="s",
        config=Config(retries={"max_attempts": 0}),
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            ec2.describe_vpcs()
            return ec2
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def run_instances(ec2):
    """Starts an instance with each address. Returns their identifiers, by address."""
    instances = {}
    subnets = ec2.describe_subnets()["Subnets"]
    for address in ADDRESSES:
        addr = ipaddress.ip_address(address)
        fits = [s for s in subnets if addr in ipaddress.ip_network(s["CidrBlock"])]
        started = ec2.run_instances(
            ImageId="ami-1",
            MinCount=1,
            MaxCount=1,
            SubnetId=fits[0]["SubnetId"],
            PrivateIpAddress=address,
        )
        instances[address] = started["Instances"][0]["InstanceId"]
    return instances


def serve_metadata(instances):
    class Metadata(http.server.BaseHTTPRequestHandler):
        def answer(self, status, text=""):
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_PUT(self):
            self.answer(200, f"token of {self.client_address[0]}")

        def do_GET(self):
            address = self.client_address[0]
            if self.headers.get("X-aws-ec2-metadata-token") != f"token of {address}":
                return self.answer(401)
            values = {
                "instance-id": instances[address],
                "placement/region": REGION,
                "placement/availability-zone": REGION + "a",
                "iam/security-credentials/": "flannel",
                "iam/security-credentials/flannel": json.dumps(ROLE),
            }
            path = self.path.removeprefix("/latest/meta-data/")
            return self.answer(200, values[path]) if path in values else self.answer(404)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("169.254.169.254", 80), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


def route(ec2):
    """Does what the tables say, for ever."""
    made = {}
    while True:
        interfaces = {
            found["NetworkInterfaceId"]: found
            for found in ec2.describe_network_interfaces()["NetworkInterfaces"]
        }
        wanted = {}
        for table in ec2.describe_route_tables()["RouteTables"]:
            for found in table["Routes"]:
                interface = interfaces.get(found.get("NetworkInterfaceId"))
                if interface and not interface["SourceDestCheck"]:
                    wanted[found["DestinationCidrBlock"]] = interface["PrivateIpAddress"]
        for destination in made.keys() - wanted.keys():
            ip("route", "del", destination)
        for destination, address in wanted.items():
            if made.get(destination) != address:
                ip("route", "replace", destination, "via", address)
        made = wanted
        time.sleep(0.2)


def main():
    ip("addr", "add", "169.254.169.254/32", "dev", "lo")
    ec2 = client()
    instances = run_instances(ec2)
    serve_metadata(instances)
    print(instances, flush=True)
    route(ec2)


main()
