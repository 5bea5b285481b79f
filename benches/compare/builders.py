"""The builders: by which commands each loads, builds, writes an archive, pushes and tells what it has.

All get the same: the machine's network, plain progress, no provenance (images would differ by it), as many stages at once as
the work has. Each command is what its manual says for the purpose; nothing is tuned. What a builder cannot do is `None`,
and the work is then not counted for it. `guarantee` says what is left of a finished build after a crash of the machine,
as known from its documentation and source; how often it syncs is counted, see syncs.py. New builders go into `ALL`.
"""

import http.client
import json
import resource
import shutil
import socket


class Builder:
    """What all have."""

    # Images and records in a store that has the base image and nothing else.
    stored_first = 1

    def programs(self, _surroundings):
        """Programs of the machine that it needs beside those of the sid root."""
        return []

    def missing(self, _versions):
        """Why it cannot take part; `None` if it can."""
        return None

    def start(self, session):
        """Starts its daemon, if it has one."""

    def layer(self, context, tag):
        """Builds so that nothing is compressed yet."""
        return self.build(context, tag)


class Rbuild(Builder):
    """One binary without a daemon."""

    name, title, kind = "rbuild", "rbuild", "rbuild"
    guarantee = ("a build that is reported as done is on disk: one syncfs of the store before that; "
                 "after a crash, what was never synced is not believed")
    cached = "CACHED"

    def programs(self, surroundings):
        return [surroundings.rbuild]

    def version(self, session, _versions):
        return session.run(["rbuild", "--version"]).strip()

    def load(self, session, archive):
        session.run(["rbuild", "load", "--input", archive])

    def build(self, context, tag, no_cache=False, push=False):
        return ["rbuild", "build", *BUILD, *flag("--no-cache", no_cache), *flag("--push", push), "--tag", tag, context]

    def archive(self, context, tag, codec, dest):
        return ["rbuild", "build", *BUILD, f"--output=type=oci,name={tag},compression={codec},dest={dest}", context]

    def save(self, session, _context, tag, dest):
        session.run(["rbuild", "save", "--output", dest, tag])

    def stored(self, session):
        return len(json.loads(session.run(["rbuild", "images", "--format", "json"])))


class Docker(Builder):
    """dockerd with BuildKit inside, asked by buildx. Its default image store keeps layers as directories of overlay2."""

    name, title, kind = "docker", "Docker buildx (overlay2)", "docker"
    features = {"containerd-snapshotter": False}
    guarantee = ("records of images and cache are fsynced as they are made, the files of layers are not: after a crash, a "
                 "finished build can be known and have empty files")
    cached = "CACHED"

    def missing(self, versions):
        lacking = [package for package in ("docker.io", "docker-buildx") if package not in versions]
        return f"{', '.join(lacking)}: not in the sid root" if lacking else None

    def version(self, _session, versions):
        return f"docker {versions['docker.io']}, buildx {versions['docker-buildx']}"

    def start(self, session):
        # No bridge, no rules, no forwarding: the machine's network stays as it is.
        settings = {"features": self.features, "bridge": "none", "iptables": False, "ip6tables": False, "ip-forward": False,
                    "ip-masq": False, "data-root": "/store/docker", "exec-root": "/run/docker",
                    "pidfile": "/run/docker.pid", "hosts": ["unix:///run/docker.sock"], "group": "root",
                    "cgroup-parent": session.cgroup}
        session.path("/etc/docker").mkdir(exist_ok=True)
        session.path("/etc/docker/daemon.json").write_text(json.dumps(settings))
        session.start_daemon(["dockerd"], lambda: self.answers(session))

    def answers(self, session):
        """Whether its socket answers."""
        try:
            with socket.socket(socket.AF_UNIX) as stream:
                stream.connect(str(session.path("/run/docker.sock")))
                connection = http.client.HTTPConnection("localhost", timeout=5)
                connection.sock = stream
                connection.request("GET", "/_ping")
                return connection.getresponse().status == 200
        except OSError:
            return False

    def load(self, session, archive):
        session.run(["docker", "load", "--input", archive])

    def build(self, context, tag, no_cache=False, push=False):
        return ["docker", "buildx", "build", *BUILD, "--provenance=false", *flag("--no-cache", no_cache),
                *flag("--push", push), "--tag", tag, context]

    def layer(self, context, _tag):
        return ["docker", "buildx", "build", *BUILD, "--output=type=cacheonly", context]

    archive = None

    def save(self, session, _context, tag, dest):
        session.run(["docker", "save", "--output", dest, tag])

    def stored(self, session):
        images = set(session.run(["docker", "images", "--quiet", "--no-trunc"]).split())
        cache = session.run(["docker", "buildx", "du", "--format=json"]).split()
        return len(images) + len(cache)


class Containerd(Docker):
    """The same with its other image store, where snapshots and exporters are those of a buildkitd: it stands for BuildKit."""

    name, title, kind = "docker-containerd", "BuildKit (Docker, containerd store)", "buildkit"
    features = {"containerd-snapshotter": True}

    def archive(self, context, tag, codec, dest):
        return ["docker", "buildx", "build", *BUILD, "--provenance=false",
                f"--output=type=oci,name={tag},compression={codec},force-compression=true,dest={dest}", context]


class Buildah(Builder):
    """buildah with layers kept for later builds, and steps run by runc as docker does: crun knows no hybrid cgroups."""

    name, title, kind = "buildah", "buildah", "buildah"
    program = "buildah"
    guarantee = ("records of images are fsynced as they are made, the files of layers are not: after a crash, a finished "
                 "build can be known and have empty files")
    cached = "Using cache"

    def missing(self, versions):
        return None if self.program in versions else f"{self.program}: not in the sid root"

    def version(self, _session, versions):
        return f"{self.program} {versions[self.program]}"

    def load(self, session, archive):
        session.run([self.program, "pull", "--quiet", f"docker-archive:{archive}"])

    def build(self, context, tag, no_cache=False, push=False):
        # Of its own it asks for a million of each, which not every machine may give.
        limits = ["--ulimit={}={}:{}".format(name, *resource.getrlimit(limit))
                  for name, limit in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))]
        command = [self.program, "build", "--layers", "--network=host", "--runtime=runc", "--tls-verify=false", "--jobs=8",
                   *limits, *flag("--no-cache", no_cache), "--tag", tag, context]
        if push:
            command = ["/bin/sh", "-c", '"$@" && ' + f"{self.program} push --tls-verify=false {tag}", "sh", *command]
        return command

    def archive(self, _context, tag, codec, dest):
        return [self.program, "push", "--force-compression", f"--compression-format={codec}", tag, f"oci-archive:{dest}"]

    def save(self, session, _context, tag, dest):
        session.run([self.program, "push", "--quiet", tag, f"docker-archive:{dest}"])

    def stored(self, session):
        return len(set(session.run([self.program, "images", "--all", "--quiet", "--no-trunc"]).split()))


class Podman(Buildah):
    """The same code in podman's program."""

    name, title, kind = "podman", "podman build", "buildah"
    program = "podman"


class Buildkitd(Builder):
    """BuildKit's own daemon and client, where the machine has them in PATH; no package of Debian has."""

    name, title, kind = "buildkitd", "BuildKit (buildkitd)", "buildkit"
    guarantee = Docker.guarantee
    cached = "CACHED"
    # It loads no images: bases lie beside it as layouts, and become records when they are built upon.
    stored_first = 0
    socket = "/run/buildkitd.sock"

    def __init__(self):
        self.layouts = {}

    def programs(self, _surroundings):
        return [shutil.which(program) for program in ("buildkitd", "buildctl")]

    def missing(self, _versions):
        lacking = [program for program in ("buildkitd", "buildctl") if not shutil.which(program)]
        return f"{', '.join(lacking)}: not in PATH" if lacking else None

    def version(self, session, _versions):
        return session.run(["buildkitd", "--version"]).strip()

    def start(self, session):
        session.path("/etc/buildkit").mkdir()
        session.path("/etc/buildkit/buildkitd.toml").write_text(
            f'root = "/store/buildkit"\n[grpc]\naddress = ["unix://{self.socket}"]\n'
            f'[worker.containerd]\nenabled = false\n'
            f'[worker.oci]\nenabled = true\nsnapshotter = "overlayfs"\nnetworkMode = "host"\ngc = false\n'
            f'defaultCgroupParent = "{session.cgroup}"\n')
        session.start_daemon(["buildkitd"], lambda: self.answers(session))

    def answers(self, session):
        with socket.socket(socket.AF_UNIX) as stream:
            return stream.connect_ex(str(session.path(self.socket))) == 0

    def client(self):
        return ["buildctl", f"--addr=unix://{self.socket}"]

    def load(self, session, archive):
        name = archive.rpartition("/")[2].removesuffix(".tar")
        layout = f"/tmp/layouts/{name}"
        session.path("/tmp/layouts").mkdir(exist_ok=True)
        session.run(["skopeo", "copy", "--quiet", f"docker-archive:{archive}", f"oci:{layout}:1"])
        index = json.loads(session.path(f"{layout}/index.json").read_text())
        self.layouts = {name: index["manifests"][0]["digest"]}

    def solve(self, context, output, no_cache=False):
        bases = [word for name, digest in self.layouts.items()
                 for word in (f"--oci-layout={name}=/tmp/layouts/{name}",
                              f"--opt=context:localhost/bench/{name}:1=oci-layout://{name}@{digest}")]
        return [*self.client(), "build", "--progress=plain", "--frontend=dockerfile.v0", f"--local=context={context}",
                f"--local=dockerfile={context}", *bases, *flag("--no-cache", no_cache), *flag(f"--output={output}", output)]

    def build(self, context, tag, no_cache=False, push=False):
        pushed = ",push=true,registry.insecure=true" if push else ""
        return self.solve(context, f"type=image,name={tag}{pushed}", no_cache)

    def layer(self, context, _tag):
        return self.solve(context, None)

    def archive(self, context, tag, codec, dest):
        return self.solve(context, f"type=oci,name={tag},compression={codec},force-compression=true,dest={dest}")

    def save(self, session, context, tag, dest):
        session.run(self.solve(context, f"type=oci,name={tag},dest={dest}"))

    def stored(self, session):
        return len(json.loads(session.run([*self.client(), "du", "--format={{json .}}"])) or [])


# What `rbuild build` and `docker buildx build` call the same.
BUILD = ["--network=host", "--progress=plain"]
ALL = [Rbuild(), Buildkitd(), Docker(), Containerd(), Buildah(), Podman()]


def flag(word, wanted):
    """The word, if it is wanted, to be unpacked into a command."""
    return [word] if wanted else []
