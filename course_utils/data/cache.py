"""The cache: what is fetched or trained once is kept, whole or not at all.

An entry is a folder `<cache>/<name>/<key>`, where the key is a hash of everything the entry depends
on: configuration, data, seeds. Another configuration is another folder, so nothing is ever stale.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_dir

STAMP = "entry.json"  # written last: a folder without it is not an entry


def cache_dir() -> Path:
    """Where this reader's cache is: `COURSE_CACHE`, or the place this system keeps caches in."""
    return Path(os.environ.get("COURSE_CACHE") or user_cache_dir("bert-course")).expanduser()


def sha256(path: Path) -> str:
    """The fingerprint of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached(name: str, config: dict, build: Callable[[Path], None]) -> Path:
    """The folder that `build(folder)` fills; made at the first call, found at every later one.

    name    a readable word for the kind of thing ("teacher"); the folder's parent is called so
    config  all that the result depends on, as JSON: sizes, seeds, steps, the data's fingerprint
    build   gets an empty folder and writes the entry's files into it; when it raises, nothing stays

    Two processes that ask at once build once. A file that is missing, cut short or changed makes
    the whole entry be built again. Raises ValueError when config is not JSON.
    """
    found = find_cached(name, config)
    if found:
        return found
    folder = cache_dir() / name / _key(name, config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if _is_whole(folder):  # another process built it while we waited
            return folder
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder.parent))
        try:
            build(unfinished)
            _write_stamp(unfinished, config)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(unfinished, folder)  # the entry appears in one step
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def find_cached(name: str, config: dict) -> Path | None:
    """The folder that `cached` with the same words would return at once, or None."""
    folder = cache_dir() / name / _key(name, config)
    return folder if _is_whole(folder) else None


def _key(name: str, config: dict) -> str:
    try:
        text = json.dumps(config, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"the config of cache entry {name!r} is not plain JSON: {error}") from None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write_stamp(folder: Path, config: dict) -> None:
    files = {
        path.relative_to(folder).as_posix(): {**_state(path), "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / STAMP).write_text(json.dumps({"config": config, "files": files}, indent=1))


def _state(path: Path) -> dict:
    status = path.stat()
    return {"size": status.st_size, "modified": status.st_mtime_ns}


def _is_whole(folder: Path) -> bool:
    """True when every file is as it was written. Reads a file only if its size or date changed."""
    try:
        files = json.loads((folder / STAMP).read_text())["files"]
        return all(
            _state(folder / name) == {key: was[key] for key in ("size", "modified")}
            or sha256(folder / name) == was["sha256"]  # copied here, say: other date, same bytes
            for name, was in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
