"""Downloading from a small stand-in for the Hub on this machine."""

import hashlib
import os
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CONTENT = bytes(range(256)) * 90_000
PATH = "/xinyu1205/recognize_anything_model/resolve/main/ram_swin_large_14m.pth"


class _Hub(BaseHTTPRequestHandler):
    """Serves one large file the way the Hub does."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        requested = self.headers.get("Range")
        self.server.requests.append((self.command, requested))
        begin = int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0
        found = self.path == PATH
        self.send_response(404 if not found else 206 if begin else 200)
        self.send_header("ETag", f'"{self.server.stated}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - begin if found else 0))
        self.end_headers()
        if self.command == "GET" and found:
            self.wfile.write(CONTENT[begin:])

    do_GET = do_HEAD  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.stated, server.requests = hashlib.sha256(CONTENT).hexdigest(), []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def _run(hub: ThreadingHTTPServer, folder: Path, repository: Path, script: str, **environment: str):
    """Run a script in a process of its own: the hub library reads its environment when it is imported."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(folder)],
        env={
            **{key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
            "PYTHONPATH": str(repository),
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
            "HF_HOME": str(folder.parent / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_interrupted_resumed_and_found_the_next_time(hub, tmp_path, repository) -> None:
    script = """
        import sys
        from pathlib import Path

        from semillie_core.ram import download_ram

        assert "huggingface_hub" not in sys.modules

        def stop(done, total):
            raise RuntimeError(f"stopped at {done} of {total}")

        try:
            download_ram("ram", sys.argv[1], progress=stop)
        except RuntimeError as error:
            print(error)
        (partial,) = Path(sys.argv[1]).iterdir()
        print(partial.suffix, partial.stat().st_size)
        print(download_ram("ram", sys.argv[1]))
        print(download_ram("ram", sys.argv[1]))
    """
    folder = tmp_path / "rams"
    result = _run(hub, folder, repository, script)
    assert result.returncode == 0, result.stderr
    stopped, partial, first, second = result.stdout.splitlines()
    arrived = int(partial.removeprefix(".part "))
    assert 0 < arrived < len(CONTENT)
    assert stopped == f"stopped at {arrived} of {len(CONTENT)}"

    target = folder / "ram_swin_large_14m.pth"
    assert first == second == str(target)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in folder.iterdir()] == [target.name]
    assert hub.requests == [("HEAD", None), ("GET", None), ("HEAD", None), ("GET", f"bytes={arrived}-")]


def test_interrupted_while_it_is_verified(hub, tmp_path, repository) -> None:
    script = """
        import sys

        from semillie_core.ram import download_ram

        complete = []

        def stop(done, total):
            if done == total:
                complete.append(done)
            if len(complete) == 2:
                raise RuntimeError("stopped")

        try:
            download_ram("ram", sys.argv[1], progress=stop)
        except RuntimeError as error:
            print(error)
        print(download_ram("ram", sys.argv[1]))
    """
    folder = tmp_path / "rams"
    result = _run(hub, folder, repository, script)
    assert result.returncode == 0, result.stderr
    target = folder / "ram_swin_large_14m.pth"
    assert result.stdout.splitlines() == ["stopped", str(target)]
    assert target.read_bytes() == CONTENT
    assert hub.requests == [("HEAD", None), ("GET", None), ("HEAD", None)]


_PLAIN = """
    import sys

    from semillie_core.ram import download_ram

    download_ram("ram", sys.argv[1])
"""


def test_a_damaged_file_is_not_kept(hub, tmp_path, repository) -> None:
    hub.stated = "0" * 64
    result = _run(hub, tmp_path / "rams", repository, _PLAIN)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "DownloadError" in last
    assert hashlib.sha256(CONTENT).hexdigest() in last
    assert not any((tmp_path / "rams").iterdir())


def test_more_than_the_file_is_no_part_of_it(hub, tmp_path, repository) -> None:
    folder = tmp_path / "rams"
    folder.mkdir()
    (folder / f".ram_swin_large_14m.pth.{hub.stated[:12]}.part").write_bytes(CONTENT + b"more")
    assert _run(hub, folder, repository, _PLAIN).returncode == 0
    (file,) = folder.iterdir()
    assert file.read_bytes() == CONTENT


def test_offline_says_what_to_do(hub, tmp_path, repository) -> None:
    result = _run(hub, tmp_path / "rams", repository, _PLAIN, HF_HUB_OFFLINE="1")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "DownloadError: Could not download ram_swin_large_14m.pth" in last
    assert "https://huggingface.co/xinyu1205/recognize_anything_model" in last
    assert hub.requests == []
