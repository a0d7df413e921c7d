"""What may go wrong between a name that somebody gives and a version: names, files, changes from outside, time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.testclient import TestClient

from continual.lifecycle import contents
from continual.methods.strata import StrataLearner
from continual.serving import answering, corrections
from continual.serving.collected import Collected, class_named
from continual.serving.model import ModelInUse
from continual.serving.outer import Outer
from continual.serving.teaching import Teaching
from continual.serving.uploads import RefusedError
from continual.testing import coloured_squares
from tests.support.served import BACKBONE, photos, post, refused, serving, taught


@pytest.fixture(scope="module")
def trained() -> StrataLearner:
    return taught(StrataLearner(BACKBONE), [0, 1], [2, 3])


@pytest.fixture
def model(trained: StrataLearner, tmp_path: Path) -> Path:
    trained.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def named(tmp_path: Path) -> Path:
    return tmp_path / "named"


@pytest.fixture
def client(model: Path, named: Path) -> Iterator[httpx.Client]:
    with serving(model, collect=named, learn=True, wait=0.001) as (found, _):
        yield found


def name(client: httpx.Client, images: list[bytes], label: str) -> None:
    post(client, "/corrections", images, **{"class": label}).raise_for_status()


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("label", ["/abs/nut", "../../x", "a/b", ".hid", "..", "C:\\x", "@eaDir"])
def test_a_class_of_a_strangers_model_is_no_way_out_of_the_folder(label: str) -> None:
    with pytest.raises(RefusedError, match=r"cannot be the name of a folder.*equimos rename") as stop:
        class_named(label, ["nut", label])
    assert stop.value.status == 422


def test_names_that_differ_in_case_are_compared_with_folders_and_hold_up_no_others() -> None:
    for text, known, folders, other in (
        ("hex nut", ["ring"], ["Hex nut"], "Hex nut"),
        ("käfer", ["Käfer"], [], "Käfer"),
        ("Ka\u0308fer", ["Käfer"], [], "Käfer"),
    ):
        with pytest.raises(RefusedError, match=f"there is a class '{other}': choose it"):
            class_named(text, known, folders)
    assert class_named("hex nut", ["ring"], ["hex nut"]) == "hex nut"
    assert class_named("bolt", ["Hex nut", "hex nut"]) == "bolt"


@pytest.mark.parametrize("text", ["1" * 5000, "1" * 20, "9" * 19])
def test_numbers_without_a_place_in_a_model_file_are_refused(text: str) -> None:
    with pytest.raises(RefusedError) as stop:
        class_named(text, [1, 2])
    assert stop.value.status == 422
    assert class_named(str(2**63 - 1), [1, 2]) == 2**63 - 1
    assert class_named("-1", [-1, 2]) == -1


def test_a_class_of_a_negative_number_is_known_by_its_folder(tmp_path: Path, named: Path) -> None:
    learner = StrataLearner(BACKBONE)
    images, labels = coloured_squares([0, 1], 4)
    learner.learn(images, [label - 1 for label in labels])
    learner.save(tmp_path / "numbers.safetensors")
    with serving(tmp_path / "numbers.safetensors", collect=named, learn=True) as (client, _):
        name(client, photos(0), "-1")
        assert client.get("/corrections").json()["pending"] == [{"class": -1, "images": 3, "new": False}]


def test_a_limit_that_nothing_can_be_checked_on_keeps_nothing(
    model: Path, named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model.read_bytes()
    monkeypatch.setattr(StrataLearner, "simulation", lambda self, after: None)
    with serving(model, collect=named, learn=True, max_flips=0.5) as (client, _):
        name(client, photos(5), "nut")
        refused(client.post("/learn"), 409, "nothing to check --max-flips on")
    assert model.read_bytes() == before


def test_what_others_made_of_the_model_is_not_undone(client: httpx.Client, model: Path) -> None:
    name(client, photos(5), "nut")
    client.post("/learn").raise_for_status()
    taught(StrataLearner(BACKBONE), [0, 1, 2]).save(model)
    theirs = model.read_bytes()
    refused(client.post("/undo"), 409, "changed elsewhere")
    assert model.read_bytes() == theirs


def test_the_way_back_ends_where_others_changed_the_model(client: httpx.Client, model: Path) -> None:
    name(client, photos(5), "nut")
    client.post("/learn").raise_for_status()
    taught(StrataLearner(BACKBONE), [0, 1, 2]).save(model)
    theirs = model.read_bytes()
    client.post("/learn").raise_for_status()
    client.post("/undo").raise_for_status()
    assert model.read_bytes() == theirs
    assert client.post("/undo").status_code == 409
    assert model.read_bytes() == theirs


def test_several_versions_are_undone_one_by_one(client: httpx.Client, model: Path) -> None:
    states = [model.read_bytes()]
    for kind, label in ((5, "nut"), (6, "ring")):
        name(client, photos(kind), label)
        client.post("/learn").raise_for_status()
        states.append(model.read_bytes())
    for state in states[-2::-1]:
        client.post("/undo").raise_for_status()
        assert model.read_bytes() == state


def test_paths_are_counted_by_their_route(client: httpx.Client) -> None:
    for path in ("/docs/a", "/docs/b", "/nowhere", "/openapi.json", "/health", "/docs", "/"):
        client.get(path)
    text = client.get("/metrics").text
    found = {part.split('"')[1] for part in text.splitlines() if part.startswith("equimos_requests_total{")}
    assert found <= {"/docs/{name}", "other", "/openapi.json", "/health", "/docs", "/"}
    assert {"other", "/openapi.json", "/health", "/docs", "/"} <= found


def test_a_route_of_many_paths_is_counted_as_one() -> None:
    counted, inner = list[str](), FastAPI()

    @inner.get("/assets/{name}")
    async def asset(name: str) -> str:
        return name

    app = Outer(inner, count=lambda path, status, seconds: counted.append(path), most=1, hosts=["*"])
    with TestClient(app) as client:
        for name in "ab":
            assert client.get(f"/assets/{name}").json() == name
    assert counted == ["/assets/{name}", "/assets/{name}"]


def test_the_paths_of_a_mounted_application_are_counted_as_one() -> None:
    counted = list[str]()
    inner = Starlette(routes=[Mount("/static", PlainTextResponse("a file"))])
    app = Outer(inner, count=lambda path, status, seconds: counted.append(path), most=1, hosts=["*"])
    with TestClient(app) as client:
        for path in ("/static/a", "/static/b/c"):
            assert client.get(path).text == "a file"
    assert counted == ["/static", "/static"]


def test_learning_that_fails_later_is_said(
    model: Path, named: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(self: Teaching) -> dict[str, Any]:
        time.sleep(1.0)
        raise RefusedError(409, "the disk is full")

    monkeypatch.setattr(Teaching, "learn", fails)
    with serving(model, collect=named, learn=True, timeout=0.5) as (client, _):
        assert client.post("/learn").status_code == 202
        deadline = time.monotonic() + 20
        while (last := client.get("/corrections").json().get("last")) is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert last == {"event": "not learned: the disk is full", "images": 0, "review": []}
    assert "not learned: the disk is full" in caplog.text


def test_an_undo_that_takes_longer_than_a_request_is_done_and_said(
    model: Path, named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, undo = model.read_bytes(), Teaching.undo

    def slow(self: Teaching) -> dict[str, Any]:
        time.sleep(1.0)
        return undo(self)

    def said(client: httpx.Client, words: str) -> None:
        deadline = time.monotonic() + 20
        while words not in (client.get("/corrections").json().get("last") or {"event": ""})["event"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    monkeypatch.setattr(Teaching, "undo", slow)
    with serving(model, collect=named, learn=True, timeout=0.5) as (client, _):
        name(client, photos(5), "nut")
        client.post("/learn")
        said(client, "learned 3 images")
        for words in ("back to version 1: what version 2 had learned is stored still", "not undone: there is nothing"):
            response = client.post("/undo")
            assert (response.status_code, response.json()) == (202, {"learning": True})
            said(client, words)
    assert model.read_bytes() == before


def test_files_of_others_are_left(client: httpx.Client, named: Path) -> None:
    (image,) = photos(5, 1)
    name(client, [image], "nut")
    (stored,) = files_in(named)
    (named / "ring").mkdir()
    others = [
        named / "ring" / "holiday.png",  # put there by hand
        named / "ring" / f"{stored.stem}.txt",  # beside an image
        named / "ring" / stored.name,  # edited
    ]
    for place, data in zip(others, [photos(6, 1)[0], b"a note", photos(6, 1, seed=3)[0]], strict=True):
        place.write_bytes(data)
    name(client, [image], "nut")
    assert all(place.exists() for place in others)
    assert client.delete("/corrections").json()["discarded"] == 1
    assert not stored.exists()
    assert all(place.exists() for place in others)


def test_an_image_that_is_named_otherwise_is_moved_and_leaves_no_folder(named: Path) -> None:
    collected = Collected(named, most_images=1)
    (image,) = photos(5, 1)
    before = collected.keep(image, "nut").stat().st_ino
    assert collected.keep(image, "ring").stat().st_ino == before, "at no time is it there twice, or not at all"
    assert [path.name for path in named.iterdir()] == ["ring"]


def test_a_discarded_image_that_is_named_again_comes_back(named: Path) -> None:
    collected = Collected(named, most_images=1)
    (image,) = photos(5, 1)
    assert collected.discard(collected.keep(image, "nut"))
    assert [*collected] == []
    place = collected.keep(image, "ring")
    assert files_in(named) == [place]
    assert place.parent == named / "ring"


def test_an_image_under_two_names_is_learned_by_the_later(client: httpx.Client, model: Path, named: Path) -> None:
    (image,) = photos(5, 1)
    name(client, [image], "ring")
    (stored,) = files_in(named)
    (named / "nut").mkdir()
    (named / "nut" / stored.name).write_bytes(image)  # as a process leaves it that is killed between two steps
    for newest, oldest in (("nut", "ring"), ("ring", "nut")):
        os.utime(named / newest / stored.name, (2_000_000_000, 2_000_000_000))
        os.utime(named / oldest / stored.name, (1_000_000_000, 1_000_000_000))
        state = client.get("/corrections").json()
        assert state["pending"] == [{"class": newest, "images": 1, "new": True}]
        assert any("the same image" in line for line in state["plan"])
    client.post("/learn").raise_for_status()
    assert contents.read(model).classes[4:] == ["ring"]
    assert client.get("/corrections").json()["pending"] == []


def test_nothing_is_moved_while_it_is_learned(model: Path, named: Path, trained: StrataLearner) -> None:
    teaching = Teaching(model, ModelInUse(model, lambda before: trained), Collected(named))
    (image,) = photos(5, 1)
    teaching.keep([image], "nut")
    with teaching._alone():
        with pytest.raises(RefusedError) as stop:
            teaching.keep([*photos(6, 1), image], "ring")
        assert stop.value.status == 409
        assert [path.parent.name for path in files_in(named)] == ["nut"]
        teaching.keep(photos(6, 1), "ring")
    teaching.keep([image], "ring")
    assert {path.parent.name for path in files_in(named)} == {"ring"}


def test_one_answer_is_explained_at_a_time_whoever_gave_up(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def slow(*given: Any) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(1.0)
        with lock:
            running -= 1

    monkeypatch.setattr(corrections, "explained", slow)
    with serving(model, timeout=0.4) as (client, _):
        for _ in range(3):
            assert post(client, "/explain", photos(2, 1)).status_code == 504
    assert most == 1


def test_decoding_has_its_time(model: Path, named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = answering.picture

    def slow(*given: Any) -> Any:
        time.sleep(1.0)
        return genuine(*given)

    monkeypatch.setattr(answering, "picture", slow)
    with serving(model, collect=named, timeout=0.5) as (client, _):
        for path in ("/corrections", "/group", "/explain"):
            refused(post(client, path, photos(0, 1), **{"class": "nut"}), 504, "not done within")
    assert not files_in(named)
