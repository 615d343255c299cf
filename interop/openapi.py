"""Tries the management API with requests made from its own OpenAPI document.

    python3 interop/openapi.py PROGRAM [SECONDS]

Schemathesis makes them, right and wrong ones, and sequences in which the answers of some are
the ids of others. The PROGRAM serves on SQLite in a temporary directory. The test fails when
an answer is a 5xx, or is not what the document describes. It runs for about SECONDS (180) in
all: with the admin key, with a tenant's key, and with one that may only read.

It needs Python 3.10 or newer. What it runs is in requirements.txt, by version and hash, and is
installed into the temporary directory.
"""

import http.server
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import venv

CHECKS = ",".join([
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "response_headers_conformance", "unsupported_method", "ignored_auth", "use_after_free",
])


class Destination(http.server.BaseHTTPRequestHandler):
    """Takes some deliveries, and refuses others for good."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(404 if self.path == "/refuse" else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


def call(method, url, key=None, body=None):
    """Sends JSON and returns the answer's."""
    request = urllib.request.Request(url, method=method, data=None if body is None else json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    if key:
        request.add_header("Authorization", "Bearer " + key)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or "null")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def furnish(base, admin, destination):
    """Makes a tenant with endpoints, events, deliveries that have ended and keys; returns the keys."""
    tenant = call("POST", base + "/v1/tenants", admin, {"name": "interop"})["id"]
    for path in ("/take", "/refuse"):
        endpoint = call("POST", base + "/v1/endpoints?tenant_id=" + tenant, admin, {"name": path, "url": destination + path})
        for n in range(3):
            call("POST", endpoint["ingest_url"], body={"n": n})
    while len(call("GET", base + "/v1/deliveries?status=failed", admin)["data"]) < 3:
        time.sleep(0.05)
    keys = base + "/v1/tenants/" + tenant + "/keys"
    return [call("POST", keys, admin, {"name": scope, "scope": scope})["secret"] for scope in ("write", "read")]


def main(program, seconds):
    here = pathlib.Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as directory:
        home = pathlib.Path(directory)
        venv.create(home / "venv", with_pip=True)
        bin = home / "venv" / ("Scripts" if os.name == "nt" else "bin")
        subprocess.run([bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", here / "requirements.txt"], check=True)

        destination = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Destination)
        threading.Thread(target=destination.serve_forever, daemon=True).start()
        port, admin = free_port(), secrets.token_hex(24)
        environment = {
            **os.environ, "DATABASE_URL": "sqlite:kapsel.db", "KAPSEL_LISTEN": f"127.0.0.1:{port}", "KAPSEL_METRICS_LISTEN": "", "KAPSEL_ADMIN_KEY": admin,
            "KAPSEL_EGRESS_ALLOW": f"127.0.0.1/32:{destination.server_port}", "KAPSEL_TRUSTED_PROXIES": "127.0.0.1/32", "KAPSEL_DRAIN_DELAY": "0s", "LOG_LEVEL": "warn", "LOG_FORMAT": "text",
        }
        server = subprocess.Popen([os.path.abspath(program), "serve"], cwd=home, env=environment)
        failed = []
        try:
            base = f"http://127.0.0.1:{port}"
            for _ in range(300):
                try:
                    call("GET", base + "/health/ready")
                    break
                except OSError:
                    if server.poll() is not None:
                        sys.exit("the server ended before it was ready")
                    time.sleep(0.1)
            else:
                sys.exit("the server is not ready after 30 seconds")
            write, read = furnish(base, admin, f"http://127.0.0.1:{destination.server_port}")
            # Each run comes from an address of its own, since the wrong keys of one address are limited.
            for n, (who, key, share) in enumerate((("the admin key", admin, 0.5), ("a tenant's key", write, 0.35), ("a key that may only read", read, 0.15))):
                print(f"\n== with {who}", flush=True)
                run = subprocess.run([
                    bin / "schemathesis", "run", base + "/openapi.json", "--header", "Authorization: Bearer " + key, "--checks", CHECKS,
                    "--header", f"X-Forwarded-For: 192.0.2.{n + 1}",
                    "--max-time", str(max(10, int(seconds * share))), "--continue-on-failure", "--warnings", "off",
                    # The first sends to whatever URL was made up for the endpoint; the second does not end.
                    "--exclude-operation-id", "test-endpoint", "--exclude-operation-id", "stream-events",
                ], cwd=home)
                if run.returncode != 0:
                    failed.append(who)
                if server.poll() is not None:
                    sys.exit("the server ended")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)
            destination.shutdown()
    if failed:
        sys.exit("the API is not what its document says: with " + ", ".join(failed))


if __name__ == "__main__":
    if sys.version_info < (3, 10):
        sys.exit("this needs Python 3.10 or newer")
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 180)
