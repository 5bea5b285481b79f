"""One work by all builders, turn by turn: A B A B, so that whatever else the machine does meets all of them.

In: a work, the builders. Out: an `Outcome` per builder: its samples, or why there are none. A builder that fails, or whose
image is not equal to the first one's (rbuild's, where it takes part), has an outcome with a reason and no figures. How a
turn is measured: session.py; what equal means: images.py. A turn whose command fails is repeated a few times, for all
builders alike, and said beside the figures: runc loses a race with very short steps now and then.
"""

import os
import re
from dataclasses import dataclass, field

import images
from session import CommandFailed, Failed, Session


@dataclass
class Outcome:
    """What a builder's turns gave."""

    samples: list = field(default_factory=list)
    # Why nothing is counted.
    failure: str | None = None
    # Bytes of the layers in the archive that was compared.
    layer_bytes: int = 0
    # What was said when a turn failed and was repeated.
    repeated: list = field(default_factory=list)


# How often a builder may fail in one turn and try again.
TRIES_AGAIN = 2


def run(work, builders, surroundings, repeats, say):
    """Measures `work`; returns the outcomes by the builders' names."""
    outcomes = {builder.name: Outcome() for builder in builders}
    sessions, pictures = {}, {}
    # Round 0 is the preparation of sessions that stay.
    rounds = range(1 if work.fresh else 0, repeats + 1)
    try:
        for number in rounds:
            if number > 0:
                work.before(number)
            for builder in builders:
                outcome = outcomes[builder.name]
                if outcome.failure:
                    continue
                say(f"{work.name} {number}/{repeats} {builder.name}")
                try:
                    if not work.can(builder):
                        raise Failed("it has no such output")
                    if builder.name not in sessions:
                        sessions[builder.name] = tried(lambda: opened(work, builder, surroundings), outcome)
                    if number > 0:
                        outcome.samples.append(tried(lambda: turn(work, sessions[builder.name]), outcome))
                    if number == repeats:
                        pictures[builder.name] = picture(work, sessions[builder.name])
                except (Failed, ValueError, KeyError, RuntimeError, OSError) as error:
                    outcome.failure = str(error) or repr(error)
                finally:
                    if number > 0 and work.fresh or outcome.failure:
                        put_away(sessions.pop(builder.name, None))
        compare(builders, outcomes, pictures)
    finally:
        for session in sessions.values():
            put_away(session)
    return outcomes


def tried(act, outcome):
    """What `act` returns, perhaps not at the first try; only a command that fails is repeated."""
    for _ in range(TRIES_AGAIN):
        try:
            return act()
        except CommandFailed as error:
            outcome.repeated.append(str(error))
    return act()


def opened(work, builder, surroundings):
    """A session with the base image in its store and nothing else, which is asserted; then what the work prepares."""
    session = Session(surroundings, builder)
    try:
        builder.load(session, f"/works/{surroundings.base(work.base)}")
        if (stored := builder.stored(session)) != builder.stored_first:
            raise Failed(f"the store has {stored} images and records where only the base image should be")
        work.prepare(session)
    except BaseException:
        put_away(session)
        raise
    return session


def turn(work, session):
    """One measured command, checked for what came from the cache."""
    command = work.command(session)
    # What was written before is on disk, so that nobody waits for another's bytes.
    os.sync()
    sample = session.measure(command, work.step_memory)
    expected = work.expect_cached()
    found = cached_steps(sample.said, session.builder.cached)
    if expected is not None and found != expected:
        raise Failed(f"{found} steps came from the cache where {expected} should")
    return sample


def cached_steps(said, word):
    """How many steps a build took from its cache, as it printed; a base image that is there is none."""
    if word != "CACHED":
        return said.count(word)
    names = dict(re.findall(r"^#(\d+) \[(.*)$", said, re.MULTILINE))
    cached = set(re.findall(r"^#(\d+) CACHED", said, re.MULTILINE))
    return sum(1 for step in cached if not re.search(r"\] FROM |^internal\]|^context ", names.get(step, "")))


def picture(work, session):
    """The image that the last turn made."""
    inside = work.image(session)
    return images.read(session.path(inside), work.loose)


def compare(builders, outcomes, pictures):
    """Takes the figures of whoever's image differs from the first one's."""
    made = [builder.name for builder in builders if builder.name in pictures]
    for name in made:
        outcomes[name].layer_bytes = pictures[name].layer_bytes
        if difference := images.difference(pictures[made[0]], pictures[name]):
            outcomes[name].failure = f"its image is not that of {made[0]}: {difference}"


def put_away(session):
    """Ends a session and its registry."""
    if session is None:
        return
    registry = getattr(session, "registry", None)
    session.end()
    if registry:
        registry.close()
