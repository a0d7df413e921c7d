"""The page in a real browser: an image is chosen or dropped, on a phone and on a desk, by day and by night."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from continual.learning import doubts
from continual.methods.strata import StrataLearner
from continual.serving.teaching import Teaching
from continual.serving.uploads import Limits
from continual.testing import coloured_squares
from tests.support.served import BACKBONE, kept_thumbnails, learner_of, photos, post, refused, serving, taught

playwright = pytest.importorskip("playwright.sync_api")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "model.safetensors"
    learner_of([0, 1], [2, 3, 4]).save(path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu", *ARGUMENTS])
        yield chromium
        chromium.close()


def file(name: str, number: int = 0) -> dict[str, Any]:
    image = Image.fromarray(coloured_squares([number], 1)[0][0].permute(1, 2, 0).numpy()).resize((160, 120))
    data = io.BytesIO()
    image.save(data, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": data.getvalue()}


def opened(browser: Any, address: str, size: dict[str, int] = DESK, dark: bool = False) -> Any:
    """A page that fails the test for any error or refusal of its own policy."""
    page = browser.new_page(viewport=size, color_scheme="dark" if dark else "light")
    page.on("pageerror", lambda error: pytest.fail(f"the page's script failed: {error}"))
    page.on("console", lambda said: pytest.fail(said.text) if "Content Security Policy" in said.text else None)
    page.goto(address)
    return page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_an_image_is_answered(browser: Any, trained: Path, size: dict[str, int], dark: bool, tmp_path: Path) -> None:
    with serving(trained, false_alarm_rate=0.999) as (client, _):
        page = opened(browser, str(client.base_url), size, dark)
        page.set_input_files("#file", [file("a-rather-long-name-of-a-photo-from-a-telephone-2026-11-21.png", 3)])
        page.wait_for_selector(".answer")
        expected = client.post("/predict", files={"image": file("x", 3)["buffer"]}).json()["answers"][0]
        page.click("summary")
        text = page.inner_text(".result").replace("\xa0", " ")
        assert page.inner_text(".answer") == expected["answer"]
        assert f"probability {100 * expected['probability']:.1f} %" in text
        assert f"answered by adapter {expected['stack']}" in text
        assert "unknown" in page.inner_text(".flag")
        near = expected["nearest"][0]
        assert f"{near['class']}\n{near['similarity']:.3f}" in text
        assert page.inner_text("#model") == "mos, 5 classes"
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        picture = page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
        page.close()
    grey = np.asarray(Image.open(io.BytesIO(picture)).convert("L"), dtype=float)
    assert (np.median(grey) < 60) if dark else (np.median(grey) > 230)


def test_a_dropped_image_is_answered_and_a_text_gets_its_reason(browser: Any, trained: Path) -> None:
    drop = """([name, bytes, type]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], name, {type}));
      document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
    }"""
    with serving(trained) as (client, _):
        page = opened(browser, str(client.base_url))
        page.evaluate(drop, ["a.png", list(file("a.png")["buffer"]), "image/png"])
        page.wait_for_selector(".answer")
        page.evaluate(drop, ["<img src=x onerror=alert(1)>.txt", list(b"no picture"), "text/plain"])
        page.wait_for_selector(".error")
        assert "not an image" in page.inner_text(".error")
        assert page.locator(".result").count() == 2
        page.close()


def test_a_key_is_asked_for_and_kept_by_the_tab_alone(browser: Any, trained: Path) -> None:
    with serving(trained, api_key="secret") as (client, _):
        page = opened(browser, str(client.base_url))
        page.set_input_files("#file", [file("a.png")])
        page.wait_for_selector("#key:visible")
        assert "API key" in page.inner_text(".error")
        page.fill("#secret", "secret")
        page.click("#key button")
        page.wait_for_selector(".answer")
        page.reload()
        assert page.locator(".answer").count() == 0
        page.set_input_files("#file", [file("a.png")])
        page.wait_for_selector(".answer")
        assert page.evaluate("localStorage.length") == 0
        other = opened(browser, str(client.base_url))
        other.evaluate("remember('wrong')")
        other.set_input_files("#file", [file("a.png")])
        other.wait_for_selector("#key:visible")
        assert other.evaluate("sessionStorage.getItem('equimos-key')") == ""
        for one in (page, other):
            one.close()


def test_a_model_without_stacks_is_shown_without_them(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    taught(StrataLearner(BACKBONE), [0, 1], [2, 3, 4]).save(path)
    with serving(path, false_alarm_rate=0.999) as (client, _):
        page = opened(browser, str(client.base_url))
        page.set_input_files("#file", [file("a.png", 3)])
        page.wait_for_selector(".answer")
        expected = client.post("/predict", files={"image": file("x", 3)["buffer"]}).json()["answers"][0]
        page.click("summary")
        text = page.inner_text(".result").replace("\xa0", " ")
        assert page.inner_text(".answer") == expected["answer"] == "class 3"
        assert f"probability {100 * expected['probability']:.1f} %" in text
        assert page.inner_text(".flag").startswith("unknown")
        assert "answered by adapter" not in text
        near = expected["nearest"][0]
        assert f"{near['class']}\n{near['similarity']:.3f}" in text
        assert page.inner_text("#model") == "strata, 5 classes"


def test_a_model_of_one_class_says_in_words_how_unusual_an_image_is(browser: Any, tmp_path: Path) -> None:
    learner = StrataLearner(BACKBONE)
    good = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in coloured_squares([0], 40)[0]]
    learner.learn([one.resize((160, 120)) for one in good], ["good part"] * 40)
    learner.save(path := tmp_path / "model.safetensors")
    with serving(path) as (client, _):
        page = opened(browser, str(client.base_url))
        for number, flag in ((0, None), (3, "unusual: unlike the images of good part")):
            page.set_input_files("#file", [file(f"{number}.png", number)])
            page.locator(".result .answer").nth(0 if flag is None else 1).wait_for()
            (expected,) = client.post("/predict", files={"image": file("x", number)["buffer"]}).json()["answers"]
            text = page.locator(".result").first.inner_text()
            limit = f"1 is the usual image of good part, above {expected['anomaly_threshold']:.2f} is unusual"
            assert f"anomaly {expected['anomaly']:.2f}: {limit}" in text
            assert page.locator(".result").first.locator(".flag").all_inner_texts() == ([] if flag is None else [flag])
            assert "score" not in text.lower(), "of one class it is 1 for every image"
        assert "unusual 1" in page.inner_text("#summary")
        page.close()


@pytest.fixture
def strata(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    taught(StrataLearner(BACKBONE), [0, 1], [2, 3]).save(path)
    return path


def test_a_wrong_answer_is_corrected_learned_and_undone(browser: Any, strata: Path, tmp_path: Path) -> None:
    with serving(strata, collect=tmp_path / "named", learn=True) as (client, _):
        page = opened(browser, str(client.base_url), PHONE)
        page.set_input_files("#camera", [file("photo.png", 6)])
        page.wait_for_selector(".answer")
        page.click("text=Wrong, it is …")
        page.fill("form.name input", "<b>ring</b>nut")
        page.click("form.name button")
        page.wait_for_selector(".error.said")
        assert "cannot be the name of a folder" in page.inner_text(".error.said")
        page.fill("form.name input", "ring")
        page.click("form.name button")
        page.wait_for_selector("text=saved as ring, a new class")
        page.wait_for_selector("#teach >> text=1 new class: ring (1)")
        assert page.locator("#classes option[value=ring]").count() == 1, "the next image may be another"
        page.click("text=Learn 1 image")
        page.wait_for_selector(".answer:text-is('ring')")
        assert page.inner_text("#model") == "strata, 5 classes"
        assert "learned 1 image from the page: ring" in page.inner_text("#teach")
        assert "by their statistics about" in page.inner_text("#teach"), "in the words of `equimos learn`"
        page.click("text=Undo the last version")
        page.wait_for_selector("#model:text-is('strata, 4 classes')")
        page.wait_for_selector("#teach >> text=what version 2 had learned is stored still, and not learned")
        discarded = tmp_path / "named" / ".discarded"
        page.wait_for_selector("#teach >> text=Discard deletes nothing: it moves the image to named/.discarded")
        page.click("button:text('Discard')")
        page.wait_for_selector("#teach >> text=1 image moved to named/.discarded")
        assert page.locator("text=Learn 1 image").count() == 0
        assert len([*discarded.glob("ring/*.png")]) == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        page.close()


def test_what_the_server_is_not_sure_of_is_shown_so(
    browser: Any, strata: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sure, flags in ((0.0, []), (1.1, ["not sure"])):
        monkeypatch.setattr(doubts, "SURE", sure)
        with serving(strata) as (client, _):
            page = opened(browser, str(client.base_url))
            page.set_input_files("#file", [{"name": "a.png", "mimeType": "image/png", "buffer": photos(0, 1)[0]}])
            page.wait_for_selector(".answer")
            (found,) = post(client, "/predict", photos(0, 1)).json()["answers"]
            assert (found["unknown"], found["unsure"]) == (False, bool(flags))
            assert page.locator(".flag").all_inner_texts() == flags
            assert found["typicality"] in page.inner_text(".result")
            page.close()


def test_many_images_are_summed_up_and_unknown_ones_named_together(browser: Any, strata: Path, tmp_path: Path) -> None:
    with serving(strata, collect=tmp_path / "named", learn=True, false_alarm_rate=0.5) as (client, _):
        page = opened(browser, str(client.base_url))
        page.set_input_files("#file", [file(f"{n}.png", kind) for n, kind in enumerate([0, 5, 6, 5, 6])])
        page.wait_for_selector(".answer >> nth=4")
        answers = [client.post("/predict", files={"image": file("x", k)["buffer"]}).json() for k in (0, 5, 6)]
        unknown = sum(n * answer["answers"][0]["unknown"] for n, answer in zip((1, 2, 2), answers, strict=True))
        assert unknown >= 2
        assert "5 images" in page.inner_text("#summary")
        assert f"unknown {unknown}" in page.inner_text("#summary")
        page.click("text=into groups, to name them")
        page.wait_for_selector(".group form.name input")
        page.click(".group >> nth=0 >> img >> nth=0")
        assert page.locator(".group >> nth=0 >> img.out").count() == 1
        sorted_in = page.locator(".group >> nth=0 >> img").count()
        page.fill(".group >> nth=0 >> input", "nut")
        page.click(".group >> nth=0 >> button")
        page.wait_for_selector("text=saved as nut, a new class")
        assert sorted_in == 1 + len({*(tmp_path / "named" / "nut").iterdir()}), "what was clicked on was left out"
        page.close()


def photo(number: int) -> bytes:
    """A noisy JPEG of 2000 x 1500 pixels, of some 620 kB."""
    image = Image.fromarray(coloured_squares([number % 2 + 5], 1)[0][0].permute(1, 2, 0).numpy()).resize((2000, 1500))
    noise = np.random.default_rng(number).normal(0, 4, (1500, 2000, 1))
    data = io.BytesIO()
    Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=90)
    return data.getvalue()


def test_photos_larger_than_a_request_are_sorted_and_named_together(browser: Any, strata: Path, tmp_path: Path) -> None:
    images, limits = [photo(number) for number in range(6)], Limits(image_bytes=650_000)
    assert max(map(len, images)) < limits.image_bytes
    assert 3 * min(map(len, images)) > limits.request_bytes
    with serving(strata, collect=tmp_path / "named", false_alarm_rate=0.999, limits=limits) as (client, _):
        refused(post(client, "/group", images), 413, "send fewer or smaller images")
        page = opened(browser, str(client.base_url))
        sent: list[str] = []
        page.on("request", lambda request: sent.append(f"{request.method} {request.url.rpartition('/')[2]}"))
        files = [{"name": f"{n}.jpg", "mimeType": "image/jpeg", "buffer": data} for n, data in enumerate(images)]
        page.set_input_files("#file", files)
        page.wait_for_selector(".answer >> nth=5")
        page.click("text=Sort the 6 unknown images")
        page.wait_for_selector(".group >> nth=1")
        for place, name in enumerate(("nut", "ring")):
            group = page.locator(".group").nth(place)
            assert group.locator("img").evaluate_all("all => all.map(one => one.alt)") == [
                f"{place + n}.jpg" for n in (0, 2, 4)
            ]
            group.locator("input").fill(name)
            group.locator("button").click()
            page.wait_for_selector(f"text=saved as {name}, a new class")
            stored = {path.read_bytes() for path in (tmp_path / "named" / name).iterdir()}
            assert stored == {images[place], images[place + 2], images[place + 4]}, "as they were sent, not the copies"
        assert sent.count("POST corrections") == 4
        page.close()


def test_answers_stay_with_their_images_in_whatever_order_they_come(browser: Any, strata: Path, tmp_path: Path) -> None:
    late = """const send = window.fetch;
      window.fetch = async (path, options) => {
        const image = options?.body?.get?.("image");
        if (path === "predict" && image?.name === "late.png") await new Promise(done => setTimeout(done, 700));
        return send(path, options);
      };"""
    kinds = {"late.png": 0, "early.png": 3}
    with serving(strata, collect=tmp_path / "named", learn=True) as (client, _):
        page = browser.new_page()
        page.add_init_script(late)
        page.goto(str(client.base_url))
        for name, kind in kinds.items():
            page.set_input_files("#file", [file(name, kind)])
        page.wait_for_selector(".answer >> nth=1")
        data = {"class": "ring"}
        client.post("/corrections", files={"image": file("x", 6)["buffer"]}, data=data).raise_for_status()
        page.evaluate("change('learn', 'POST')")
        for name, kind in kinds.items():
            expected = client.post("/predict", files={"image": file("x", kind)["buffer"]}).json()["answers"][0]
            article = page.locator("article", has=page.locator(f".file:text-is('{name}')"))
            assert article.locator(".answer").inner_text() == expected["answer"]
        page.close()


def test_what_is_learned_for_longer_than_a_request_renews_the_page(
    browser: Any, strata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Teaching.learn

    def slow(self: Teaching) -> dict[str, Any]:
        with self._alone():
            time.sleep(1.5)
        return learn(self)

    monkeypatch.setattr(Teaching, "learn", slow)
    with serving(strata, collect=tmp_path / "named", learn=True, timeout=1.0) as (client, _):
        page = opened(browser, str(client.base_url))
        page.set_input_files("#file", [file("photo.png", 6)])
        page.wait_for_selector(".answer")
        page.click("text=Wrong, it is …")
        page.fill("form.name input", "ring")
        page.click("form.name button")
        page.click("text=Learn 1 image")
        page.wait_for_selector("text=learning …")
        page.wait_for_selector(".answer:text-is('ring')")
        assert page.inner_text("#model") == "strata, 5 classes"
        assert page.locator("#classes option").count() == 5
        page.close()


def test_the_page_says_why(browser: Any, strata: Path) -> None:
    with serving(strata) as (client, _):
        page = opened(browser, str(client.base_url))
        page.set_input_files("#file", [file("a.png", 2)])
        page.wait_for_selector(".answer")
        assert page.locator("text=Wrong, it is …").count() == 0, "this server collects nothing"
        page.click("text=Why?")
        page.wait_for_selector(".why canvas")
        assert "What each patch adds to the value of class 2" in page.inner_text(".reasons")
        assert "thumbnails" not in page.inner_text(".reasons")
        page.close()


def test_the_page_shows_thumbnails_if_they_were_kept(browser: Any, tmp_path: Path) -> None:
    kept_thumbnails(taught(StrataLearner(BACKBONE), [0, 1], [2, 3]), model := tmp_path / "model.safetensors", 0, 2)
    with serving(model) as (client, _):
        page = opened(browser, str(client.base_url), PHONE)
        page.set_input_files("#file", [{"name": "a.png", "mimeType": "image/png", "buffer": photos(2, 1)[0]}])
        page.click("text=Why?")
        page.wait_for_selector("text=Nearest kept thumbnails")
        assert page.locator("figcaption").all_inner_texts()[0] == "class 2 1.000"
        assert page.locator("figure img").evaluate_all("all => all.map(one => one.naturalWidth)") == [64, 64]
        page.close()


def test_the_routes_are_described_without_a_network(browser: Any, strata: Path) -> None:
    pytest.importorskip("fastapi_offline")
    with serving(strata) as (client, _):
        page = opened(browser, f"{client.base_url}/docs")
        page.wait_for_selector("text=/predict")
        assert page.locator(".opblock").count() >= 8
        page.close()
