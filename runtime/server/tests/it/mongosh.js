// What somebody does in the shell: mongosh URI --quiet --file mongosh.js. It prints "all well" at the end.
const assert = require("node:assert/strict");
// The shell's values come from another realm, whose arrays and objects are not the assertions'.
const same = (found, wanted) => assert.equal(EJSON.stringify(found), EJSON.stringify(wanted));

assert.equal(db.getName(), "hotel");
assert.equal(db.rooms.insertMany([{ _id: 1, n: Long(5) }, { _id: 2, n: 7.5 }, { _id: 3, at: ISODate() }]).acknowledged, true);
same(db.rooms.find({ n: { $gt: 1 } }, { n: 0 }).sort({ _id: -1 }).toArray(), [{ _id: 2 }, { _id: 1 }]);
assert.equal(db.rooms.countDocuments({ n: { $exists: false } }), 1);
assert.equal(db.rooms.estimatedDocumentCount(), 3);
assert.equal(db.rooms.createIndex({ n: 1 }, { name: "by_n" }), "by_n");
same(db.rooms.getIndexes().map((index) => index.name), ["_id_", "by_n"]);
const plan = db.rooms.find({ n: 5 }).explain("executionStats");
assert.equal(plan.queryPlanner.winningPlan.inputStage.indexName, "by_n");
assert.equal(plan.executionStats.totalDocsExamined, 1);
same(db.rooms.aggregate([{ $group: { _id: null, sum: { $sum: "$n" } } }]).toArray(), [{ _id: null, sum: 12.5 }]);
same(db.rooms.distinct("_id"), [1, 2, 3]);
assert.equal(db.rooms.updateOne({ _id: 1 }, { $inc: { n: 1 } }).modifiedCount, 1);
assert.equal(db.rooms.findOneAndUpdate({ _id: 2 }, { $set: { n: 8 } }, { returnDocument: "after" }).n, 8);
// The shell waits for calls in its own statements, not inside of functions that are handed on.
let refused = null;
try { db.rooms.insertOne({ _id: 1 }); } catch (error) { refused = error.code; }
assert.equal(refused, 11000);

// More than a batch: the shell's cursor fetches the rest.
db.many.insertMany(Array.from({ length: 300 }, (_, i) => ({ _id: i })));
assert.equal(db.many.find().toArray().length, 300);
assert.equal(db.many.bulkWrite([{ deleteMany: { filter: { _id: { $lt: 100 } } } }]).deletedCount, 100);

const session = db.getMongo().startSession();
session.startTransaction();
session.getDatabase("hotel").rooms.insertOne({ _id: 9 });
session.abortTransaction();
session.endSession();
assert.equal(db.rooms.findOne({ _id: 9 }), null);

// What the helpers ask.
same(db.getCollectionNames().sort(), ["many", "rooms"]);
assert.equal(Number(db.stats().collections), 2);
assert.equal(Number(db.rooms.stats().count), 3);
assert.ok(db.version() && db.hello().isWritablePrimary);
assert.equal(db.runCommand({ connectionStatus: 1 }).authInfo.authenticatedUsers[0].user, "owner");
try { db.getSiblingDB("shop").rooms.findOne(); } catch (error) { refused = error.codeName; }
assert.equal(refused, "Unauthorized");
assert.equal(db.rooms.drop() && db.many.drop(), true);
print("all well");
