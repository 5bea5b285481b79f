"""Debian's docker-registry on loopback, on a free port, empty when it starts and gone when it is closed."""

import re
import shutil
import subprocess
from pathlib import Path


class Registry:
    """A registry that answers when the constructor returns; `address` is what stands before a name in it."""

    def __init__(self, directory):
        self.directory = Path(directory)
        settings = self.directory / "config.yml"
        settings.write_text("version: 0.1\nlog: {level: info}\n"
                            f"storage: {{filesystem: {{rootdirectory: {self.directory}/storage}}}}\n"
                            'http: {addr: "127.0.0.1:0", secret: x}\n')
        self.server = subprocess.Popen(["docker-registry", "serve", settings], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = []
        for line in self.server.stderr:
            said.append(line)
            if found := re.search(r"listening on (127\.0\.0\.1:\d+)", line):
                self.address = found[1]
                break
        else:
            raise RuntimeError("docker-registry does not start: " + "".join(said))
        # It goes on logging, and would stop at a full pipe.
        self.drain = subprocess.Popen(["cat"], stdin=self.server.stderr, stdout=subprocess.DEVNULL)

    def repositories(self):
        """How many repositories it has."""
        place = self.directory / "storage/docker/registry/v2/repositories"
        return len(list(place.rglob("_manifests"))) if place.exists() else 0

    def close(self):
        self.server.kill()
        self.server.wait()
        self.server.stderr.close()
        self.drain.wait()
        shutil.rmtree(self.directory)
