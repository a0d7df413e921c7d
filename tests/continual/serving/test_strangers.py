"""What strangers may do to the server: many and slow connections, pages of other sites, images that cost much."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import continual
from continual.serving import model as serving_model
from continual.serving import uploads
from continual.serving.model import ModelInUse
from continual.serving.origins import foreign
from continual.serving.scans import PARTS, scans
from continual.serving.server import names
from continual.serving.uploads import Limits, RefusedError, picture
from tests.conftest import ROOT
from tests.support.malformed_requests import TYPE, many_scans, photo
from tests.support.served import BACKBONE, learner_of, serving


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "model.safetensors"
    learner_of([0, 1]).save(path)
    return path


@pytest.fixture(scope="module")
def served(trained: Path) -> Iterator[tuple[httpx.Client, ModelInUse]]:
    with serving(trained, head_timeout=0.5, per_address=6, wait=0.001, hosts=()) as found:
        yield found


@pytest.fixture(scope="module")
def client(served: tuple[httpx.Client, ModelInUse]) -> httpx.Client:
    return served[0]


def connected(client: httpx.Client, stack: ExitStack, source: str = "127.0.0.1", say: bytes = b"") -> socket.socket:
    address = (client.base_url.host, client.base_url.port)
    made = stack.enter_context(socket.create_connection(address, timeout=20, source_address=(source, 0)))
    made.sendall(say)
    return made


def heard(connection: socket.socket) -> bytes:
    """All that the server says until it closes the connection."""
    said = b""
    try:
        while more := connection.recv(4096):
            said += more
    except ConnectionResetError:
        pass
    return said


def ask(client: httpx.Client, *images: bytes, **headers: str) -> httpx.Response:
    return client.post(
        "/predict", files=[("image", (f"{n}.png", image)) for n, image in enumerate(images)], headers=headers
    )


# Connections -----------------------------------------------------------------------------------------------


def test_one_address_has_so_many_connections_and_others_are_answered(client: httpx.Client) -> None:
    with ExitStack() as stack:
        held = [connected(client, stack, "127.0.0.2") for _ in range(6)]
        more = connected(client, stack, "127.0.0.2", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        said = heard(more)
        assert said.startswith(b"HTTP/1.1 429 ")
        assert b'{"error": "there are 6 connections from your address already' in said
        assert ask(client, photo()).status_code == 200
        assert all(b" 408 " in heard(one) for one in held)
    with ExitStack() as stack:
        again = connected(
            client, stack, "127.0.0.2", b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        assert b" 200 " in heard(again)


@pytest.mark.parametrize(
    "said",
    [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: "],
    ids=["nothing", "line", "header"],
)
def test_a_head_that_does_not_arrive_is_given_up(client: httpx.Client, said: bytes) -> None:
    started = time.monotonic()
    with ExitStack() as stack:
        slow = connected(client, stack, say=said)
        for _ in range(3):
            time.sleep(0.1)
            slow.sendall(b"x" if said else b"")
        assert b"408 \r\n" in heard(slow)
    assert time.monotonic() - started < 5


def test_a_second_head_on_a_connection_is_given_up_too(client: httpx.Client) -> None:
    with ExitStack() as stack:
        slow = connected(client, stack, say=b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in slow.recv(4096)
        slow.sendall(b"GET /health HT")
        assert b" 408 " in heard(slow)


def test_a_body_that_nobody_reads_does_not_hold_a_connection(trained: Path) -> None:
    """Of a request that is answered without its body, and of one that is refused."""
    with serving(trained, timeout=0.5) as (client, _), ExitStack() as stack:
        for line in (b"GET /health", b"POST /nowhere"):
            slow = connected(client, stack, say=line + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\nabc")
            started = time.monotonic()
            assert heard(slow).startswith(b"HTTP/1.1 ")
            assert time.monotonic() - started < 12


def test_70_slow_bodies_from_three_addresses_leave_room(trained: Path) -> None:
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}\r\nContent-Length: 500\r\n\r\n--bound".encode()
    with serving(trained, timeout=5) as (client, _), ExitStack() as stack:
        for number in range(70):
            connected(client, stack, f"127.0.0.{2 + number % 2}", head)
        started = time.monotonic()
        assert ask(client, photo()).status_code == 200
        assert time.monotonic() - started < 4


def test_what_is_no_http_gets_the_error_form(client: httpx.Client) -> None:
    with ExitStack() as stack:
        said = heard(connected(client, stack, say=b"\x16\x03\x01\x02\x00\r\n\r\n"))
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b'{"error": "Invalid HTTP' in said


# Who asks --------------------------------------------------------------------------------------------------


def test_pages_of_other_sites_are_refused(client: httpx.Client) -> None:
    own = f"http://{client.base_url.netloc.decode()}"
    assert ask(client, photo(), Origin=own).status_code == 200
    for origin in ("http://evil.example", "null", "https://127.0.0.1:1", own.replace("http:", "file:"), "http://[", ""):
        response = ask(client, photo(), Origin=origin)
        assert (response.status_code, "page of another site" in response.json()["error"]) == (403, True), origin


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]", "[::1]:8000", "127.1.2.3:1"])
def test_every_name_of_loopback_is_answered(client: httpx.Client, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "[::2]", "10.0.0.1", "localhost.example.com", "[", "a@localhost", ""])
def test_other_names_are_not(client: httpx.Client, host: str) -> None:
    response = client.get("/health", headers={"Host": host})
    assert response.status_code == 400
    assert "host" in response.json()["error"]


def test_behind_a_proxy_the_port_is_that_of_the_scheme() -> None:
    from starlette.datastructures import Headers

    def asked(host: str, origin: str) -> Any:
        return foreign(Headers({"host": host, "origin": origin}), ("*",))

    assert asked("example.com", "https://example.com") is None
    assert asked("example.com:443", "https://example.com") is None
    assert asked("example.com", "https://example.com:8443") is not None
    assert asked("example.com:8443", "https://example.com:8443") is None


def test_every_refusal_has_the_error_form(client: httpx.Client) -> None:
    for response, status in (
        (client.get("/nowhere"), 404),
        (client.get("/predict"), 405),
        (client.delete("/health"), 405),
        (ask(client, *[photo()] * 33), 413),
        (client.post("/predict", json={}), 415),
    ):
        assert response.status_code == status
        assert list(response.json()) == ["error"], response.text
    assert "at most 32 images" in ask(client, *[photo()] * 33).json()["error"]


@pytest.mark.parametrize("path", ["/", "/health", "/classes", "/metrics"])
def test_head_is_get_without_the_body(client: httpx.Client, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert client.head("/predict").status_code == 405


def test_a_reload_problem_says_no_paths_to_strangers(trained: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(trained, tmp_path / "model.safetensors"))
    with serving(model, reload_every=0.02, api_key="secret") as (client, in_use):
        model.unlink()
        for _ in range(500):
            if in_use.problem:
                break
            time.sleep(0.01)
        open_ = client.get("/health").json()["reload_problem"]
        own = client.get("/health", headers={"X-API-Key": "secret"}).json()["reload_problem"]
    assert open_
    assert str(tmp_path) not in open_
    assert str(tmp_path) in own


# The model file --------------------------------------------------------------------------------------------


def test_a_model_that_cannot_answer_is_not_taken_up(trained: Path, tmp_path: Path) -> None:
    """NaN in its prototypes or head: every answer would be no JSON."""
    model = Path(shutil.copy(trained, tmp_path / "model.safetensors"))
    in_use = ModelInUse(model, lambda before: continual.load(model, BACKBONE))
    good = in_use.now
    scores = serving_model.Served.scores

    def broken(self: Any, images: Any) -> Any:
        found = scores(self, images)
        found.values[:] = float("nan")
        return found

    Path(shutil.copy(trained, tmp_path / "new")).replace(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving_model.Served, "scores", broken)
        assert not in_use.refresh()
    assert in_use.now is good
    assert "not JSON compliant" in str(in_use.problem)


def test_a_file_changed_in_place_is_taken_up_once_it_stands_still(trained: Path, tmp_path: Path) -> None:
    loads = []
    model = Path(shutil.copy(trained, tmp_path / "model.safetensors"))

    def load(before: Any) -> Any:
        loads.append(before)
        return continual.load(model, BACKBONE)

    in_use = ModelInUse(model, load)
    content = model.read_bytes()
    for length in (100, 1000, len(content)):
        time.sleep(0.02)
        model.write_bytes(content[:length])
        assert not in_use.refresh()
    assert len(loads) == 1, "a file that is being copied was loaded"
    assert in_use.refresh(), in_use.problem
    Path(shutil.copy(trained, tmp_path / "new")).replace(model)
    assert in_use.refresh(), "a rename is taken up at once"


def test_copies_without_a_rename_and_by_rename_under_load(trained: Path, tmp_path: Path) -> None:
    """`cp new live` cuts the file short under the server; it lives, and every answer is right."""
    model, other = Path(shutil.copy(trained, tmp_path / "model.safetensors")), tmp_path / "other"
    learner_of([0, 1], [2]).save(other)
    with serving(model, reload_every=0.01, wait=0.001) as (client, in_use):
        for number in range(12):
            source = (other, trained)[number % 2]
            if number % 3:
                shutil.copyfile(source, model)
            else:
                Path(shutil.copy(source, tmp_path / "new")).replace(model)
            for _ in range(4):
                assert ask(client, photo()).status_code == 200
        deadline = time.monotonic() + 20
        while len(in_use.now.learner.classes) != 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(in_use.now.learner.classes) == 2
        assert in_use.problem is None


# Images ----------------------------------------------------------------------------------------------------


def test_scans_are_counted_before_they_are_decoded() -> None:
    image = many_scans(64, 64, 200)
    assert scans(image) == 210
    with pytest.raises(RefusedError, match="210 scans or parts: at most 32"):
        picture(image, "x.jpg", Limits())
    for options in ({}, {"progressive": True}, {"progressive": True, "quality": 100, "subsampling": 0}):
        file = io.BytesIO()
        Image.effect_noise((300, 200), 80).convert("RGB").save(file, "JPEG", **options)
        assert scans(file.getvalue()) == (10 if options else 1)
        assert picture(file.getvalue() + bytes(range(256)) * 999, "x.jpg", Limits()).size == (300, 200)


def test_a_jpeg_of_countless_parts_is_refused_at_once() -> None:
    started = time.monotonic()
    for part in (b"\xff\xe0\x00\x02", b"\xff\xd8", b"\xff\x01", b"\xff\xff", b"\xff\xfe\x00\x03x"):
        with pytest.raises(RefusedError):
            picture(b"\xff\xd8" + part * (9_000_000 // len(part)), "x.jpg", Limits())
    assert scans(b"\xff\xd8" + b"\xff\xe0\x00\x02" * 10_000) == PARTS
    assert time.monotonic() - started < 10


def test_scans_within_a_tiff_are_counted() -> None:
    file = io.BytesIO()
    Image.effect_noise((600, 2000), 80).convert("RGB").save(file, "TIFF", compression="jpeg")
    assert picture(file.getvalue(), "x.tif", Limits()).size == (600, 2000)
    with pytest.raises(RefusedError, match="scans"):
        picture(file.getvalue(), "x.tif", Limits(scans=0))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_many_frames_the_first_alone_is_decoded(kind: str) -> None:
    frames = [Image.new("RGB", (500, 500), (number, 0, 99)) for number in range(60)]
    file = io.BytesIO()
    frames[0].save(
        file, kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    started = time.monotonic()
    found = picture(file.getvalue(), "x", Limits(image_bytes=2**27))
    assert time.monotonic() - started < 2
    assert found.size == (500, 500)
    assert found.getpixel((3, 3))[0] < 9


def test_a_decoder_keeps_its_slot_until_it_is_done(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests are given up, no more images are decoded at a time than there are decoders."""
    at_work, most = [0], [0]

    def slow(data: bytes, name: str, limits: Limits, *how: Any) -> Image.Image:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        time.sleep(0.6)
        at_work[0] -= 1
        return uploads.picture(data, name, limits)

    monkeypatch.setattr("continual.serving.answering.picture", slow)
    with serving(trained, timeout=0.2, decoders=2) as (client, _):
        for _ in range(6):
            assert ask(client, photo()).status_code == 504
        assert most[0] <= 2
        monkeypatch.undo()
        time.sleep(1.5)
        assert at_work[0] == 0


# Behind a proxy --------------------------------------------------------------------------------------------


def test_a_server_answers_to_the_name_of_its_proxy(trained: Path) -> None:
    with serving(trained, hosts=names("127.0.0.1", "Parts.example.com")) as (client, _):
        own = {"Host": "parts.example.com", "Origin": "https://parts.example.com"}
        assert ask(client, photo(), **own).status_code == 200
        assert client.get("/health", headers={"Host": "other.example.com"}).status_code == 400
        assert client.get("/health").status_code == 200


def test_nginx_takes_the_config_of_the_page(tmp_path: Path) -> None:
    """`EQUIMOS_NGINX` may name the program."""
    nginx, openssl = os.environ.get("EQUIMOS_NGINX") or shutil.which("nginx"), shutil.which("openssl")
    if nginx is None or openssl is None:
        pytest.skip("needs nginx and openssl")
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    server = page.split("```nginx\n")[1].split("```")[0].replace("/etc/ssl/", f"{tmp_path}/")
    words = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=parts.example.com"]
    words += ["-keyout", str(tmp_path / "parts.example.com.key"), "-out", str(tmp_path / "parts.example.com.pem")]
    subprocess.run(words, check=True, capture_output=True)
    places = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; events {{}} http {{ access_log off; {places} {server} }}"
    )
    command = [nginx, "-t", "-e", str(tmp_path / "log"), "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
