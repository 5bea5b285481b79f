"""estargz.py BLOB TOC_DIGEST UNCOMPRESSED_SIZE DIFF_ID: checks a layer by the text of stargz-snapshotter's docs/estargz.md.

Each piece of a file is fetched alone, by the offsets of the table, as a lazy reader does it, and compared with its
digest and with what the tar has there; the table must name all that the tar has, and nothing else.
"""
import base64
import hashlib
import io
import json
import sys
import tarfile
import zlib

path, toc_digest, uncompressed_size, diff_id = sys.argv[1:]
blob = open(path, "rb").read()


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def member(offset):
    """One gzip member, alone, and where it ends."""
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    data = inflate.decompress(blob[offset:]) + inflate.flush()
    assert inflate.eof, f"the member at {offset} is cut"
    return data, len(blob) - len(inflate.unused_data)


# Footer: an empty member of 51 bytes, whose extra field is `SG`, 22 bytes: sixteen hexadecimal digits and `STARGZ`.
footer = blob[-51:]
assert footer[:4] == b"\x1f\x8b\x08\x04" and footer[10:12] == b"\x1a\x00", footer
assert footer[12:16] == b"SG\x16\x00" and footer[32:38] == b"STARGZ", footer
assert member(len(blob) - 51) == (b"", len(blob))
toc_offset = int(footer[16:32], 16)

# Table: a member of its own, a tar with one entry, up to the footer.
table_tar, end = member(toc_offset)
assert end == len(blob) - 51, (end, len(blob))
with tarfile.open(fileobj=io.BytesIO(table_tar)) as tar:
    [entry] = tar.getmembers()
    assert entry.name == "stargz.index.json", entry.name
    table = tar.extractfile(entry).read()
assert sha256(table) == toc_digest, (sha256(table), toc_digest)
table = json.loads(table)
assert table["version"] == 1, table["version"]

# The whole: members one after another.
whole, offset, begins = [], 0, set()
while offset < len(blob):
    begins.add(offset)
    data, offset = member(offset)
    whole.append(data)
whole = b"".join(whole)
assert len(whole) == int(uncompressed_size), (len(whole), uncompressed_size)
assert sha256(whole) == diff_id, (sha256(whole), diff_id)
assert whole.endswith(table_tar)

KINDS = {
    tarfile.REGTYPE: "reg",
    tarfile.LNKTYPE: "hardlink",
    tarfile.SYMTYPE: "symlink",
    tarfile.DIRTYPE: "dir",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}
rows = [row for row in table["entries"] if row["type"] != "chunk"]
pieces = {}
last = None
for row in table["entries"]:
    last = row["name"] if row["type"] != "chunk" else last
    assert row["name"] == last, f"a chunk of {row['name']} behind {last}"
    pieces.setdefault(row["name"], []).append(row)
with tarfile.open(fileobj=io.BytesIO(whole[: len(whole) - len(table_tar)])) as tar:
    members = tar.getmembers()
    names = [(member.name.rstrip("/"), KINDS[member.type]) for member in members]
    assert [(row["name"].rstrip("/"), row["type"]) for row in rows] == names, "the table has other entries than the tar"
    for row, entry in zip(rows, members):
        found = (row.get("size", 0), row["mode"] & 0o7777, row["uid"], row["gid"], row.get("linkName", ""))
        size = entry.size if entry.isreg() else 0
        assert found == (size, entry.mode & 0o7777, entry.uid, entry.gid, entry.linkname), (row, found)
        assert (row.get("devMajor", 0), row.get("devMinor", 0)) == (entry.devmajor, entry.devminor), row
        prefix = "SCHILY.xattr."
        xattrs = {k[len(prefix) :]: v for k, v in entry.pax_headers.items() if k.startswith(prefix)}
        given = {k: base64.b64decode(v).decode("utf-8", "surrogateescape") for k, v in row.get("xattrs", {}).items()}
        assert given == xattrs, (row["name"], given, xattrs)
        if not entry.isreg() or entry.size == 0:
            continue
        expected, done = tar.extractfile(entry).read(), 0
        assert row["digest"] == sha256(expected), row["name"]
        for piece in pieces[row["name"]]:
            assert piece.get("chunkOffset", 0) == done, piece
            length = piece.get("chunkSize", 0) or len(expected) - done
            assert piece["offset"] in begins, piece
            data = member(piece["offset"])[0][:length]
            assert data == expected[done : done + length], piece
            assert piece["chunkDigest"] == sha256(data), piece
            done += length
        assert done == len(expected), row["name"]
print(len(rows), "entries")
