"""How often each builder asks the kernel to write to disk during one build of ten steps; counted, with what it promises.

A low count is a win only where no finished result can be lost, so the table says both. strace counts calls of the client
and of the daemon's processes, and of nothing that is measured: it slows both down.
"""

import re
import subprocess

import bases
from session import ENVIRONMENT, Failed, Session, tail, words

CALLS = "fsync,fdatasync,syncfs,sync,sync_file_range,msync"
STEPS = 10


def count(builders, surroundings, say):
    """Calls by their names, by builder; a builder that fails has the reason."""
    directory = surroundings.works / "syncs"
    directory.mkdir()
    # Every step writes, so that every step has a layer.
    steps = "".join(f"RUN echo {number} >/made{number}\n" for number in range(STEPS))
    (directory / "Dockerfile").write_text(f"FROM {bases.BUSYBOX}\n{steps}")
    found = {}
    for builder in builders:
        say(f"syncs {builder.name}")
        session, found[builder.name] = None, {"title": builder.title, "guarantee": builder.guarantee}
        try:
            session = Session(surroundings, builder)
            builder.load(session, f"/works/{surroundings.base(bases.BUSYBOX)}")
            found[builder.name]["calls"] = of_build(session)
        except Failed as error:
            found[builder.name]["failure"] = str(error)
        finally:
            if session:
                session.end()
    return found


def of_build(session):
    """Counts the calls of one build in this session."""
    command = session.builder.build("/works/syncs", "localhost/bench/syncs:1")
    strace = ["strace", "-f", "-qq", "-c", "-U", "calls,name", "-e", f"trace={CALLS}"]
    beside = None
    daemons = session.daemon_processes()
    if daemons:
        # Without -q it says of each process when it is attached; only then the build may begin.
        attach = [word for word in strace if word != "-qq"]
        beside = subprocess.Popen([*attach, "-o", session.place / "daemons", *[f"--attach={pid}" for pid in daemons]],
                                  stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        waiting = set(daemons)
        while waiting and (line := beside.stderr.readline()):
            waiting -= {int(number) for number in re.findall(r"Process (\d+) attached", line)}
    try:
        client = subprocess.run([*strace, "-o", session.place / "client", *session.enter(command)], env=ENVIRONMENT,
                                stdin=subprocess.DEVNULL, capture_output=True)
    finally:
        if beside:
            beside.send_signal(2)
            beside.communicate()
    if client.returncode != 0:
        said = client.stderr.decode(errors="replace")
        raise Failed(f"{words(command)}: exit code {client.returncode} under strace\n{tail(said)}")
    calls = {}
    for part in ("client", "daemons"):
        file = session.place / part
        for number, name in re.findall(r"^\s*(\d+)\s+(\w+)$", file.read_text() if file.exists() else "", re.MULTILINE):
            if name != "total":
                calls[name] = calls.get(name, 0) + int(number)
    return calls
