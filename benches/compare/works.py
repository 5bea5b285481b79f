"""The works: what every builder has to do, as data: inputs, how a store is prepared, the measured command, what must hold.

A work is measured in a new session each time when it is `fresh` (a store that has the base image and nothing else), else
again and again in one session per builder. Sizes are those of issue and README, and smaller ones for `--quick`; the
goals are what rbuild has set itself. `expect_cached` is how many steps must, and no other may, come from the cache: by this
cold is cold, and unchanged unchanged. By whom: builders.py; the order of turns: turns.py.
"""

import shutil
import subprocess
from dataclasses import dataclass

import bases
from bases import BUSYBOX, DEBIAN
from registry import Registry


@dataclass(frozen=True)
class Sizes:
    """How large the works are."""

    cached_steps: int
    runs: int
    files: int
    layer_mib: int
    push_mib: int
    pull_layers: int


FULL = Sizes(cached_steps=20, runs=50, files=50_000, layer_mib=1024, push_mib=257, pull_layers=6)
QUICK = Sizes(cached_steps=10, runs=10, files=5_000, layer_mib=64, push_mib=32, pull_layers=1)


@dataclass(frozen=True)
class Goal:
    """At most `share` of the time of the best of `of`, at most `seconds`, at most `mib` of memory."""

    share: float | None = None
    of: tuple = ("buildkit",)
    seconds: float | None = None
    mib: int = 150


EVERYBODY = ("buildkit", "docker", "buildah")


class Work:
    """One work. `directory` and `inside` are where its inputs lie, seen from here and by the builders."""

    base = BUSYBOX
    fresh = False
    quick = True
    loose = False
    # Whether steps are small enough that the largest process is the builder's.
    step_memory = True

    def __init__(self, sizes, directory):
        self.sizes, self.directory, self.inside = sizes, directory / self.name, f"/works/{self.name}"
        self.tag = f"localhost/bench/{self.name}:1"

    def inputs(self):
        """Makes what the builders read."""
        self.directory.mkdir()
        self.context()

    def dockerfile(self, *lines):
        (self.directory / "Dockerfile").write_text("".join(f"{line}\n" for line in lines))

    def can(self, builder):
        """Whether a builder has what the work asks for."""
        return True

    def prepare(self, session):
        """What happens before the clock runs; the base image is loaded already."""

    def before(self, number):
        """What changes before each round; the first is 1."""

    def command(self, session):
        return session.builder.build(self.inside, self.tag)

    def expect_cached(self):
        return 0

    def image(self, session):
        """Writes the result into an archive; returns its path inside."""
        session.builder.save(session, self.inside, self.tag, "/share/result.tar")
        return "/share/result.tar"

    def close(self):
        shutil.rmtree(self.directory)


class Cached(Work):
    name, goal = "cached", Goal(share=1 / 5)

    @property
    def title(self):
        return f"{self.sizes.cached_steps} steps, all cached"

    def context(self):
        lines = [f"FROM {BUSYBOX}"]
        for number in range(self.sizes.cached_steps // 2):
            (self.directory / f"file{number}").write_text(f"{number}\n")
            lines += [f"COPY file{number} /file{number}", f"RUN cp /file{number} /made{number}"]
        self.dockerfile(*lines)

    def prepare(self, session):
        session.run(self.command(session))

    def expect_cached(self):
        return self.sizes.cached_steps


class Runs(Work):
    name, goal = "runs", Goal(share=1 / 10, of=("buildkit", "docker"))

    @property
    def title(self):
        return f"{self.sizes.runs} × RUN :, nothing cached"

    def context(self):
        self.dockerfile(f"FROM {BUSYBOX}", *["RUN :"] * self.sizes.runs)

    def command(self, session):
        return session.builder.build(self.inside, self.tag, no_cache=True)


class CopyCold(Work):
    name, goal, fresh = "copy-cold", Goal(share=1 / 4, mib=100), True
    change = "cold"

    @property
    def title(self):
        return f"COPY of {self.sizes.files:,} files of 4 KB, {self.change}"

    def context(self):
        bases.small_files(self.directory / "src", self.sizes.files, 4096)
        self.dockerfile(f"FROM {BUSYBOX}", "COPY . /src")


class CopyTouched(CopyCold):
    name, goal, fresh, quick = "copy-touched", Goal(share=1 / 6), False, False
    change = "one changed"

    def prepare(self, session):
        session.run(self.command(session))

    def before(self, number):
        (self.directory / "src/d0/f7.txt").write_text(f"{number}\n" * 1024)


class CopyUnchanged(CopyCold):
    name, goal, fresh, quick = "copy-unchanged", Goal(share=1 / 10), False, False
    change = "none changed"

    def prepare(self, session):
        session.run(self.command(session))

    def expect_cached(self):
        return 1


class Layer(Work):
    """A layer that is built, and has never been compressed, into an OCI archive."""

    fresh = True

    @property
    def title(self):
        return f"{self.sizes.layer_mib} MiB layer to an OCI archive, {self.codec}"

    def context(self):
        bases.large_file(self.directory / "large", self.sizes.layer_mib)
        self.dockerfile(f"FROM {BUSYBOX}", "COPY large /large")

    def prepare(self, session):
        session.run(session.builder.layer(self.inside, self.tag))

    def can(self, builder):
        return builder.archive is not None

    def command(self, session):
        return session.builder.archive(self.inside, self.tag, self.codec, "/share/archive.tar")

    def expect_cached(self):
        return None

    def image(self, _session):
        return "/share/archive.tar"


class LayerGzip(Layer):
    name, codec, goal = "layer-gzip", "gzip", Goal(share=1 / 4)


class LayerZstd(Layer):
    name, codec, goal, quick = "layer-zstd", "zstd", Goal(share=1 / 3), False


class Stages(Work):
    name, goal, quick = "stages", Goal(seconds=2.2), False
    title = "8 stages of sleep 2, COPY from all"

    def context(self):
        stages = [line for number in range(8)
                  for line in (f"FROM {BUSYBOX} AS s{number}", f"RUN sleep 2 && echo {number} >/made{number}")]
        self.dockerfile(*stages, f"FROM {BUSYBOX}", *[f"COPY --from=s{number} /made{number} /" for number in range(8)])

    def command(self, session):
        return session.builder.build(self.inside, self.tag, no_cache=True)


class Pull(Work):
    """An image of many files in compressed layers, from a registry on loopback."""

    name, goal, fresh, quick = "pull", Goal(share=1 / 2), True, False

    @property
    def title(self):
        return f"pull and unpack {self.packed_mb} MB → {self.unpacked_mb} MB, RUN true"

    def context(self):
        (self.directory / "registry").mkdir()
        self.registry = Registry(self.directory / "registry")
        layers = [bases.package_layer(self.directory / f"layer{number}.tar", number) for number in range(self.sizes.pull_layers)]
        name = f"{self.registry.address}/bench/base:1"
        archive = self.directory / "image.tar"
        bases.write(archive, name, [bases.busybox_root(self.directory), *layers], {"Env": [bases.PATH], "Cmd": ["sh"]})
        self.unpacked_mb = sum(layer.stat().st_size for layer in layers) // 1_000_000
        subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", f"docker-archive:{archive}",
                        f"docker://{name}"], check=True)
        self.packed_mb = sum(file.stat().st_size for file in self.registry.directory.rglob("data")) // 1_000_000
        for file in (archive, *layers):
            file.unlink()
        self.dockerfile(f"FROM {name}", "RUN true")

    def close(self):
        self.registry.close()
        super().close()


class Push(Work):
    """A layer that is built, into a registry on loopback that has nothing."""

    name, goal, fresh, quick = "push", Goal(share=1 / 3), True, False

    @property
    def title(self):
        return f"build with a {self.sizes.push_mib} MB layer, cached, and push, cold"

    def context(self):
        bases.large_file(self.directory / "large", self.sizes.push_mib)
        (self.directory / "small").write_text("0\n")
        (self.directory / ".dockerignore").write_text("registry*\n")
        self.dockerfile(f"FROM {BUSYBOX}", "COPY large /large", "COPY small /small")

    def prepare(self, session):
        place = self.directory / f"registry-{session.builder.name}"
        place.mkdir()
        session.registry = Registry(place)
        session.run(session.builder.layer(self.inside, self.name_in(session)))
        if session.registry.repositories() != 0:
            raise RuntimeError("the registry is not empty")

    def name_in(self, session):
        return f"{session.registry.address}/bench/pushed:1"

    def command(self, session):
        return session.builder.build(self.inside, self.name_in(session), push=True)

    def expect_cached(self):
        return 2

    def image(self, session):
        subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false",
                        f"docker://{self.name_in(session)}", f"oci-archive:{session.share}/result.tar"], check=True)
        return "/share/result.tar"


class Repush(Push):
    name, goal, fresh = "repush", Goal(share=1 / 2), False
    title = "rebuild with one small new layer, and push"

    def prepare(self, session):
        super().prepare(session)
        session.run(self.command(session))

    def before(self, number):
        (self.directory / "small").write_text(f"{number}\n")

    def expect_cached(self):
        return 1


class Apt(Work):
    """Work that is mostly not the builder's: packages of Debian and PyPI, through the machine's own configuration."""

    name, goal, quick = "apt", Goal(share=1.0, of=EVERYBODY), False
    title = "apt-get install python3-pip, pip install flask"
    base, loose, step_memory = DEBIAN, True, False

    def context(self):
        subprocess.run([bases.REPOSITORY / "examples/host.sh", self.directory / "host"], check=True)
        self.dockerfile(
            f"FROM {DEBIAN}",
            "RUN --mount=type=bind,source=host,target=/mnt export APT_CONFIG=/mnt/apt.conf DEBIAN_FRONTEND=noninteractive"
            " && apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*",
            "RUN --mount=type=bind,source=host,target=/mnt PIP_CONFIG_FILE=/mnt/pip.conf pip install"
            " --break-system-packages --no-cache-dir flask")

    def command(self, session):
        return session.builder.build(self.inside, self.tag, no_cache=True)


ALL = (Cached, Runs, CopyCold, CopyTouched, CopyUnchanged, LayerGzip, LayerZstd, Stages, Pull, Push, Repush, Apt)
