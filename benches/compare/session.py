"""A builder's surroundings: namespaces of its own, a store on a file system made just now, its daemon if it has one.

In: which root, which builder. Out: commands run in there, measured or not; where things lie seen from outside. That the
file system is fresh is a matter of how it is made: creating files after a mass delete is several times slower on ext4,
and would punish whoever runs second. Nothing is cleared away singly: `end` kills the first process of the namespaces, and
the kernel ends all processes, mounts and the loop device with it. How time is taken: measure.py.
"""

import os
import select
import shutil
import signal
import subprocess
from pathlib import Path

import measure

HERE = Path(__file__).resolve().parent
# Sparse; the largest work unpacks about 2 GB, and builders keep up to three copies of a layer.
STORE_GIB = 24
# All that a builder sees of the environment, so that nothing of the machine's changes what it does.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TMPDIR": "/store/tmp",
    "RBUILD_ROOT": "/store/rbuild",
}


class Failed(Exception):
    """A command of a builder failed, or did not do what was asked; the text is what to print."""


class CommandFailed(Failed):
    """A builder's command ended with an exit code that says so."""


class Session:
    """Namespaces for one builder, ready when the constructor returns."""

    def __init__(self, surroundings, builder):
        self.builder, self.cgroup = builder, surroundings.cgroup
        self.place = Path(surroundings.new_directory(builder.name))
        self.share = self.place / "share"
        for part in ("root", "share"):
            (self.place / part).mkdir()
        image = self.place / "store.ext4"
        with open(image, "wb") as file:
            file.truncate(STORE_GIB << 30)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
        # Whatever the last session left to be written is written before this one starts.
        os.sync()
        self.log = open(self.place / "log", "w+b")
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "--pid", "--ipc", "--uts", "--fork", "--kill-child",
             HERE / "inside.sh", surroundings.sid, self.place / "root", image, surroundings.works, self.share,
             *builder.programs(surroundings)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log)
        self.daemons = []
        if self.holder.stdout.readline() != b"ready\n":
            raise Failed(f"the namespaces of {builder.name} could not be made: {self.last_words()}")
        self.first = measure.children(self.holder.pid)[0]
        self.assert_fresh()
        builder.start(self)

    def assert_fresh(self):
        """The store's file system has no file yet, but what mkfs and inside.sh made."""
        found = sorted(entry.name for entry in self.path("/store").iterdir())
        if found != ["lost+found", "tmp"] or any(self.path("/store/tmp").iterdir()):
            raise Failed(f"the file system for {self.builder.name} is not fresh: it has {', '.join(found)}")

    def path(self, inside):
        """Where the file `inside` is for this process."""
        return Path(f"/proc/{self.first}/root") / inside.lstrip("/")

    def enter(self, command):
        """`command` as words that run it in the namespaces."""
        words = [str(word) for word in command]
        return ["nsenter", f"--target={self.first}", "--mount", "--pid", "--ipc", "--uts", "--root", "--wd", "--", *words]

    def run(self, command, timeout=1800):
        """Runs `command`, unmeasured; returns what it printed to standard output."""
        try:
            done = subprocess.run(self.enter(command), env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True,
                                  timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{words(command)}: not done after {timeout} s") from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise CommandFailed(f"{words(command)}: exit code {done.returncode}\n{tail(said)}")
        return done.stdout.decode(errors="replace")

    def measure(self, command, step_memory=True):
        """Runs `command` measured; see measure.Sample. What it printed must not be lost: it is in the sample."""
        sample = measure.timed(self.enter(command), ENVIRONMENT, [self.first, *self.daemon_processes()],
                               self.place / "time", step_memory)
        if sample.code != 0:
            raise CommandFailed(f"{words(command)}: exit code {sample.code}\n{tail(sample.said)}")
        return sample

    def start_daemon(self, command, answers):
        """Starts `command`, and waits until `answers()`; ends with the session."""
        daemon = subprocess.Popen(self.enter(command), env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=self.log,
                                  stderr=self.log)
        self.daemons.append(daemon)
        for _ in range(600):
            if answers():
                return
            # A turn of waiting that ends at once if the daemon does.
            if ended(daemon.pid, 0.1):
                break
        raise Failed(f"{words(command)}: does not answer\n{self.last_words()}")

    def daemon_processes(self):
        """Ids of all processes of the daemons."""
        entered = [child for daemon in self.daemons for child in measure.children(daemon.pid)]
        return [pid for process in entered for pid in measure.descendants(process)]

    def last_words(self):
        """The end of what the daemons and the set-up printed."""
        self.log.flush()
        return tail(Path(self.log.name).read_text(errors="replace"))

    def end(self):
        """Ends all processes, and with them all mounts; takes the store away."""
        if self.holder.poll() is None:
            self.holder.send_signal(signal.SIGKILL)
        self.holder.wait()
        for daemon in self.daemons:
            daemon.wait()
        self.holder.stdout.close()
        self.log.close()
        shutil.rmtree(self.place)


def ended(pid, seconds):
    """Whether the child `pid` ends within `seconds`; it is not yet waited for."""
    descriptor = os.pidfd_open(pid)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def words(command):
    """A command as it is shown."""
    return " ".join(str(word) for word in command)


def tail(text, lines=12):
    """The last lines of a text."""
    return "\n".join("    " + line for line in text.strip().splitlines()[-lines:])
