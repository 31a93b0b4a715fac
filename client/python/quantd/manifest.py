# SPDX-License-Identifier: Apache-2.0
"""Which local files make a model or dataset, and where a download may write: the rules of quantctl
(client/local_files.h)."""
import hashlib
import os
import pathlib
from typing import NamedTuple

from .errors import InvalidRequest, LocalFileError

_MOST_FILES = 10_000
_LONGEST_PATH = 512


class LocalFile(NamedTuple):
    name: str          # in the manifest, with "/" between parts
    path: pathlib.Path
    sha256: str
    size: int


def is_safe_name(name):
    """Whether a manifest may hold this path: relative, no "..", no control characters."""
    try:
        encoded = name.encode()
    except UnicodeError:
        return False
    return (0 < len(encoded) <= _LONGEST_PATH and not any(c < 0x20 or c in (0x7F, 0x5C) for c in encoded)
            and all(part not in ("", ".", "..") for part in name.split("/")))


def _check_link(link, root):
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        raise LocalFileError(f"{link} is a link that leads nowhere: remove it") from None
    remedy = f"copy the folder with its links resolved (cp -rL {root} COPY) and upload that"
    if root not in target.parents:
        raise LocalFileError(f"{link} is a link to {target}, outside the folder: {remedy}")
    if not target.is_file():
        raise LocalFileError(f"{link} is a link to something that is no file: {remedy}")


def _walk(root):
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        linked = [f for f in folders if (pathlib.Path(folder) / f).is_symlink()]
        folders[:] = [f for f in folders if f not in linked]
        for file in sorted(files) + linked:
            path = pathlib.Path(folder) / file
            if file.startswith("."):
                continue
            if path.is_symlink():
                _check_link(path, root)
            elif not path.is_file():
                continue  # a socket or pipe
            yield path.relative_to(root).as_posix(), path


def _hash(name, path):
    if not is_safe_name(name):
        raise LocalFileError(f"the path {name!r} cannot be in a manifest: at most {_LONGEST_PATH} bytes of UTF-8 without "
                             "control characters and backslashes; rename it")
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise LocalFileError(f"cannot read {path}: {error.strerror}") from None
    return LocalFile(name, path, digest.hexdigest(), size)


def find(path):
    """The files of a file or folder, sorted and hashed. Hidden ones are left out; a link that leaves the folder is refused."""
    path = pathlib.Path(path)
    if path.is_dir():
        root = path.resolve()
        found = list(_walk(root))
    elif path.is_file():
        found = [(path.name, path)]
    else:
        raise LocalFileError(f"no such file or folder: {path}")
    if not found:
        raise LocalFileError(f"{path} has no files that are not hidden")
    if len(found) > _MOST_FILES:
        raise LocalFileError(f"{path} has {len(found)} files, the limit is {_MOST_FILES}: upload a folder with only what is needed")
    return [_hash(name, file) for name, file in sorted(found)]


def default_name(path):
    """"resnet20" for models/resnet20.onnx and for models/resnet20/."""
    whole = pathlib.Path(path).resolve()
    return whole.name if whole.is_dir() else whole.stem


def check_model(files):
    """Told before gigabytes are sent; the server has the last word."""
    if not any(f.name.endswith((".onnx", ".gguf")) or f.name == "config.json" for f in files):
        raise InvalidRequest("no model here: a model is a .onnx file, a folder with one and its external data, or a Hugging "
                             "Face folder with config.json and safetensors")


def check_dataset(files):
    known = (".npy", ".npz", ".safetensors", ".txt")
    if len(files) == 1 and not files[0].name.lower().endswith(known):
        raise InvalidRequest(f"{files[0].name} alone is no dataset: give a .npy, .npz, .safetensors or .txt file, or a folder")


def place_below(root, name):
    """Where a file of a manifest goes; its folders are made. Never outside `root`, whatever the server names."""
    if not is_safe_name(name):
        raise LocalFileError(f"the server names a file {name!r}, which could lie outside {root}: not written")
    at = pathlib.Path(root)
    *folders, last = name.split("/")
    for folder in folders:
        at = at / folder
        try:
            at.mkdir(exist_ok=True)
        except OSError as error:
            raise LocalFileError(f"cannot make the folder {at}: {error.strerror}") from None
        if at.is_symlink():
            raise LocalFileError(f"{at} is in the way: it must be a folder, not a link")
    if (at / last).is_dir() and not (at / last).is_symlink():
        raise LocalFileError(f"{at / last} is in the way: it is a folder")
    return at / last


def holds(path, sha256):
    """Whether a regular file with this content is there."""
    return path.is_file() and not path.is_symlink() and _hash(path.name, path).sha256 == sha256
