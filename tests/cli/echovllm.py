"""In vLLM's place: takes its command line, answers on its port with the name it was asked by, and dies when it is told to."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ARGUMENTS = dict(zip(sys.argv[1:], [*sys.argv[2:], ""], strict=True))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        base = {"id": ARGUMENTS["--served-model-name"], "root": ARGUMENTS["serve"], "parent": None}
        zero = {"id": f"{base['id']}@base", "parent": base["id"]}
        self.answer({"data": [base, zero]} if self.path == "/v1/models" else {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["prompt"] == "die":
            print("RuntimeError: out of memory\nthe rest", flush=True)
            os._exit(3)
        open_ = self.headers["Authorization"] == f"Bearer {os.environ['VLLM_API_KEY']}"
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        self.answer({"choices": [{"text": body["model"]}], "usage": usage}, 200 if open_ else 401)

    def answer(self, body, status=200):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


if "--no-such-flag" in sys.argv:
    sys.exit("vllm: error: unrecognized arguments: --no-such-flag")
ThreadingHTTPServer(("127.0.0.1", int(ARGUMENTS["--port"])), Handler).serve_forever()
