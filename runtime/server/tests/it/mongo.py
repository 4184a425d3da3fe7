"""What a driver may do at a node's MongoDB listener: python mongo.py HOST:PORT."""

import sys

import pymongo
from pymongo.errors import OperationFailure

ADDRESS = sys.argv[1]


def connect(database, user, password="secret"):
    return pymongo.MongoClient(
        f"mongodb://{user}:{password}@{ADDRESS}/{database}", serverSelectionTimeoutMS=10_000
    )


def refused(code, call):
    try:
        call()
    except OperationFailure as error:
        assert error.code == code, error
    else:
        raise AssertionError("it was not refused")


owner = connect("hotel", "owner")
notes = owner.hotel.notes
assert notes.find_one({"_id": "from-http"}) == {"_id": "from-http", "n": 1}
notes.insert_one({"_id": "from-driver", "n": 2})
assert notes.count_documents({"n": {"$gte": 1}}) == 2
notes.create_index([("n", pymongo.DESCENDING)], unique=True)
refused(11000, lambda: notes.insert_one({"n": 2}))

# Another app's data, the platform's own, and a wrong password.
refused(13, lambda: owner.shop.notes.find_one())
refused(13, lambda: owner.shop.notes.insert_one({}))
refused(13, lambda: connect("shop", "owner").hotel.notes.find_one())
refused(18, lambda: connect("hotel", "owner", "wrong").hotel.notes.find_one())
refused(18, lambda: connect("shop", "reader").shop.notes.find_one())
assert connect("shop", "owner").shop.list_collection_names() in ([], ["notes"])

reader = connect("hotel", "reader")
assert reader.hotel.notes.find_one({"_id": "from-driver"})["n"] == 2
refused(13, lambda: reader.hotel.notes.delete_many({}))
