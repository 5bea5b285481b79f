"""schemas.py KIND FILE [KIND FILE]...: checks documents by image-spec's own JSON schemas, from Debian's package.

KIND is the beginning of a schema's name: image-manifest, image-index, image-layout, config.
"""
import json
import pathlib
import sys

import jsonschema

FOLDER = pathlib.Path("/usr/share/gocode/src/github.com/opencontainers/image-spec/schema")
DOCUMENTS = {path.name: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}


class Resolver(jsonschema.RefResolver):
    """References mean the files beside, whatever the ids say; nothing is fetched."""

    def resolve_remote(self, uri):
        return DOCUMENTS[uri.rsplit("/", 1)[1]]


wrong = False
words = sys.argv[1:]
for kind, file in zip(words[::2], words[1::2], strict=True):
    schema = DOCUMENTS[kind + "-schema.json"]
    validator = jsonschema.Draft4Validator(schema, resolver=Resolver(schema["id"], schema))
    for fault in validator.iter_errors(json.loads(pathlib.Path(file).read_bytes())):
        wrong = True
        print(kind, "/".join(map(str, fault.absolute_path)), fault.message)
sys.exit(wrong)
