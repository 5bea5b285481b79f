"""One measured command: wall time, time of the processors, peak memory, of its processes and of the daemon it talks to.

Wall: from before the start until the command is waited for, entering the namespaces included (about 2 ms; the table says
how long `true` takes so). CPU: user and system time of the command and all it waited for, and what the daemon's processes
used meanwhile, their ended children included. Memory: the resident set of the client's largest process plus that of each
process of the daemon, whose high-water marks are set back before; each has its own peak, so the sum is an upper bound. The
client's comes from time(1), which is small: what forks a program passes its own size on to the measurement.

Absent on purpose: the page cache, which the kernel gives to whom it likes, and processes of steps where they are larger
than the builder's own (`step_memory=False`, then the client's own mark is read while it runs).
"""

import os
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass

TICKS = os.sysconf("SC_CLK_TCK")
# How often the high-water mark of a client is read, in seconds; it only grows, so only the last turn can be missed.
LOOK_SECONDS = 0.02
MEASURE_SECONDS_MAX = 1800


@dataclass
class Sample:
    """What one run of a command took; `said` is all that it printed."""

    wall: float
    cpu: float
    peak_mib: float
    code: int
    said: str


def timed(command, environment, beside, time_file, step_memory):
    """Runs `command` while the processes `beside` serve it."""
    for pid in beside:
        forget_peak(pid)
    before = sum(cpu(pid) for pid in beside)
    with tempfile.TemporaryFile() as said:
        start = time.monotonic()
        child = subprocess.Popen(["/usr/bin/time", "--quiet", "--format=%M", f"--output={time_file}", *command],
                                 env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        watcher = Watcher(child.pid) if not step_memory else None
        timer = threading.Timer(MEASURE_SECONDS_MAX, child.kill)
        timer.daemon = True
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - start
        timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode(errors="replace")
    with open(time_file) as file:
        client = int(file.read().split()[-1])
    if watcher:
        client = watcher.end() or client
    after = sum(cpu(pid) for pid in beside)
    daemons = sum(peak_kib(pid) for pid in beside[1:])
    return Sample(wall, usage.ru_utime + usage.ru_stime + after - before, (client + daemons) / 1024, child.returncode, text)


class Watcher(threading.Thread):
    """Reads the memory of the builder's client while it runs: the process that nsenter makes."""

    def __init__(self, timer):
        super().__init__(daemon=True)
        self.timer, self.peak, self.over = timer, 0, threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(LOOK_SECONDS):
            chain = descendants_of_first(self.timer)
            if len(chain) > 2:
                self.peak = max(self.peak, peak_kib(chain[2]))

    def end(self):
        self.over.set()
        self.join()
        return self.peak


def descendants_of_first(pid):
    """The process, its first child, that one's first child: time(1), nsenter, the builder."""
    chain = [pid]
    while len(chain) < 3 and (below := children(chain[-1])):
        chain.append(below[0])
    return chain


def children(pid):
    """Ids of the children of all threads of a process; none if it has ended."""
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += [int(word) for word in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found


def descendants(pid):
    """Ids of a process and all beneath it."""
    found = [pid]
    for child in children(pid):
        found += descendants(child)
    return found


def cpu(pid):
    """Seconds of processor time of a process and of those of its children that it has waited for."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(field) for field in fields[11:15]) / TICKS


def forget_peak(pid):
    """Sets the high-water mark of a process back to what it has now."""
    with open(f"/proc/{pid}/clear_refs", "w") as file:
        file.write("5")


def peak_kib(pid):
    """The high-water mark of a process's resident set; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0
