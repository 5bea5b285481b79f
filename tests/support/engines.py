#!/usr/bin/env python3
"""podman 4.3 and containerd 1.6's ctr, as far as `--load` uses them, over files beside the program; which it is, its name
says. Like them it takes an archive without the layers that it has, and names the first that it misses."""
import hashlib, io, json, os, sys, tarfile

PROGRAM = os.path.basename(sys.argv[0])
PLACE = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), PROGRAM + "-state")


def fail(code, words):
    print(words, file=sys.stderr)
    sys.exit(code)


class State:
    """Blobs and names; podman's images by id, ctr's by name."""

    def __init__(self, namespace):
        self.folder = os.path.join(PLACE, namespace)
        os.makedirs(self.folder, exist_ok=True)
        self.path = os.path.join(self.folder, "state.json")
        empty = {"images": {}, "names": {}, "blobs": {}, "archives": []}
        self.known = json.load(open(self.path)) if os.path.exists(self.path) else empty

    def save(self):
        with open(self.path, "w") as out:
            json.dump(self.known, out)


def archive():
    """The files of the archive on standard input, and its length."""
    data = sys.stdin.buffer.read()
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            if member.isfile():
                files[member.name] = tar.extractfile(member).read()
    for name, content in files.items():
        if name.startswith("blobs/sha256/"):
            assert hashlib.sha256(content).hexdigest() == name.rsplit("/", 1)[1], name
    return files, len(data)


def blob(files, digest):
    return files.get("blobs/sha256/" + digest.removeprefix("sha256:"))


def podman(words):
    state = State("podman")
    known = state.known
    full = lambda what: known["names"].get(what, what.removeprefix("sha256:"))
    if words[0] == "info":
        print(PLACE)
    elif words[:2] == ["image", "exists"]:
        sys.exit(0 if full(words[2]) in known["images"] else 1)
    elif words[:2] == ["image", "list"]:
        assert words[2:] == ["--quiet", "--no-trunc"], words
        for image in reversed(known["images"]):
            print("sha256:" + image)
    elif words[:2] == ["image", "inspect"]:
        found = [full(what) for what in words[2:]]
        for image in found:
            if image not in known["images"]:
                fail(125, f"Error: inspecting object: {image}: image not known")
        print(json.dumps([{"Id": image, "RootFS": {"Type": "layers", "Layers": known["images"][image]}} for image in found]))
    elif words[0] == "load":
        files, length = archive()
        index = json.loads(files["index.json"])
        if len(index["manifests"]) != 1:
            fail(125, "Error: more than one image in oci, choose an image")
        manifest = json.loads(blob(files, index["manifests"][0]["digest"]))
        config = json.loads(blob(files, manifest["config"]["digest"]))
        for layer in manifest["layers"]:
            if blob(files, layer["digest"]) is None and layer["digest"] not in known["blobs"]:
                hexed = layer["digest"].removeprefix("sha256:")
                print("Error: payload does not match any of the supported image formats:", file=sys.stderr)
                print(f" * oci-archive: reading blob {layer['digest']}: open /var/tmp/oci1/blobs/sha256/{hexed}: no such file or directory", file=sys.stderr)
                fail(125, " * dir: open /var/tmp/podman1/manifest.json: not a directory")
        known["blobs"].update({layer["digest"]: True for layer in manifest["layers"]})
        known["images"][manifest["config"]["digest"].removeprefix("sha256:")] = config["rootfs"]["diff_ids"]
        known["archives"].append(length)
        state.save()
        print("Loaded image: " + manifest["config"]["digest"])
    elif words[0] == "tag":
        if full(words[1]) not in known["images"]:
            fail(125, f"Error: {words[1]}: image not known")
        known["names"][words[2]] = full(words[1])
        state.save()
    else:
        fail(125, f"Error: unrecognized command {words}")


def ctr(words):
    assert words[0] == "--address" and words[2] == "--namespace", words
    state = State(words[3])
    known, words = state.known, words[4:]
    if words == ["version"]:
        print("Client:\n  Version: 1.6.20\nServer:\n  Version: 1.6.20")
    elif words == ["content", "list", "--quiet"]:
        print("\n".join(known["blobs"]))
    elif words[:2] in (["images", "check"], ["images", "list"]):
        print("REF TYPE DIGEST …")
        for name, digest in known["names"].items():
            if words[2] == f'name=="{name}"' or words[2] == "name~=loading" and "loading" in name:
                print(f"{name} application/vnd.oci.image.manifest.v1+json {digest} complete (3/3) 1.9 MiB/1.9 MiB true")
    elif words[:2] == ["images", "import"] and words[-1] == "-":
        files, length = archive()
        for path, content in files.items():
            if path.startswith("blobs/sha256/"):
                known["blobs"]["sha256:" + path.rsplit("/", 1)[1]] = True
        for entry in json.loads(files["index.json"])["manifests"]:
            document = json.loads(blob(files, entry["digest"]))
            # Without the flag nothing holds the images for other machines, and they are collected.
            assert "manifests" not in document or "--all-platforms" in words, words
            for image in document.get("manifests", [entry]):
                manifest = json.loads(blob(files, image["digest"]))
                for part in manifest["layers"] + [manifest["config"]]:
                    if part["digest"] not in known["blobs"]:
                        fail(1, f"ctr: content digest {part['digest']}: not found")
            name = entry["annotations"]["io.containerd.image.name"]
            # Collecting what an older image of the name shared with this one, it has been seen to break the new one.
            assert known["names"].get(name) in (None, entry["digest"]), name
            known["names"][name] = entry["digest"]
        known["archives"].append(length)
        state.save()
    elif words[:3] == ["images", "tag", "--force"]:
        if words[3] not in known["names"]:
            fail(1, f'ctr: image "{words[3]}": not found')
        known["names"][words[4]] = known["names"][words[3]]
        state.save()
    elif words[:2] == ["images", "remove"]:
        del known["names"][words[2]]
        state.save()
    else:
        fail(1, f"ctr: no such command {words}")


{"podman": podman, "ctr": ctr}[PROGRAM](sys.argv[1:])
