"""The server over real HTTP on loopback: answers, refusals, limits, a model file that changes."""

from __future__ import annotations

import asyncio
import io
import random
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import continual
from continual.data import file_kinds
from continual.learning.doubts import typicality
from continual.methods.strata import StrataLearner
from continual.serving.batching import Batcher
from continual.serving.model import ModelInUse, Served
from continual.serving.pages import page
from continual.serving.uploads import Limits
from continual.testing import coloured_squares
from tests.support.malformed_requests import FILES, TYPE, body, part, requests
from tests.support.served import BACKBONE, learner_of, serving, taught


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of five classes in two experiences."""
    path = tmp_path_factory.mktemp("served") / "model.safetensors"
    learner_of([0, 1], [2, 3, 4]).save(path)
    return path


@pytest.fixture(scope="module")
def grown(trained: Path) -> Path:
    """A model of seven classes."""
    path = trained.with_name("grown.safetensors")
    learner_of([0, 1], [2, 3, 4], [5, 6]).save(path)
    return path


@pytest.fixture(scope="module")
def client(trained: Path) -> Iterator[httpx.Client]:
    with serving(trained, wait=0.001) as (found, _):
        yield found


def photo(kind: str = "PNG", number: int = 0) -> bytes:
    image = Image.fromarray(coloured_squares([number % 5], 1, seed=number)[0][0].permute(1, 2, 0).numpy())
    file = io.BytesIO()
    image.save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def ask(client: httpx.Client, *images: bytes, **headers: str) -> httpx.Response:
    files = [("image", (f"{n}.png", image)) for n, image in enumerate(images)]
    return client.post("/predict", files=files, headers=headers)


def refused(response: httpx.Response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    for word in words:
        assert word in response.json()["error"]


def test_answers_are_the_learner_s(client: httpx.Client, trained: Path) -> None:
    images = [photo("PNG", number) for number in range(6)] + [photo(kind, 6) for kind in ("BMP", "WEBP", "TIFF", "PPM")]
    found = ask(client, *images).raise_for_status().json()
    learner = continual.load(trained, BACKBONE)
    expected = learner.predict([Image.open(io.BytesIO(image)) for image in images], false_alarm_rate=0.05)
    assert found["model"] == {"method": "mos", "classes": 5, "updates": 2}
    for row, answer in enumerate(found["answers"]):
        best = expected.classes.index(expected.labels[row])
        assert answer["file"] == f"{row}.png"
        assert answer["answer"] == answer["best"][0]["class"] == expected.labels[row]
        assert answer["score"] == pytest.approx(float(expected.scores[row, best]), abs=1e-5)
        assert answer["probability"] == pytest.approx(float(expected.probabilities[row, best]), abs=1e-4)
        assert answer["unknown"] == bool(expected.unknown[row])
        assert answer["unsure"] == (answer["probability"] < 0.5)
        assert answer["typicality"] == typicality(answer["familiarity"])
        assert answer["stack"] == int(expected.stack[row])
        nearest = expected.similarity[row].argsort(descending=True).tolist()
        assert [near["class"] for near in answer["nearest"]] == [expected.classes[c] for c in nearest]


def test_a_model_without_stacks_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    taught(StrataLearner(BACKBONE), [0, 1], [2, 3, 4]).save(path)
    with serving(path) as (client, _):
        (found,) = ask(client, photo("PNG", 3)).raise_for_status().json()["answers"]
    assert (found["answer"], found["stack"], found["refinements"]) == ("class 3", None, None)
    assert found["nearest"][0]["class"] == "class 3"
    assert found["unknown"] is False
    assert (found["anomaly"], found["anomaly_threshold"]) == (None, None)
    assert found["best"][0]["probability"] == found["probability"] > 0.5


@pytest.mark.parametrize("rate", [0.05, 1e-6])
def test_a_model_of_one_class_says_how_unusual_an_image_is(tmp_path: Path, rate: float) -> None:
    learner = StrataLearner(BACKBONE)
    learner.learn(coloured_squares([0], 40)[0], ["good"] * 40)
    learner.save(path := tmp_path / "model.safetensors")
    images = [photo("PNG", 0), photo("PNG", 3)]
    expected = learner.predict([Image.open(io.BytesIO(image)) for image in images], false_alarm_rate=rate)
    with serving(path, false_alarm_rate=rate) as (client, _):
        found = ask(client, *images).raise_for_status().json()["answers"]
    assert [one["anomaly"] for one in found] == pytest.approx(expected.anomaly.tolist(), rel=1e-5)
    assert [one["unknown"] for one in found] == expected.unknown.tolist()
    assert found[0]["anomaly"] < 3 < found[1]["anomaly"]
    # Infinite is no number in JSON.
    assert {one["anomaly_threshold"] for one in found} == {None if rate < 1e-3 else expected.anomaly_threshold}
    assert [one["unknown"] for one in found] == [False, rate > 1e-3]


def test_what_there_is(client: httpx.Client) -> None:
    named = client.get("/classes").json()["classes"]
    assert [row["name"] for row in named] == [f"class {n}" for n in range(5)]
    assert [row["experience"] for row in named] == [0, 0, 1, 1, 1]
    assert client.get("/health").json() == {
        "status": "ok",
        "model": {"method": "mos", "classes": 5, "updates": 2},
        "reload_problem": None,
    }
    ask(client, photo(), photo())
    text = client.get("/metrics").text
    assert "equimos_classes 5.0" in text
    assert 'equimos_requests_total{path="/predict",status="200"}' in text
    page = client.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert client.get("/docs").status_code in (200, 404), "it needs a package"
    assert client.get("/predict").status_code == 405


def test_the_page_offers_the_kinds_of_files_that_are_taken(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offered(text: str) -> list[str]:
        return text.split('accept="')[1].split('"')[0].split(",")

    assert {".jpg", ".png", ".tif", ".avif", ".tga", ".ico", ".ppm"} < {*offered(client.get("/").text)}
    assert sorted(offered(page(4)[0])) == [".npy", ".tif", ".tiff"]
    for there in (object(), None):
        monkeypatch.setattr(file_kinds, "heif", lambda there=there: there)
        assert (".heic" in offered(page()[0])) == (there is not None), "without the extra a phone sends a JPEG for it"


def test_malformed_uploads_get_a_reason(client: httpx.Client) -> None:
    for kind, content, content_type in requests(44):
        response = client.post("/predict", content=content, headers={"Content-Type": content_type})
        if kind == "text bomb":  # a text beside a picture is not unpacked
            assert response.status_code == 200, response.text
            continue
        assert 400 <= response.status_code < 500, (kind, response.status_code, response.text)
        assert len(response.json()["error"]) > 10, kind
    assert ask(client, photo()).status_code == 200


def test_each_refusal_says_what_is_wrong(client: httpx.Client, trained: Path) -> None:
    def send(data: bytes) -> httpx.Response:
        return client.post("/predict", content=body(part(data)), headers={"Content-Type": TYPE})

    refused(send(b""), 400, "photo.jpg is empty")
    refused(send(b"GIF, he said"), 415, "JPEG, PNG")
    refused(send(FILES["floats"](random.Random(0))), 422, "32-bit numbers")
    refused(send(photo("JPEG")[:200]), 422, "damaged or cut off")
    refused(client.post("/predict", json={}), 415, "multipart/form-data")
    refused(client.post("/predict", data={"image": "x"}), 415, "multipart/form-data")
    with serving(trained, limits=Limits(pixels=15 * 16)) as (small, _):
        refused(ask(small, photo()), 413, "16 x 16 pixels", "240")
    with serving(trained, limits=Limits(image_bytes=100)) as (small, _):
        refused(ask(small, photo()), 413, "at most 100")


def test_a_body_of_no_stated_length_is_counted(client: httpx.Client) -> None:
    def endless() -> Any:
        yield part(b"")[:-2]
        for _ in range(30):
            yield bytes(2**20)

    refused(client.post("/predict", content=endless(), headers={"Content-Type": TYPE}), 413, "bytes")
    assert ask(client, photo()).status_code == 200


def test_a_key_is_asked_for_where_one_is_set(trained: Path) -> None:
    with serving(trained, api_key="5ecret!") as (client, _):
        for headers in ({}, {"X-API-Key": "no"}, {"Authorization": "Bearer no"}, {"Authorization": "Basic no"}):
            refused(ask(client, photo(), **headers), 401, "X-API-Key")
            assert client.get("/classes", headers=headers).status_code == 401
            assert client.get("/metrics", headers=headers).status_code == 401
        assert client.get("/health").status_code == 200
        assert client.get("/").status_code == 200
    with serving(trained, api_key="secret") as (client, _):
        assert ask(client, photo(), **{"X-API-Key": "secret"}).status_code == 200
        assert ask(client, photo(), Authorization="Bearer secret").status_code == 200


def test_a_page_elsewhere_cannot_borrow_another_name(trained: Path) -> None:
    with serving(trained, hosts=("127.0.0.1",)) as (client, _):
        assert client.get("/health").status_code == 200
        assert client.get("/health", headers={"Host": "evil.example"}).status_code == 400


def test_a_slow_upload_and_a_slow_model_are_given_up(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(trained, timeout=0.3) as (client, _):
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address, timeout=20) as slow:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}\r\nContent-Length: 500\r\n\r\n--bound"
            slow.sendall(head.encode())
            assert b"408" in slow.recv(4096).splitlines()[0]
        scores = Served.scores

        def late(self: Served, images: Any) -> Any:
            time.sleep(1)
            return scores(self, images)

        monkeypatch.setattr(Served, "scores", late)
        refused(ask(client, photo()), 504, "no answer within")
        monkeypatch.undo()
        time.sleep(1)
        # its own connection: the server is about to close the idle one; a busy machine may need a second try
        with httpx.Client(base_url=client.base_url, timeout=60, trust_env=False) as again:
            assert any(ask(again, photo()).status_code == 200 for _ in range(20))


def test_more_than_the_queue_holds_is_sent_back(trained: Path) -> None:
    with serving(trained, queue=2, wait=0.2) as (client, _):
        response = ask(client, *[photo()] * 5)
        refused(response, 503, "waiting")
        assert response.headers["retry-after"] == "1"
        time.sleep(0.3)
        assert ask(client, photo(), photo()).status_code == 200


def test_a_model_that_fails_answers_500_and_goes_on(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(trained) as (client, _):
        monkeypatch.setattr(Served, "scores", lambda self, images: 1 / 0)
        refused(ask(client, photo()), 500, "ZeroDivisionError")
        monkeypatch.undo()
        assert ask(client, photo()).status_code == 200


def test_images_that_wait_together_go_together(trained: Path) -> None:
    with serving(trained, wait=0.2, batch=4) as (client, _):
        with ThreadPoolExecutor(10) as pool:
            found = [r.json()["answers"][0]["score"] for r in pool.map(lambda _: ask(client, photo()), range(10))]
        assert max(found) - min(found) < 1e-6
        text = client.get("/metrics").text
    assert "equimos_batch_images_sum 10.0" in text
    assert float(next(line for line in text.splitlines() if "batch_images_count" in line).split()[1]) <= 6


def replaced(path: Path, source: Path) -> None:
    """Put another file in the place of a model, as `learn` does."""
    shutil.copy(source, path.with_name("new"))
    path.with_name("new").replace(path)


def reload(model: ModelInUse, classes: int) -> None:
    for _ in range(1000):
        if len(model.now.learner.classes) == classes:
            return
        time.sleep(0.01)
    raise AssertionError("the model was not loaded again")


def test_a_changed_file_is_taken_up_and_no_request_is_lost(trained: Path, grown: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(trained, tmp_path / "model.safetensors"))
    stop, seen = threading.Event(), []

    def keep_asking(address: httpx.URL) -> None:
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as own:
            while not stop.is_set():
                response = ask(own, photo(), photo(number=3))
                body = response.json() if response.status_code == 200 else {}
                seen.append((response.status_code, body.get("model", {}).get("classes")))

    with serving(model, reload_every=0.02, wait=0.001) as (client, in_use):
        threads = [threading.Thread(target=keep_asking, args=(client.base_url,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for source, classes in [(grown, 7), (trained, 5)] * 3:
            replaced(model, source)
            reload(in_use, classes)
            time.sleep(0.1)
        stop.set()
        for thread in threads:
            thread.join()
        assert 'equimos_reloads_total{outcome="loaded"} 6.0' in client.get("/metrics").text
    assert {status for status, _ in seen} == {200}
    assert {classes for _, classes in seen} == {5, 7}
    assert len(seen) >= 6


def test_a_file_that_cannot_be_read_leaves_the_old_model(trained: Path, grown: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(trained, tmp_path / "model.safetensors"))
    with serving(model, reload_every=0.02) as (client, in_use):
        for break_it in (lambda: model.write_bytes(b"no model"), model.unlink):
            break_it()
            for _ in range(500):
                if client.get("/health").json()["reload_problem"]:
                    break
                time.sleep(0.01)
            assert client.get("/health").json()["reload_problem"]
            assert ask(client, photo()).json()["model"]["classes"] == 5
        replaced(model, grown)
        reload(in_use, 7)
        assert client.get("/health").json()["reload_problem"] is None


def test_a_request_is_answered_by_one_model_alone(trained: Path, grown: Path) -> None:
    """Images of two models that wait together are not mixed."""
    models = [Served(continual.load(path, BACKBONE), (0, 0, 0)) for path in (trained, grown)]
    image = models[0].prepare(Image.open(io.BytesIO(photo())).convert("RGB"))

    async def mixed() -> list[int]:
        batcher = Batcher(largest=8, wait=0.01, queue=100)
        batcher.start()
        found = await asyncio.gather(*(batcher.ask(models[n % 2], image) for n in range(6)))
        await batcher.stop()
        return [scores.values.shape[1] for scores, _ in found]

    assert asyncio.run(mixed()) == [5, 7, 5, 7, 5, 7]


@pytest.mark.slow
def test_500_malformed_uploads_leave_memory_alone(client: httpx.Client) -> None:
    def resident() -> float:
        text = Path("/proc/self/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    before, highest = 0.0, 0.0
    for number, (kind, content, content_type) in enumerate(requests(500, seed=1)):
        response = client.post("/predict", content=content, headers={"Content-Type": content_type})
        read = kind == "text bomb"  # a text beside a picture is not unpacked
        assert response.status_code == 200 if read else 400 <= response.status_code < 500, (kind, response.text)
        assert read or response.json()["error"], kind
        if number == 100:
            before = resident()
        highest = max(highest, resident() if before else 0)
    assert highest - before < 200, "the uploads' own bytes, at most 21 MiB each, and no more"
    assert ask(client, photo()).status_code == 200
