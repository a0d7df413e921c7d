"""Thousands of requests of every kind at once, while the model file changes by rename and by copy."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.support.malformed_requests import TYPE, body, many_scans, part, photo, requests
from tests.support.served import learner_of

#: serves the model file that is named, and says at which port
SERVER = """
import sys
from pathlib import Path
import torch
import continual
from continual.serving import server
from continual.serving.answering import ServingOptions
from continual.serving.model import ModelInUse
from tests.support.served import BACKBONE
torch.set_num_threads(1)
model = Path(sys.argv[1])
in_use = ModelInUse(model, lambda before: continual.load(model, BACKBONE))
options = ServingOptions(reload_every=0.2, head_timeout=2, timeout=20, hosts=server.names("127.0.0.1"))
with server.listening("127.0.0.1", 0) as sockets:
    print(server.address(sockets), flush=True)
    server.run(in_use, options, sockets)
"""
SLOW = [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "]
SLOW += [f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE}\r\nContent-Length: 99\r\n\r\n--b".encode()]


def status(process: int) -> dict[str, int]:
    """Threads, open files, and MiB of memory of a process."""
    text = Path(f"/proc/{process}/status").read_text()
    found = {name: int(text.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "Threads")}
    files = len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208
    return {"MiB": found["VmRSS"] // 1024, "threads": found["Threads"], "files": files}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and uses many addresses of loopback")
def test_5000_mixed_requests_and_a_file_that_changes(tmp_path: Path) -> None:
    """EQUIMOS_REQUESTS says how many; the numbers are printed."""
    count = int(os.environ.get("EQUIMOS_REQUESTS", "5000"))
    models = [tmp_path / "a", tmp_path / "b"]
    learner_of([0, 1]).save(models[0])
    learner_of([0, 1], [2]).save(models[1])
    live = Path(shutil.copy(models[0], tmp_path / "live"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(live)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log
        )
    assert server.stdout is not None
    host, _, port = server.stdout.readline().decode().strip().partition(":")
    good = ("good", body(part(photo())), TYPE)
    bomb = ("scans", body(part(many_scans(5000, 5000, 300))), TYPE)
    pool = [*requests(46, seed=2), *[bomb] * 2, *[good] * 46]
    codes: Counter[tuple[str, int]] = Counter()
    stop, lock = threading.Event(), threading.Lock()

    def at_rest(client: httpx.Client) -> dict[str, int]:
        """What is left of a server that had nothing to do: threads that write uploads to disk wait for ten seconds."""
        time.sleep(11)
        large = body(part(photo() + bytes(2**21)))
        assert client.post("/predict", content=large, headers={"Content-Type": TYPE}).status_code == 200
        return status(server.pid)

    def worker(number: int, count: int) -> None:
        draw = random.Random(number)
        transport = httpx.HTTPTransport(local_address=f"127.0.0.{10 + number}", retries=2)
        with httpx.Client(transport=transport, base_url=f"http://{host}:{port}", timeout=60) as client:
            for _ in range(count):
                kind, content, content_type = draw.choice(pool)
                response = client.post("/predict", content=content, headers={"Content-Type": content_type})
                assert list(response.json()) in (["error"], ["answers", "model"]), response.text
                with lock:
                    codes[kind, response.status_code] += 1

    def crawl(number: int) -> int:
        """Open connections that never finish, again and again."""
        opened, held = 0, list[socket.socket]()
        while not stop.is_set():
            try:
                one = socket.create_connection(
                    (host, int(port)), source_address=(f"127.0.0.{50 + number}", 0), timeout=5
                )
                held.append(one)
                one.sendall(SLOW[opened % len(SLOW)])
                opened += 1
            except OSError:
                pass
            if len(held) > 40:
                held.pop(0).close()
            time.sleep(0.02)
        for one in held:
            one.close()
        return opened

    def swap() -> int:
        swaps = 0
        while not stop.is_set():
            source = models[(swaps + 1) % 2]
            if swaps % 2:
                shutil.copyfile(source, live)
            else:
                Path(shutil.copy(source, tmp_path / "new")).replace(live)
            swaps += 1
            time.sleep(0.7)
        return swaps

    try:
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=60, trust_env=False) as client:
            with ThreadPoolExecutor(8) as threads:
                list(threads.map(worker, range(8), [10] * 8))
            # The thread that reloads is started by the first change of the file.
            Path(shutil.copy(models[1], tmp_path / "new")).replace(live)
            for _ in range(20):
                assert client.post("/predict", content=good[1], headers={"Content-Type": TYPE}).status_code == 200
                time.sleep(0.2)
            codes.clear()
            before, started = at_rest(client), time.monotonic()
            with ThreadPoolExecutor(11) as threads:
                others = [threads.submit(crawl, number) for number in range(2)] + [threads.submit(swap)]
                workers = [threads.submit(worker, number, count // 8) for number in range(8)]
                middle, highest = None, before["MiB"]
                while not all(one.done() for one in workers):
                    assert server.poll() is None, (tmp_path / "log").read_text()
                    now = status(server.pid)
                    highest = max(highest, now["MiB"])
                    if middle is None and codes.total() > count / 2:
                        middle = now
                    time.sleep(0.2)
                stop.set()
                for one in workers:
                    one.result()
                slow, swaps = sum(one.result() for one in others[:2]), others[2].result()
            seconds = time.monotonic() - started
            answered, after = codes.total(), at_rest(client)
            reloads = client.get("/metrics").text.split('equimos_reloads_total{outcome="loaded"} ')[1].split()[0]
            assert client.post("/predict", content=good[1], headers={"Content-Type": TYPE}).status_code == 200
    finally:
        server.terminate()
        server.wait(30)
        server.stdout.close()
    by_status = Counter[int]()
    for (_, code), number in codes.items():
        by_status[code] += number
    print(f"\n{answered} requests in {seconds:.0f} s beside {slow} slow connections, {swaps} swaps, {reloads} reloads")
    print(f"{dict(sorted(by_status.items()))}; before {before}, middle {middle}, after {after}, at most {highest} MiB")
    assert not {code for code in by_status if code >= 500} - {503}
    assert {code for (kind, code) in codes if kind == "good"} <= {200, 503}
    assert {code for (kind, code) in codes if kind == "scans"} <= {413, 503}
    assert middle is not None
    assert after["MiB"] - middle["MiB"] < 64
    assert after["threads"] <= before["threads"]
    assert after["files"] <= before["files"] + 4
    assert (tmp_path / "log").read_text().count("Traceback") == 0
