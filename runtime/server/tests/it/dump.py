"""Writes a directory as mongodump does, or reads one that the command line wrote; by PyMongo's bson alone."""

import gzip
import sys
from datetime import datetime, timezone
from pathlib import Path

import bson
from bson import json_util
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

ID = bson.ObjectId("507f1f77bcf86cd799439011")
DOCUMENTS = [
    {
        "_id": ID,
        "double": 1.5,
        "string": "é\0",
        "object": {"a": {"b": 1}},
        "array": [1, "x", [None]],
        "binary": bson.Binary(b"\x01\x02", 0x80),
        "old": bson.Binary(b"\x01", 2),
        "bool": True,
        "date": datetime(2018, 8, 31, 17, 30, 0, 882000, timezone.utc),
        "null": None,
        "regex": bson.Regex("^a", "i"),
        "code": bson.Code("f()"),
        "scope": bson.Code("g()", {"x": 1}),
        "int32": 7,
        "timestamp": bson.Timestamp(4, 2),
        "int64": bson.Int64(7),
        "decimal": bson.Decimal128("1.50E+10"),
        "min": bson.MinKey(),
        "max": bson.MaxKey(),
        "ref": bson.DBRef("c", ID),
    },
    {"_id": 2, "string": "b", "n": 2.0},
    {"_id": "three", "string": "c", "n": bson.Int64(3)},
    {"_id": {"of": "document"}, "string": "d"},
]
INDEXES = [
    {"v": 2, "key": {"_id": 1}, "name": "_id_"},
    {"v": 2, "key": {"string": 1}, "name": "string_1", "unique": True},
    {"v": 2, "key": {"n": -1, "date": 1.0}, "name": "by_n", "sparse": True},
    {"v": 2, "key": {"date": 1}, "name": "ttl", "expireAfterSeconds": 2147483647},
]


def metadata(name, indexes):
    value = {"indexes": indexes, "uuid": "00", "collectionName": name, "type": "collection"}
    return json_util.dumps(value, json_options=json_util.CANONICAL_JSON_OPTIONS).encode()


def write(directory):
    directory.mkdir(parents=True)
    documents = b"".join(bson.encode(document) for document in DOCUMENTS)
    (directory / "notes.bson").write_bytes(documents)
    (directory / "notes.metadata.json").write_bytes(metadata("notes", INDEXES))
    (directory / "a%20b.bson.gz").write_bytes(gzip.compress(bson.encode({"_id": 1})))
    (directory / "a%20b.metadata.json.gz").write_bytes(gzip.compress(metadata("a b", INDEXES[:1])))
    (directory / "empty.bson").write_bytes(b"")
    (directory / "empty.metadata.json").write_bytes(metadata("empty", INDEXES[:2]))
    (directory.parent / "oplog.bson").write_bytes(b"not to be read")


def check(directory, opened):
    read = lambda name: opened(directory / name, "rb").read()
    ending = ".gz" if opened is gzip.open else ""
    raw = CodecOptions(document_class=RawBSONDocument)
    found = bson.decode_all(read("notes.bson" + ending), raw)
    assert len(found) == len(DOCUMENTS)
    found = {bytes(document.raw) for document in found}
    assert found == {bson.encode(document) for document in DOCUMENTS}, found
    assert bson.decode_all(read("a%20b.bson" + ending)) == [{"_id": 1}]
    assert read("empty.bson" + ending) == b""
    for name, indexes in [("notes", INDEXES), ("empty", INDEXES[:2])]:
        told = json_util.loads(read(name + ".metadata.json" + ending))
        assert told["collectionName"] == name and told["options"] == {}, told
        sort = lambda index: index["name"]
        assert sorted(told["indexes"], key=sort) == sorted(indexes, key=sort), told
    expected = {f"{name}.{kind}{ending}" for name in ["notes", "a%20b", "empty"] for kind in ["bson", "metadata.json"]}
    assert {path.name for path in directory.iterdir()} == expected


if sys.argv[1] == "write":
    write(Path(sys.argv[2]))
else:
    check(Path(sys.argv[2]), gzip.open if sys.argv[1] == "check-gzip" else open)
