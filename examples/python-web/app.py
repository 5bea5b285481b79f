"""A small web service: says hello, counts its visits, answers a health check."""

import itertools
import os
import signal
import sys

import flask
import waitress

app = flask.Flask(__name__)
visits = itertools.count(1)


@app.get("/")
def hello():
    return flask.jsonify(message="hello from a container built by rbuild", visit=next(visits), uid=os.getuid())


@app.get("/healthz")
def healthz():
    return "ok\n", 200, {"Content-Type": "text/plain"}


if __name__ == "__main__":
    # As process 1 the default action of SIGTERM is nothing, so stopping is asked for by name.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    host, port = os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", "8000"))
    server = waitress.create_server(app, host=host, port=port)
    print(f"listening on {host}:{server.effective_port}", flush=True)
    server.run()
