"""Reads images out of archives, and says whether two are equal.

In: archives of `docker save` or OCI layouts in a tar, layers plain, gzip or zstd. Out: a `Picture`. Two images are equal
here when, after all layers are applied,
  - the same paths are there, each of the same type, mode, owner, group, size, SHA-256 of the content, target of a link,
    device number and capability (security.capability), and
  - architecture, os, Env, Cmd, Entrypoint, WorkingDir, User, ExposedPorts, Volumes, Labels, StopSignal and Healthcheck of
    the config are the same, but for labels that a builder puts its own version in.
Not compared: times, as builders give directories and files that a step made their own; the number of layers and the
history. Where a step asks the network, `loose` leaves out logs, caches and compiled files, and compares paths, modes and
owners alone, and dpkg's list of packages by content. Written by nobody's library: what reads shall not be one of those measured.
"""

import gzip
import hashlib
import json
import stat
import subprocess
import tarfile
from dataclasses import dataclass

CONFIG = ("Env", "Cmd", "Entrypoint", "WorkingDir", "User", "ExposedPorts", "Volumes", "Labels", "StopSignal", "Healthcheck")
OWN_LABELS = ("io.buildah.version",)
# What differs from run to run of the same command.
LOOSE = ("var/log/", "var/cache/", "tmp/", "var/tmp/", "root/.cache/")
PACKAGES = "var/lib/dpkg/status"


@dataclass
class Picture:
    """An image as it is compared; `layer_bytes` is the size of its layers as they are in the archive."""

    files: dict
    config: dict
    layer_bytes: int
    codecs: list


def read(path, loose=False):
    """The image in the archive `path`."""
    with tarfile.open(path, "r:") as archive:
        members = {member.name.removeprefix("./"): member for member in archive if member.isfile() or member.issym()}
        config_name, layers = names(archive, members)
        config = json.load(opened(archive, members, config_name))
        files, total, codecs = {}, 0, []
        for layer in layers:
            member = resolved(members, layer)
            total += member.size
            codecs.append(apply(path, archive, member, files))
    return Picture(trimmed(files) if loose else files, chosen(config), total, codecs)


def names(archive, members):
    """Names of the config and of the layers, lowest first, of the only image for this machine in an archive."""
    if "manifest.json" in members:
        manifest = json.load(opened(archive, members, "manifest.json"))[0]
        return manifest["Config"], manifest["Layers"]
    descriptors = json.load(opened(archive, members, "index.json"))["manifests"]
    document = json.load(opened(archive, members, blob(descriptors[0])))
    if "manifests" in document:
        document = json.load(opened(archive, members, blob(document["manifests"][0])))
    return blob(document["config"]), [blob(layer) for layer in document["layers"]]


def blob(descriptor):
    """Where a layout has what a descriptor means."""
    return "blobs/" + descriptor["digest"].replace(":", "/")


def resolved(members, name):
    """The member of that name; old archives have links between layers."""
    member = members[name]
    while member.issym():
        member = members[f"{name.rpartition('/')[0]}/{member.linkname}".replace("/../", "/").removeprefix("../")]
    return member


def opened(archive, members, name):
    return archive.extractfile(resolved(members, name))


def apply(path, archive, member, files):
    """Puts a layer upon `files`; returns how it was compressed."""
    raw = archive.extractfile(member)
    magic = raw.read(4)
    raw.seek(0)
    if magic[:2] == b"\x1f\x8b":
        put(gzip.GzipFile(fileobj=raw), files)
        return "gzip"
    if magic == b"\x28\xb5\x2f\xfd":
        # The standard library has no zstd; the bytes lie at a known place of the archive.
        offset = member.offset_data
        source = subprocess.Popen(["tail", "-c", f"+{offset + 1}", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        cut = subprocess.Popen(["head", "-c", str(member.size)], stdin=source.stdout, stdout=subprocess.PIPE)
        plain = subprocess.Popen(["zstd", "-dcq"], stdin=cut.stdout, stdout=subprocess.PIPE)
        put(plain.stdout, files)
        plain.stdout.read()
        if plain.wait() != 0:
            raise ValueError(f"a layer of {path} is no zstd")
        for process in (source, cut):
            process.stdout.close()
            process.wait()
        return "zstd"
    put(raw, files)
    return "none"


def put(stream, files):
    """Applies the entries of one layer's tar."""
    hidden, entries = [], {}
    with tarfile.open(fileobj=stream, mode="r|") as layer:
        for entry in layer:
            name = entry.name.removeprefix("./").strip("/")
            directory, _, last = name.rpartition("/")
            if name in ("", "."):
                continue
            if last == ".wh..wh..opq":
                hidden.append((directory, False))
            elif last.startswith(".wh."):
                hidden.append((f"{directory}/{last[4:]}".lstrip("/"), True))
            else:
                entries[name] = described(layer, entry, entries, files)
    if hidden:
        gone = {name for name, _ in hidden}
        whole = {name for name, itself in hidden if itself}
        for name in [name for name in files if name in whole or any(above in gone for above in parents(name))]:
            del files[name]
    for name, entry in entries.items():
        old = files.get(name)
        if old and old[0] == "directory" and entry[0] != "directory":
            for below in [below for below in files if below.startswith(name + "/")]:
                del files[below]
        files[name] = entry


def parents(name):
    """All directories above a path, and the root as an empty name."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts))]


def described(layer, entry, entries, files):
    """What is compared of one entry; a further name of a file is described like the file."""
    if entry.islnk():
        target = entry.linkname.removeprefix("./").strip("/")
        return entries.get(target) or files[target]
    content, size = None, 0
    if entry.isfile():
        digest, size = hashlib.sha256(), entry.size
        source = layer.extractfile(entry)
        while chunk := source.read(1 << 20):
            digest.update(chunk)
        content = digest.hexdigest()
    kind = ("file" if entry.isfile() else "directory" if entry.isdir() else "link" if entry.issym() else str(entry.type))
    mode = None if entry.issym() else stat.S_IMODE(entry.mode)
    device = (entry.devmajor, entry.devminor) if entry.isdev() else None
    return (kind, mode, entry.uid, entry.gid, size, content, entry.linkname if entry.issym() else None, device,
            entry.pax_headers.get("SCHILY.xattr.security.capability"))


def trimmed(files):
    """What is compared where steps ask the network."""
    kept = {}
    for name, entry in files.items():
        if not name.startswith(LOOSE) and "__pycache__" not in name:
            kept[name] = entry if name == PACKAGES else entry[:4]
    return kept


def chosen(config):
    """The parts of a config that say how a container runs; what is empty is absent."""
    inner = config.get("config") or {}
    found = {key: inner.get(key) for key in CONFIG}
    found["Labels"] = {key: value for key, value in (found["Labels"] or {}).items() if key not in OWN_LABELS}
    found["WorkingDir"] = "" if found["WorkingDir"] == "/" else found["WorkingDir"]
    found |= {"architecture": config["architecture"], "os": config["os"]}
    return {key: value for key, value in found.items() if value}


def difference(mine, theirs):
    """The first things in which two pictures differ, as text; `None` if they are equal."""
    lines = [f"config: {key} is {mine.config.get(key)!r} and {theirs.config.get(key)!r}"
             for key in sorted(mine.config.keys() | theirs.config.keys()) if mine.config.get(key) != theirs.config.get(key)]
    names = mine.files.keys() ^ theirs.files.keys()
    lines += [f"/{name}: only in {'the first' if name in mine.files else 'the second'}" for name in sorted(names)[:5]]
    both = (name for name in sorted(mine.files) if name in theirs.files and mine.files[name] != theirs.files[name])
    lines += [f"/{name}: {mine.files[name]} and {theirs.files[name]}" for name, _ in zip(both, range(5))]
    return "\n".join(lines) or None
