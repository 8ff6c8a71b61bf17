"""Start a ComfyUI server on a throw-away base folder and talk to it as the web page does."""

# ruff: noqa: S310  (every address is the server's own)

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import Engine

if TYPE_CHECKING:
    from PIL.Image import Image

Prompt = dict[str, dict[str, Any]]

SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "9.9.9",  # keeps the first-run template dialog shut
    "Comfy.Minimap.Visible": False,
    "Comfy.VueNodes.Enabled": False,
}


class RefusedError(RuntimeError):
    """The server refused a prompt (HTTP 400).

    Attributes:
        errors: ``(node id, error type, details)`` of every refused input.
    """

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(json.dumps(body, indent=1))
        self.errors = [
            (node, error["type"], f"{error['message']} {error['details']}")
            for node, report in body.get("node_errors", {}).items()
            for error in report["errors"]
        ]


@dataclass
class Run:
    """What happened while one prompt ran, in the order of the messages.

    Attributes:
        status: ``execution_success``, ``execution_error`` or ``execution_interrupted``.
        executed: Ids of the nodes that really ran.
        cached: Ids of the nodes whose result came from the cache.
        progress: Per node id the ``(value, maximum)`` pairs of its progress messages.
        previews: Live preview pictures (JPEG or PNG bytes).
        ui: Per node id the user-interface output.
        error: The message of a failed node.
    """

    prompt_id: str
    status: str = ""
    executed: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    progress: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    previews: list[bytes] = field(default_factory=list)
    ui: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0


class Server:
    """One running ComfyUI."""

    def __init__(self, engine: Engine, base: Path, arguments: tuple[str, ...] = ()) -> None:
        """Lay out ``base``; what goes into custom_nodes is left to the caller."""
        self.engine = engine
        self.base = base
        self.arguments = arguments
        self.log = base / "server.log"
        for name in ("custom_nodes", "input", "output", "models", "temp", "home"):
            (base / name).mkdir(parents=True, exist_ok=True)
        self.write_settings({})
        self._process: subprocess.Popen[bytes] | None = None

    def write_settings(self, changes: dict[str, Any]) -> None:
        """Store the web page's settings."""
        path = self.base / "user" / "default" / "comfy.settings.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(SETTINGS | changes), encoding="utf-8")

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, seconds: float = 180.0) -> Server:
        """Start the server and wait until it answers.

        Raises:
            RuntimeError: it ended or did not answer in time; the message carries the end of its log.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = os.environ | {
            "HOME": str(self.base / "home"),
            "PYTHONDONTWRITEBYTECODE": "1",
            # Nothing under test may reach for the network: every proxied request fails at once.
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
            "HTTP_PROXY": "http://127.0.0.1:9",
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        command = [
            *(self.engine.python, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", self.port),
            *("--base-directory", self.base, "--disable-auto-launch", "--disable-api-nodes"),
            *("--database-url", f"sqlite:///{self.base}/user/comfyui.db", *self.arguments),
        ]
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.engine.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self._process.returncode}:\n{self.log_tail()}")
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return self
            time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"ComfyUI did not answer within {seconds:.0f} s:\n{self.log_tail()}")

    def stop(self) -> None:
        """End the server: politely, then firmly."""
        if self._process is None:
            return
        for ask, patience in ((signal.SIGINT, 10), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            if self._process.poll() is not None:
                break
            self._process.send_signal(ask)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self._process = None

    def log_tail(self, characters: int = 4000) -> str:
        """Return the end of the server's log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-characters:]

    def get(self, path: str) -> Any:
        """GET a JSON document."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def get_bytes(self, path: str) -> bytes:
        """GET a file."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            data: bytes = answer.read()
            return data

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST a JSON document; HTTP 400 becomes :class:`RefusedError`."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 400:
                raise RefusedError(json.load(error)) from None
            raise
        return json.loads(text) if text else None

    def forget(self) -> None:
        """Drop the server's cache of results, so that the next run executes everything."""
        self.post("/free", {"free_memory": True})

    def saved(self, run: Run, node: str) -> list[Path]:
        """Files that a Save or Preview node of a run wrote."""
        return [
            self.base / image["type"] / image["subfolder"] / image["filename"]
            for image in run.ui[node]["images"]
        ]

    def run(
        self, prompt: Prompt, on_progress: Callable[[Run], None] | None = None, seconds: float = 240.0
    ) -> Run:
        """Queue a prompt, follow its messages to the end and return what happened.

        Args:
            prompt: A prompt in API format.
            on_progress: Called after every progress message.
            seconds: How long the whole run may take.

        Raises:
            RefusedError: the server did not accept the prompt.
            TimeoutError: the run did not end in time.
        """
        import websocket

        client = uuid.uuid4().hex
        socket_ = websocket.create_connection(
            f"ws://127.0.0.1:{self.port}/ws?clientId={client}", timeout=seconds
        )
        try:
            started = time.monotonic()
            answer = self.post("/prompt", {"prompt": prompt, "client_id": client})
            run = Run(answer["prompt_id"])
            while not run.status:
                if time.monotonic() - started > seconds:
                    raise TimeoutError(f"prompt still running after {seconds:.0f} s:\n{self.log_tail()}")
                self._follow(run, socket_.recv(), on_progress)
            run.seconds = time.monotonic() - started
        except websocket.WebSocketTimeoutException:
            raise TimeoutError(f"no message for {seconds:.0f} s:\n{self.log_tail()}") from None
        finally:
            socket_.close()
        # A node whose result came from the cache sends no message with its output; the history has it.
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            history = self.get(f"/history/{run.prompt_id}")
            if run.prompt_id in history:
                run.ui = history[run.prompt_id]["outputs"]
                break
            time.sleep(0.05)
        return run

    @staticmethod
    def _follow(run: Run, message: str | bytes, on_progress: Callable[[Run], None] | None) -> None:
        if isinstance(message, bytes):
            (kind,) = struct.unpack(">I", message[:4])
            if kind == 1:  # preview picture: event type, picture format, bytes
                run.previews.append(message[8:])
            return
        event = json.loads(message)
        kind, data = event["type"], event["data"]
        if data.get("prompt_id") != run.prompt_id:
            return
        if kind == "execution_cached":
            run.cached += data["nodes"]
        elif kind == "executing" and data["node"] is not None:
            run.executed.append(data["node"])
        elif kind == "progress":
            run.progress.setdefault(data["node"], []).append((data["value"], data["max"]))
            if on_progress:
                on_progress(run)
        elif kind in ("execution_success", "execution_interrupted"):
            run.status = kind
        elif kind == "execution_error":
            run.status = kind
            run.error = data["exception_message"]


def first_picture(path: Path) -> Image:
    """What a saved file shows first, of a photo or a video."""
    # Not at the top: what prepares the environment with these imports this, too.
    import av
    from PIL import Image

    if path.suffix != ".mp4":
        return Image.open(path)

    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_image()
