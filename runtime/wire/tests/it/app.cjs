// What an application does, through the Node.js driver: run with the packages' directory and HOST:PORT, prints
// "all well". Its first word to a server is an OP_QUERY.

const assert = require("node:assert");
const path = require("node:path");

const [packages, host] = process.argv.slice(2);
const { MongoClient, MongoServerError, MongoBulkWriteError, Decimal128, Long } = require(
  path.join(packages, "node_modules", "mongodb"),
);

async function fails(code, promise) {
  try {
    await promise;
  } catch (error) {
    assert(error instanceof MongoServerError, String(error));
    assert.strictEqual(error.code, code, String(error));
    return error;
  }
  assert.fail("it succeeded");
}

async function orders(db) {
  const orders = db.collection("orders");
  await orders.createIndexes([
    { key: { number: 1 }, unique: true },
    { key: { customer: 1, at: -1 } },
  ]);
  const rows = Array.from({ length: 500 }, (_, n) => ({
    number: n,
    customer: `c${n % 7}`,
    at: new Date(n * 1000),
    lines: [{ sku: "a", price: Decimal128.fromString("1.5") }],
    total: Long.fromNumber(n),
  }));
  const made = await orders.insertMany(rows);
  assert.strictEqual(made.insertedCount, 500);
  assert.strictEqual(await orders.countDocuments({ customer: "c3" }), 71);
  assert.strictEqual(await orders.estimatedDocumentCount(), 500);
  const newest = await orders.find({ customer: "c1" }).sort({ at: -1 }).limit(3).project({ number: 1, _id: 0 }).toArray();
  assert.deepStrictEqual(newest, [{ number: 498 }, { number: 491 }, { number: 484 }]);
  let seen = 0;
  for await (const order of orders.find({}, { batchSize: 33 })) seen += order.lines.length;
  assert.strictEqual(seen, 500);
  const error = await fails(11000, orders.insertOne({ number: 5 }));
  assert.deepStrictEqual(error.keyValue, { number: 5 });
  const paid = await orders.findOneAndUpdate({ number: 7 }, { $set: { "lines.0.paid": true } }, { returnDocument: "after" });
  assert.strictEqual(paid.lines[0].paid, true);
  await assert.rejects(
    orders.insertMany([{ number: 1 }, { number: 1000 }, { number: 2 }], { ordered: false }),
    (error) => error instanceof MongoBulkWriteError && error.insertedCount === 1 && error.writeErrors.length === 2,
  );
  const result = await orders.bulkWrite([
    { updateMany: { filter: { customer: "c2" }, update: { $inc: { total: 1 } } } },
    { replaceOne: { filter: { number: 9999 }, replacement: { number: 9999 }, upsert: true } },
    { deleteOne: { filter: { number: 0 } } },
  ]);
  assert.deepStrictEqual([result.modifiedCount, result.upsertedCount, result.deletedCount], [72, 1, 1]);
  assert.deepStrictEqual((await orders.distinct("customer")).length, 7);
  assert.deepStrictEqual((await orders.indexes()).map((index) => index.name), ["_id_", "number_1", "customer_1_at_-1"]);
}

async function sessions(client) {
  const session = client.startSession({ causalConsistency: true });
  const notes = client.db("notes").collection("notes");
  await notes.insertOne({ _id: 1 }, { session });
  assert.deepStrictEqual(await notes.findOne({}, { session }), { _id: 1 });
  await session.endSession();
  await client.withSession((session) => session.withTransaction(async () => {
    await notes.insertOne({ _id: 2 }, { session });
    await notes.insertOne({ _id: 3 }, { session });
  }));
  assert.equal(await notes.countDocuments({ _id: { $in: [2, 3] } }), 2);
  // Of two sessions that change one document the slower one runs its transaction again.
  await notes.insertOne({ _id: 4, n: 0 });
  const add = () => client.withSession((session) => session.withTransaction(async () => {
    const { n } = await notes.findOne({ _id: 4 }, { session });
    await notes.updateOne({ _id: 4 }, { $set: { n: n + 1 } }, { session });
  }));
  await Promise.all([add(), add(), add()]);
  assert.equal((await notes.findOne({ _id: 4 })).n, 3);
}

async function changes(db) {
  const stream = db.collection("orders").watch([], { fullDocument: "updateLookup", maxAwaitTimeMS: 50 });
  assert.strictEqual(await stream.tryNext(), null);
  await db.collection("others").insertOne({ _id: "unseen" });
  await db.collection("orders").insertOne({ _id: "watched", total: 1 });
  await db.collection("orders").updateOne({ _id: "watched" }, { $inc: { total: 1 } });
  await db.collection("orders").deleteOne({ _id: "watched" });
  const events = [await stream.next(), await stream.next(), await stream.next()];
  assert.deepStrictEqual(events.map((event) => event.operationType), ["insert", "update", "delete"]);
  assert.deepStrictEqual(events[1].updateDescription.updatedFields, { total: 2 });
  await stream.close();
  await db.collection("others").drop();
}

async function main() {
  const uri = `mongodb://root:${encodeURIComponent("se cret")}@${host}/?serverSelectionTimeoutMS=5000&maxPoolSize=4`;
  const client = await MongoClient.connect(uri);
  await orders(client.db("shop"));
  await sessions(client);
  await changes(client.db("shop"));
  const zipped = await MongoClient.connect(`${uri}&compressors=zlib`);
  assert.strictEqual(await zipped.db("shop").collection("orders").countDocuments(), 501);
  await zipped.close();
  const names = (await client.db().admin().listDatabases({ nameOnly: true })).databases.map((db) => db.name);
  assert.deepStrictEqual(names, ["notes", "shop"]);
  assert.deepStrictEqual((await client.db("shop").listCollections({}, { nameOnly: true }).toArray()).map((c) => c.name), ["orders"]);
  await client.db("shop").dropDatabase();
  await client.close();
  console.log("all well");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
