"""The metadata server of a Google Compute Engine instance at 169.254.169.254:80, and the API at :8443.

GET /double shows its state, PUT /double changes members of it:

  routes      by name
  calls       of the API so far
  polls       how often an operation is asked for until it is done
  ends        how operations end: "well", "quota", or "gone", as if they had never been
  denied      the method of calls that are refused for lack of a permission
  is_away     whether the metadata server closes every connection without an answer
"""

import http.server
import json
import threading

API = "https://www.googleapis.com/compute/v1"
PROJECT = "projects/lab-project"
METADATA = {
    "instance/network-interfaces/0/network": "projects/123456/networks/default",
    "project/project-id": "lab-project",
    "instance/name": "nodea",
    "instance/zone": "projects/123456/zones/europe-west1-b",
    "instance/service-accounts/default/token": '{"access_token":"token","expires_in":3599}',
}
LINKS = [
    f"{PROJECT}/global/networks/default",
    f"{PROJECT}/zones/europe-west1-b/instances/nodea",
    f"{PROJECT}/zones/europe-west1-b/instances/nodeb",
]

state = {"routes": {}, "calls": [], "polls": 2, "ends": "well", "denied": [], "is_away": False}
operations = {}


def start(kind, change):
    name = f"operation-{len(operations)}"
    operations[name] = {"polls": state["polls"], "change": change, "kind": kind}
    return 200, {"name": name, "operationType": kind, "status": "PENDING"}


def poll(name):
    operation = operations[name]
    answer = {"name": name, "operationType": operation["kind"], "status": "RUNNING"}
    operation["polls"] -= 1
    if state["ends"] == "gone":
        return refuse(404, "notFound", f"The resource '{name}' was not found")
    if operation["polls"] > 0:
        return 200, answer
    answer["status"] = "DONE"
    if state["ends"] == "quota":
        error = {"code": "QUOTA_EXCEEDED", "message": "Quota 'ROUTES' exceeded.  Limit: 250.0"}
        answer["error"] = {"errors": [error]}
    else:
        operation["change"]()
    return 200, answer


def refuse(status, reason, message):
    return status, {"error": {"message": message, "errors": [{"reason": reason}]}}


def call(method, path, body):
    state["calls"].append(f"{method} {path}")
    if method in state["denied"]:
        return refuse(403, "forbidden", "Required permission is missing")
    name = path.rsplit("/", 1)[1]
    routes = state["routes"]
    if path in LINKS:
        return 200, {"selfLink": f"{API}/{path}", "canIpForward": True}
    if method == "GET" and name in operations:
        return poll(name)
    if method == "GET" and name in routes:
        return 200, routes[name]
    if method == "DELETE" and name in routes:
        return start("delete", lambda: routes.pop(name))
    if method == "POST":
        route = json.loads(body)
        return start("insert", lambda: routes.update({route["name"]: route}))
    return refuse(404, "notFound", f"The resource '{path}' was not found")


class Handler(http.server.BaseHTTPRequestHandler):
    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/double":
            state.update(json.loads(body or "{}"))
            return self.answer(200, json.dumps(state))
        if self.path.startswith("/computeMetadata/v1/"):
            if state["is_away"]:
                self.close_connection = True
                return None
            value = METADATA.get(self.path.removeprefix("/computeMetadata/v1/"))
            return self.answer(200 if value else 404, value or "")
        path = self.path.removeprefix("/compute/v1/").removesuffix("?alt=json")
        if self.headers.get("Authorization") != "Bearer token":
            status, answer = refuse(401, "authError", "Invalid Credentials")
        else:
            status, answer = call(self.command, path, body)
        return self.answer(status, json.dumps(answer))

    do_GET = do_PUT = do_POST = do_DELETE = handle_any

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


metadata = http.server.ThreadingHTTPServer(("169.254.169.254", 80), Handler)
threading.Thread(target=metadata.serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer(("169.254.169.254", 8443), Handler).serve_forever()
