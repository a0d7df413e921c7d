"""The loop of the page, through the real server: name, collect, learn, undo, sort, explain; and who may."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

import continual
from continual.backbones.vit import FrozenViT
from continual.errors import InputError
from continual.lifecycle import contents, versions
from continual.methods.strata import StrataLearner
from continual.serving.answering import ServingOptions
from continual.serving.collected import Collected, class_named
from continual.serving.uploads import Limits, RefusedError
from tests.support.served import BACKBONE, kept_thumbnails, photos, post, refused, serving, taught

ROUTES = (
    ("GET", "/corrections"),
    ("POST", "/corrections"),
    ("DELETE", "/corrections"),
    ("POST", "/learn"),
    ("POST", "/undo"),
    ("POST", "/group"),
    ("POST", "/explain"),
)


@pytest.fixture(scope="module")
def trained() -> StrataLearner:
    return taught(StrataLearner(BACKBONE), [0, 1], [2, 3])


@pytest.fixture
def model(trained: StrataLearner, tmp_path: Path) -> Path:
    trained.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def client(model: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    with serving(model, collect=tmp_path / "named", learn=True, wait=0.001) as (found, _):
        yield found


def test_a_new_class_answers_once_it_is_named_and_learned(client: httpx.Client, model: Path) -> None:
    named = post(client, "/corrections", photos(5), **{"class": "nut"}).raise_for_status().json()
    assert named == {"class": "nut", "new": True, "stored": 3}
    learned = client.post("/learn").raise_for_status().json()
    answers = post(client, "/predict", photos(5, 2, seed=7)).json()
    assert [row["answer"] for row in answers["answers"]] == ["nut", "nut"]
    assert answers["model"]["classes"] == 5
    assert learned["event"] == "learned 3 images from the page: nut"
    assert contents.read(model).classes[-1] == "nut"
    expected = taught(StrataLearner(BACKBONE), [0, 1], [2, 3])
    expected.learn([Image.open(io.BytesIO(image)) for image in sorted(photos(5), key=_place)], ["nut"] * 3)
    again = continual.load(model, BACKBONE)
    assert again.state.head.weight.allclose(expected.state.head.weight, atol=1e-6)


def test_what_was_answered_is_learned_without_another_pass(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a trial of the new version take one, or the question how the new class answers, if it was asked."""
    for images in (photos(5), photos(5, 1, seed=7)):
        post(client, "/predict", images).raise_for_status()
    passes, plain = [], FrozenViT.block_tokens
    monkeypatch.setattr(
        FrozenViT,
        "block_tokens",
        lambda self, images, *rest, **more: passes.append(images) or plain(self, images, *rest, **more),
    )
    post(client, "/corrections", photos(5), **{"class": "nut"}).raise_for_status()
    client.post("/learn").raise_for_status()
    assert post(client, "/predict", photos(5, 1, seed=7)).json()["answers"][0]["answer"] == "nut"
    assert passes == []
    post(client, "/explain", photos(5, 1, seed=8)).raise_for_status()
    asked = len(passes)
    post(client, "/explain", photos(5, 1, seed=8)).raise_for_status()
    assert len(passes) == 2 * asked > 0, "what is covered to explain an answer is not kept"


def _place(data: bytes) -> int:
    from continual.lifecycle.fingerprints import digest

    return digest(data) & (2**64 - 1)


def test_the_plan_the_review_and_the_way_back(client: httpx.Client, model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    post(client, "/corrections", photos(1), **{"class": "class 0"}).raise_for_status()
    post(client, "/corrections", photos(6), **{"class": "ring"}).raise_for_status()
    state = client.get("/corrections").json()
    assert state["pending"] == [
        {"class": "class 0", "images": 3, "new": False},
        {"class": "ring", "images": 3, "new": True},
    ]
    assert "1 new class: ring (3)" in state["plan"]
    assert "1 known class with new images: class 0 (3)" in state["plan"]
    assert not state["undo"]
    learned = client.post("/learn").raise_for_status().json()
    assert learned["review"][0].startswith("no held-out image is here of 4 classes known before; by their statistics")
    refused(client.post("/learn"), 409, "nothing is collected")
    assert client.get("/corrections").json()["undo"]
    assert [version.number for version in versions.versions(model)] == [1, 2]
    client.post("/undo").raise_for_status()
    assert model.read_bytes() == before
    assert client.get("/health").json()["model"]["classes"] == 4
    refused(client.post("/undo"), 409, "nothing to undo")
    assert client.get("/corrections").json()["pending"] == state["pending"]
    discarded = tmp_path / "named" / ".discarded"
    assert client.delete("/corrections").json() == {"discarded": 6, "folder": "named/.discarded"}
    state = client.get("/corrections").json()
    assert (state["pending"], state["discarded"]) == ([], "named/.discarded")
    assert state["last"]["event"] == "6 images moved to named/.discarded"
    assert [path.name for path in (tmp_path / "named").iterdir()] == [".discarded"]
    assert {path.read_bytes() for path in (discarded / "ring").iterdir()} == {*photos(6)}, "nothing is lost"


def test_a_name_that_is_corrected_moves_the_image(client: httpx.Client, tmp_path: Path) -> None:
    for name in ("nut", "ring"):
        post(client, "/corrections", photos(5, 1), **{"class": name}).raise_for_status()
    (found,) = [path for path in (tmp_path / "named").rglob("*") if path.is_file()]
    assert found.parent.name == "ring"
    assert found.read_bytes() == photos(5, 1)[0], "as it was sent: `equimos learn` sees what the model saw"


def test_a_version_that_breaks_too_much_is_not_kept(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    with serving(model, collect=tmp_path / "named", learn=True, max_flips=0.0) as (client, _):
        for name in ("class 1", "class 2"):
            post(client, "/corrections", photos(0, 12, seed=len(name) + int(name[-1])), **{"class": name})
        refused(client.post("/learn"), 409, "of the answers broke", "--max-flips")
    assert model.read_bytes() == before


def test_what_is_wrong_with_a_name_is_said(client: httpx.Client) -> None:
    for name in ("", "../up", "a/b", ".hidden", "x" * 300, "C:\\x", "Class 0", "a\nb"):
        refused(post(client, "/corrections", photos(0, 1), **{"class": name}), 422)
    refused(post(client, "/corrections", [b"GIF, he said"], **{"class": "nut"}), 415)
    refused(client.post("/corrections", data={"class": "nut"}), 415)
    assert client.get("/corrections").json()["pending"] == []


def test_numbers_stay_numbers() -> None:
    assert class_named(" 7 ", [1, 2]) == 7
    with pytest.raises(RefusedError, match="are numbers"):
        class_named("seven", [1, 2])


def test_unknown_images_are_sorted_by_likeness(client: httpx.Client) -> None:
    found = post(client, "/group", [*photos(5), *photos(6), *photos(5, 2, seed=9)]).raise_for_status().json()
    assert found["groups"] == [0, 0, 0, 1, 1, 1, 0, 0]


def test_an_answer_is_explained(client: httpx.Client) -> None:
    found = post(client, "/explain", photos(2, 1)).raise_for_status().json()
    assert (found["answer"], found["exact"]) == ("class 2", True)
    total = found["base"] + found["whole"] + sum(map(sum, found["places"]))
    assert total == pytest.approx(found["value"], abs=1e-5)
    assert found["picture"].startswith("data:image/png;base64,")
    refused(post(client, "/explain", photos(2, 2)), 413, "one image")


def test_an_answer_is_explained_by_the_thumbnails_of_its_own_model(trained: StrataLearner, tmp_path: Path) -> None:
    kept_thumbnails(trained, model := tmp_path / "model.safetensors", 0, 2)
    with serving(model, reload_every=3600) as (client, in_use):
        like = post(client, "/explain", photos(2, 1)).raise_for_status().json()["thumbnails"]
        assert [row["class"] for row in like] == ["class 2", "class 0"]
        assert like[0]["similarity"] == pytest.approx(1, abs=1e-3)
        url = like[0]["picture"].removeprefix("data:image/png;base64,")
        assert Image.open(io.BytesIO(base64.b64decode(url))).size == (64, 64)
        kept_thumbnails(trained, model, 1)
        assert post(client, "/explain", photos(2, 1)).json()["thumbnails"] == [], "the file is another model's"
        assert in_use.refresh()
        assert [row["class"] for row in post(client, "/explain", photos(2, 1)).json()["thumbnails"]] == ["class 1"]
        model.unlink()
        assert post(client, "/explain", photos(2, 1)).json()["thumbnails"] == []


def test_a_server_takes_what_it_was_started_for(model: Path, tmp_path: Path) -> None:
    with serving(model) as (client, _):
        assert client.get("/corrections").json() == {"collects": False, "learns": False}
        refused(post(client, "/corrections", photos(0, 1), **{"class": "nut"}), 404, "--collect")
        refused(client.post("/learn"), 404, "--collect")
    with serving(model, collect=tmp_path / "named") as (client, _):
        post(client, "/corrections", photos(0, 1), **{"class": "nut"}).raise_for_status()
        refused(client.post("/learn"), 403, "--learn")
        refused(client.post("/undo"), 403, "--learn")
    with pytest.raises(InputError, match="name one to collect"):
        ServingOptions(learn=True)


def test_every_route_asks_for_the_key_and_for_its_own_page(model: Path, tmp_path: Path) -> None:
    with serving(model, collect=tmp_path / "named", learn=True, api_key="secret") as (client, _):
        for method, path in ROUTES:
            refused(client.request(method, path), 401, "X-API-Key")
            own = {"X-API-Key": "secret"}
            refused(
                client.request(method, path, headers={**own, "Origin": "https://evil.example"}), 403, "another site"
            )
            assert client.request(method, path, headers=own).status_code not in (401, 403)
    assert not (tmp_path / "named").exists()


def test_the_folder_has_limits(tmp_path: Path) -> None:
    small = Collected(tmp_path / "named", most_images=2)
    for image in photos(0, 2):
        small.keep(image, "nut")
    small.keep(photos(0, 2)[0], "nut")  # there already
    with pytest.raises(RefusedError, match="collected already") as stop:
        small.keep(photos(1, 1)[0], "nut")
    assert stop.value.status == 507
    small.discard(small.keep(photos(0, 2)[0], "nut"))
    with pytest.raises(RefusedError, match=r"empty named/\.discarded"):
        small.keep(photos(1, 1)[0], "nut")
    with pytest.raises(RefusedError):
        Collected(tmp_path / "named", most_bytes=10).keep(photos(1, 1)[0], "nut")


def test_uploads_have_the_limits_of_predict(model: Path, tmp_path: Path) -> None:
    with serving(model, collect=tmp_path / "named", limits=Limits(pixels=10, images=2)) as (client, _):
        for path in ("/corrections", "/group", "/explain"):
            refused(post(client, path, photos(0, 1), **{"class": "nut"}), 413, "10 are read; send it", "--max-pixels")
            refused(post(client, path, photos(0, 3), **{"class": "nut"}), 413, "at most 2 images")
    assert not (tmp_path / "named").exists()


def test_the_description_of_the_routes_needs_no_network(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert {path for _, path in ROUTES} <= described["paths"].keys()
    body = described["paths"]["/corrections"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert body["required"] == ["image", "class"]
    pytest.importorskip("fastapi_offline")
    page = client.get("/docs")
    assert "http" not in page.text.split("<body>")[1]
    assert "script-src 'self' 'sha256-" in page.headers["content-security-policy"]
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert client.get(f"/docs/{name}").status_code == 200
    assert client.get("/docs/core.py").status_code == 404
