"""Base images, and the contexts' large contents: made here once for all builders, so that they start from the same bytes.

In: tars of root file systems from testdata/bases. Out: archives as of `docker save`, which every builder can load, under
names that no registry has. What is random comes from a fixed seed.
"""

import hashlib
import io
import json
import os
import random
import subprocess
import tarfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUSYBOX = "localhost/bench/busybox:1"
DEBIAN = "localhost/bench/debian:1"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MIB = 1 << 20
# What large files are made of: half of it text, half noise, as in layers of programs with packed data.
SEED_MIB = 64
# Mounted over in steps; a builder that finds none makes it, and not all take it away.
STUBS = ("hosts", "hostname", "resolv.conf")


def make(name, kept):
    """The archive of the base image `name`, made if it is not yet in the directory `kept`."""
    short = name.split("/")[-1].split(":")[0]
    archive = Path(kept) / f"{short}.tar"
    if archive.exists():
        return archive
    root = Path(kept) / f"{short}-root.tar"
    subprocess.run([REPOSITORY / f"testdata/bases/{short}.sh", root], check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(root, "a") as tar:
        there = {member.removeprefix("./") for member in tar.getnames()}
        for stub in STUBS:
            if f"etc/{stub}" not in there:
                tar.addfile(tarfile.TarInfo(f"./etc/{stub}"))
    write(archive, name, [root], {"Env": [PATH], "Cmd": ["sh"]})
    root.unlink()
    return archive


def write(archive, name, layers, config):
    """Writes an image of uncompressed layers, each a tar in a file."""
    digests = [file_digest(layer) for layer in layers]
    document = {"architecture": "amd64", "os": "linux", "config": config, "created": "2026-01-01T00:00:00Z",
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
                "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "benches/compare"} for _ in layers]}
    encoded = json.dumps(document).encode()
    manifest = [{"Config": f"{hashlib.sha256(encoded).hexdigest()}.json", "RepoTags": [name],
                 "Layers": [f"{digest}/layer.tar" for digest in digests]}]
    making = archive.with_suffix(".making")
    with tarfile.open(making, "w") as tar:
        for digest, layer in zip(digests, layers):
            info = tarfile.TarInfo(f"{digest}/layer.tar")
            info.size = os.path.getsize(layer)
            with open(layer, "rb") as file:
                tar.addfile(info, file)
        for entry, text in ((manifest[0]["Config"], encoded), ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(entry)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    making.rename(archive)


def file_digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def words(source, count):
    """A vocabulary of that many made-up words."""
    return [bytes(source.choices(b"abcdefghijklmnopqrstuvwxyz", k=source.randint(2, 9))) for _ in range(count)]


def large_file(path, mib, salt=0):
    """Writes a file of that many MiB of the seed, repeated: text and noise by turns, farther apart than gzip looks back."""
    source = random.Random(7 + salt)
    vocabulary = words(source, 5000)
    seed = bytearray()
    for part in range(min(SEED_MIB, mib)):
        if part % 2:
            seed += source.randbytes(MIB)
        else:
            seed += b" ".join(source.choices(vocabulary, k=190_000))[:MIB]
    seed = bytes(seed)
    with open(path, "wb") as file:
        left = mib * MIB
        while left > 0:
            left -= file.write(seed[:left])


def small_files(directory, count, size):
    """Makes that many files of `size` bytes, 100 in a directory, all different."""
    source = random.Random(11)
    for number in range(count):
        place = Path(directory) / f"d{number // 100}"
        if number % 100 == 0:
            place.mkdir(parents=True)
        (place / f"f{number}.txt").write_bytes(source.randbytes(size // 2).hex().encode())


def busybox_root(directory):
    """The tree of the busybox base, as a tar."""
    path = directory / "busybox-root.tar"
    subprocess.run([REPOSITORY / "testdata/bases/busybox.sh", path], check=True)
    return path


def package_layer(path, number):
    """A tar like a layer of installed packages: 2,500 files of text that gzip makes a quarter of, and 10 MiB of noise."""
    source = random.Random(100 + number)
    vocabulary = words(source, 2000)
    phrases = [b" ".join(source.choices(vocabulary, k=12)) for _ in range(1500)]
    with tarfile.open(path, "w") as tar:
        def add(name, content):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for file in range(2500):
            add(f"layer{number}/d{file % 50}/f{file}", b"\n".join(source.choices(phrases, k=450)))
        add(f"layer{number}/noise", source.randbytes(10 * MIB))
    return path
