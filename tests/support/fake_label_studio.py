"""The few requests of Label Studio's API that pushing and pulling need, with faults to order.

What the real server does is tested in tests/integration; this one fails when it is told to.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

TOKEN = "legacy-token-of-a-user"
REFRESH = "eyJhbGciOiJIUzI1NiJ9.eyJpZCI6MX0.signature-of-it"


class FakeLabelStudio(ThreadingHTTPServer):
    """Use it as a context manager; `faults` are popped one per request that matches: (method and path, what happens).

    What happens: a status (nothing is done), "lost" (all is done, and the answer never arrives), or a URL to redirect
    to.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.projects: dict[int, dict] = {}
        self.tasks: dict[int, dict] = {}
        self.files: list[str] = []
        self.page = 1000  # tasks at most
        self.lag = 0  # lists of tasks that are asked for until imported ones appear, as on servers with a queue
        self.faults: list[tuple[str, object]] = []
        self.requests: list[str] = []
        self.queue: list[tuple[int, dict]] = []
        self.lock = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def count(self, pattern: str) -> int:
        return sum(bool(re.match(pattern, request)) for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    server: FakeLabelStudio

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._handle("GET")

    def do_POST(self):
        self._handle("POST")

    def _handle(self, method):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        request = f"{method} {parts.path}"
        with self.server.lock:
            self.server.requests.append(request)
            fault = next((one for one in self.server.faults if re.fullmatch(one[0], request)), None)
            if fault:
                self.server.faults.remove(fault)
            if fault and isinstance(fault[1], int):
                return self._answer(fault[1], {"detail": f"sent {self.headers['Authorization']}"})
            if fault and fault[1] != "lost":
                self.send_response(302)
                self.send_header("Location", str(fault[1]))
                self.end_headers()
                return None
            if parts.path == "/api/token/refresh":
                known = json.loads(body)["refresh"] == REFRESH
                return self._answer(200 if known else 401, {"access": "access-token"} if known else {"detail": "no"})
            if self.headers["Authorization"] not in (f"Token {TOKEN}", "Bearer access-token"):
                return self._answer(401, {"detail": "Invalid token."})
            status, content = self._do(method, parts.path, parse_qs(parts.query), body)
            if fault:
                self.close_connection = True
                self.connection.close()
                return None
            return self._answer(status, content)

    def _answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _do(self, method, path, query, body):
        server = self.server
        if (method, path) == ("POST", "/api/projects"):
            number = len(server.projects) + 1
            server.projects[number] = json.loads(body) | {"id": number}
            return 201, server.projects[number]
        if (method, path) == ("GET", "/api/tasks"):
            self._work_off()
            size, page = min(int(query["page_size"][0]), server.page), int(query["page"][0])
            fields = query["include"][0].split(",")
            mine = [task for task in server.tasks.values() if str(task["project"]) == query["project"][0]]
            shown = [{field: task.get(field) for field in fields} for task in mine[size * (page - 1) : size * page]]
            return (
                (200, {"tasks": shown, "total": len(mine)})
                if shown or page == 1
                else (404, {"detail": "Invalid page."})
            )
        if path == "/api/users":
            return 200, [{"id": 1, "email": "ann@example.org"}]
        if path == "/api/dm/views":
            return 201, {}
        project = re.fullmatch(r"/api/projects/(\d+)(/.*)?", path)
        task = re.fullmatch(r"/api/tasks/(\d+)", path)
        if task and int(task[1]) in server.tasks:
            return 200, server.tasks[int(task[1])]
        if project and int(project[1]) in server.projects:
            return self._project(int(project[1]), project[2], query, body)
        return 404, {"detail": "Not found."}

    def _work_off(self):
        waiting, self.server.queue = self.server.queue, []
        for lag, task in waiting:
            if lag > 0:
                self.server.queue.append((lag - 1, task))
            else:
                place = len(self.server.tasks) + 1
                self.server.tasks[place] = task | {"id": place, "total_annotations": 0}

    def _project(self, number, rest, query, body):
        server = self.server
        if rest == "/file-uploads":
            return 200, [{"id": place, "file": file} for place, file in enumerate(server.files)]
        if rest == "/import" and query.get("commit_to_project") == ["false"]:
            for name in re.findall(rb'filename="([^"]+)"', body):
                server.files.append(f"upload/{number}/0a1b2c3d-{name.decode()}")
            return 201, {}
        if rest == "/import":
            server.queue += [(server.lag, task | {"project": number}) for task in json.loads(body)]
            if not server.lag:
                self._work_off()
            return 201, {}
        return 200, server.projects[number]
