"""What an application does, through PyMongo: run with the server's HOST:PORT, prints "all well"."""

import sys
from datetime import datetime, timezone

import pymongo
from bson import Decimal128, Int64, ObjectId
from pymongo import DeleteOne, InsertOne, MongoClient, ReplaceOne, UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure
from pymongo.write_concern import WriteConcern

HOST = sys.argv[1]


def connect(user="root", password="se cret", **options):
    return MongoClient(f"mongodb://{HOST}/", username=user, password=password, serverSelectionTimeoutMS=5000, **options)


def fails(error, code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except error as seen:
        assert seen.code == code, seen
        return seen
    raise AssertionError(f"{call} succeeded")


def documents(db):
    rooms = db.rooms
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    values = {"text": "ü", "int": 1, "long": Int64(2**40), "double": 0.5, "decimal": Decimal128("1.10"),
              "date": when, "oid": ObjectId(), "none": None, "list": [1, [2]], "inner": {"a": {"b": True}}, "bytes": b"\0"}
    made = rooms.insert_one(values)
    found = rooms.with_options(codec_options=db.codec_options.with_options(tz_aware=True)).find_one(made.inserted_id)
    assert found == values and list(found)[0] == "_id", found
    rooms.insert_many([{"_id": n, "floor": n // 10, "beds": n % 3, "tags": ["a", "b"][: n % 3]} for n in range(100)])
    assert rooms.count_documents({"floor": {"$gte": 5}}) == 50
    assert rooms.estimated_document_count() == 101
    assert [r["_id"] for r in rooms.find({"beds": 2, "floor": 3}, {"_id": 1}).sort("_id", -1)] == [38, 35, 32]
    assert rooms.distinct("tags") == ["a", "b"]
    assert rooms.update_one({"_id": 1}, {"$set": {"beds": 1}}).modified_count == 0
    done = rooms.update_many({"floor": 1}, {"$inc": {"beds": 10}, "$currentDate": {"seen": True}})
    assert (done.matched_count, done.modified_count) == (10, 10)
    upserted = rooms.update_one({"_id": "new"}, {"$setOnInsert": {"x": 1}}, upsert=True)
    assert upserted.upserted_id == "new"
    assert rooms.find_one_and_update({"_id": 5}, {"$push": {"log": "x"}}, return_document=True)["log"] == ["x"]
    assert rooms.find_one_and_delete({"_id": "new"})["x"] == 1
    assert rooms.find_one_and_replace({"_id": 404}, {"x": 1}) is None
    assert rooms.delete_many({"floor": 9}).deleted_count == 10
    fails(OperationFailure, 2, rooms.find_one, {"a": {"$frob": 1}})
    fails(OperationFailure, 66, rooms.update_one, {"_id": 1}, {"$set": {"_id": 2}})


def indexes(db):
    users = db.users
    assert users.create_index([("mail", 1)], unique=True) == "mail_1"
    users.create_index([("city", 1), ("age", -1)], name="place")
    assert set(users.index_information()) == {"_id_", "mail_1", "place"}
    assert users.index_information()["mail_1"]["unique"] is True
    users.insert_one({"mail": "a@x"})
    error = fails(DuplicateKeyError, 11000, users.insert_one, {"mail": "a@x"})
    assert error.details["keyPattern"] == {"mail": 1} and error.details["keyValue"] == {"mail": "a@x"}
    assert "index: mail_1 dup key" in error.details["errmsg"]
    # The same keys and options under another name; without `unique` it would be another index, as in MongoDB since 5.0.
    fails(OperationFailure, 85, users.create_index, [("mail", 1)], name="other", unique=True)
    plan = users.find({"mail": "a@x"}).explain()["queryPlanner"]["winningPlan"]
    assert "IXSCAN" in str(plan), plan
    assert users.find({"mail": "a@x"}).hint("place").to_list() == users.find({"mail": "a@x"}).hint([("mail", 1)]).to_list()
    users.drop_index("place")
    users.drop_indexes()
    assert list(users.index_information()) == ["_id_"]
    users.rename("people")
    assert "people" in db.list_collection_names() and "users" not in db.list_collection_names()
    fails(OperationFailure, 26, db.missing.rename, "other")


def bulk(db):
    stock = db.stock
    done = stock.bulk_write([
        InsertOne({"_id": 1, "n": 1}), InsertOne({"_id": 2, "n": 2}),
        UpdateOne({"_id": 1}, {"$inc": {"n": 5}}), UpdateMany({}, {"$set": {"seen": True}}),
        ReplaceOne({"_id": 3}, {"n": 3}, upsert=True), DeleteOne({"_id": 2}),
    ])
    counts = (done.inserted_count, done.matched_count, done.modified_count, done.deleted_count)
    assert (counts, done.upserted_ids) == ((2, 3, 3, 1), {4: 3}), done
    rows = [{"_id": n} for n in (10, 1, 11, 3, 12)]
    for ordered, inserted, errors in ((True, 1, [1]), (False, 2, [0, 1, 3])):
        try:
            stock.insert_many(rows, ordered=ordered)
            raise AssertionError("duplicates were let in")
        except BulkWriteError as error:
            assert error.details["nInserted"] == inserted, error.details
            assert [e["index"] for e in error.details["writeErrors"]] == errors
            assert all(e["code"] == 11000 for e in error.details["writeErrors"])
    big = [{"_id": f"big{n}", "text": "x" * 1000} for n in range(20_000)]
    assert len(stock.insert_many(big, ordered=False).inserted_ids) == 20_000
    assert sum(1 for _ in stock.find({"_id": {"$regex": "^big"}}, batch_size=700)) == 20_000
    stock.with_options(write_concern=WriteConcern(w=0)).insert_many([{"_id": f"quiet{n}"} for n in range(10)])
    db.client.admin.command("ping")


def cursors(db):
    rows = db.rows
    rows.insert_many([{"_id": n} for n in range(1000)])
    with db.client.start_session() as session:
        cursor = rows.find({}, batch_size=10, session=session)
        assert next(cursor)["_id"] == 0 and cursor.alive
    cursor = rows.find({}, batch_size=10)
    assert [next(cursor)["_id"] for _ in range(25)] == list(range(25))
    address = cursor.cursor_id
    cursor.close()
    fails(OperationFailure, 43, db.command, {"getMore": Int64(address), "collection": "rows"})
    assert len(list(rows.find().limit(-5))) == 5
    assert [r["_id"] for r in rows.find().skip(990).limit(5)] == [990, 991, 992, 993, 994]
    assert [r["_id"] for r in rows.find(sort=[("_id", -1)], batch_size=300)] == list(range(999, -1, -1))


def changes(db):
    orders = db.orders
    with db.watch([{"$match": {"operationType": {"$in": ["insert", "update"]}}}], full_document="updateLookup") as stream:
        orders.insert_one({"_id": 1, "state": "new"})
        orders.delete_one({"_id": 0})
        orders.update_one({"_id": 1}, {"$set": {"state": "paid"}})
        first, second = next(stream), next(stream)
        assert (first["operationType"], first["fullDocument"]) == ("insert", {"_id": 1, "state": "new"}), first
        assert second["updateDescription"]["updatedFields"] == {"state": "paid"}, second
        assert second["fullDocument"] == {"_id": 1, "state": "paid"} and second["ns"] == {"db": "test", "coll": "orders"}
    with db.client.start_session() as session, session.start_transaction():
        orders.insert_many([{"_id": 2}, {"_id": 3}], session=session)
    with orders.watch(resume_after=second["_id"], max_await_time_ms=50) as stream:
        assert [next(stream)["documentKey"]["_id"] for _ in range(2)] == [2, 3]
        assert stream.try_next() is None
        # The cursor goes, and the driver resumes by itself.
        db.command("killCursors", "orders", cursors=[stream._cursor.cursor_id])
        orders.insert_one({"_id": 4})
        assert next(stream)["documentKey"] == {"_id": 4}


def logins(client):
    app = client["app"]
    app.command("createUser", "writer", pwd="p", roles=["readWrite"])
    app.command("createUser", "reader", pwd="p", roles=[{"role": "read", "db": "app"}], mechanisms=["SCRAM-SHA-256"])
    writer = connect("writer", "p", authSource="app")
    writer.app.things.insert_one({"_id": 1})
    fails(OperationFailure, 13, writer.other.things.insert_one, {})
    fails(OperationFailure, 13, writer.app.command, "createUser", "x", pwd="p", roles=[])
    assert writer.list_database_names() == ["app"]
    reader = connect("reader", "p", authSource="app")
    assert reader.app.things.find_one() == {"_id": 1}
    fails(OperationFailure, 13, reader.app.things.insert_one, {})
    with reader.app.watch(max_await_time_ms=50) as stream:
        writer.app.things.insert_one({"_id": 2})
        assert next(stream)["documentKey"] == {"_id": 2}
        fails(OperationFailure, 13, reader.watch)
        fails(OperationFailure, 13, reader.other.watch)
        app.command("updateUser", "reader", roles=[{"role": "read", "db": "other"}])
        # What may not be read any more is not told any more either.
        writer.app.things.insert_one({"_id": 3})
        fails(OperationFailure, 13, stream.next)
        app.command("updateUser", "reader", roles=["read"])
    for user, password, options in (("reader", "wrong", {}), ("nobody", "p", {}), ("reader", "p", {"authMechanism": "SCRAM-SHA-1"})):
        fails(OperationFailure, 18, connect(user, password, authSource="app", **options).admin.command, "ping")
    fails(OperationFailure, 13, MongoClient(f"mongodb://{HOST}/").app.things.find_one)
    app.command("updateUser", "reader", roles=[])
    fails(OperationFailure, 13, reader.app.things.find_one)
    app.command("dropUser", "writer")
    fails(OperationFailure, 13, writer.app.things.insert_one, {})
    fails(OperationFailure, 11, app.command, "dropUser", "writer")
    assert [user["user"] for user in app.command("usersInfo")["users"]] == ["reader"]


def main():
    client = connect()
    assert client.server_info()["version"].startswith("8.")
    for step in (documents, indexes, bulk, cursors, changes):
        client.drop_database("test")
        step(client.test)
    logins(client)
    for compressor in ("zlib", "zstd", "snappy"):
        packed = connect(compressors=compressor).test.packed
        packed.insert_many([{"text": "x" * 10_000} for _ in range(50)])
        assert len(list(packed.find({}, batch_size=7))) % 50 == 0
    client.drop_database("test")
    assert "test" not in client.list_database_names()
    print("all well", pymongo.version)


main()
