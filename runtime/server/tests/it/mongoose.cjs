"use strict";
// What an application does through Mongoose: node mongoose.cjs PACKAGES URI.

const assert = require("node:assert/strict");
const mongoose = require(require("node:path").join(process.argv[2], "node_modules/mongoose"));
const { Schema } = mongoose;

const Guest = mongoose.model("Guest", new Schema({
  email: { type: String, required: true, unique: true, lowercase: true },
  name: { first: String, last: String },
  joined: { type: Date, default: Date.now },
}, { timestamps: true }));

const Room = mongoose.model("Room", new Schema({
  number: { type: Number, index: true },
  price: Schema.Types.Decimal128,
  tags: [String],
  stays: [{ guest: { type: Schema.Types.ObjectId, ref: "Guest" }, nights: { type: Number, min: 1 } }],
  extras: { type: Map, of: Number },
}, { optimisticConcurrency: true }));

async function main() {
  await mongoose.connect(process.argv[3], { serverSelectionTimeoutMS: 10_000 });
  await Promise.all([Guest.init(), Room.init()]);

  const [mei, tom] = await Guest.create([
    { email: "Mei@example.com", name: { first: "Mei", last: "Lin" } },
    { email: "tom@example.com", name: { first: "Tom" } },
  ]);
  assert.equal(mei.email, "mei@example.com");
  await assert.rejects(Guest.create({ email: "tom@example.com" }), (e) => {
    assert.equal(e.code, 11000);
    assert.deepEqual(e.keyValue, { email: "tom@example.com" });
    return true;
  });
  await assert.rejects(Guest.create({}), mongoose.Error.ValidationError);

  const room = await Room.create({
    number: 101, price: "99.90", tags: ["sea", "quiet"], stays: [{ guest: mei, nights: 2 }], extras: { cot: 5 },
  });
  await Room.insertMany(Array.from({ length: 250 }, (_, i) => ({ number: 200 + i, tags: i % 2 ? ["sea"] : [] })));

  // Populate: a second query by the ids of the first.
  const seen = await Room.findOne({ number: 101 }).populate("stays.guest");
  assert.equal(seen.stays[0].guest.name.first, "Mei");
  assert.equal(seen.price.toString(), "99.90");
  assert.equal(seen.extras.get("cot"), 5);

  // A save sends what changed, and the version guards it.
  seen.tags.push("balcony");
  seen.stays.push({ guest: tom, nights: 1 });
  seen.extras.set("parking", 12);
  await seen.save();
  room.tags.push("late");
  await assert.rejects(room.save(), mongoose.Error.VersionError);
  const again = await Room.findById(seen._id).lean();
  assert.deepEqual(again.tags, ["sea", "quiet", "balcony"]);
  assert.equal(again.stays.length, 2);
  assert.deepEqual(again.extras, { cot: 5, parking: 12 });

  // Queries, cursors, counts.
  assert.equal(await Room.countDocuments({ tags: "sea" }), 126);
  assert.equal(await Room.estimatedDocumentCount(), 251);
  assert.deepEqual((await Room.distinct("tags")).sort(), ["balcony", "quiet", "sea"]);
  const page = await Room.find({ number: { $gte: 200 } }, "number").sort("-number").skip(10).limit(5).lean();
  assert.deepEqual(page.map((r) => r.number), [439, 438, 437, 436, 435]);
  let streamed = 0;
  for await (const one of Room.find().batchSize(40).cursor()) streamed += one.number > 0 ? 1 : 0;
  assert.equal(streamed, 251);
  const changed = await Room.findOneAndUpdate(
    { number: 101, "stays.nights": 2 }, { $inc: { "stays.$.nights": 3 } }, { returnDocument: "after" });
  assert.equal(changed.stays[0].nights, 5);
  const upserted = await Room.updateOne({ number: 999 }, { $set: { tags: ["new"] } }, { upsert: true });
  assert.equal(upserted.upsertedCount, 1);

  const totals = await Room.aggregate([
    { $unwind: "$stays" },
    { $lookup: { from: "guests", localField: "stays.guest", foreignField: "_id", as: "guest" } },
    { $group: { _id: { $first: "$guest.name.first" }, nights: { $sum: "$stays.nights" } } },
    { $sort: { nights: -1 } },
  ]);
  assert.deepEqual(totals, [{ _id: "Mei", nights: 5 }, { _id: "Tom", nights: 1 }]);

  const bulk = await Room.bulkWrite([
    { insertOne: { document: { number: 1 } } },
    { updateMany: { filter: { tags: "sea" }, update: { $addToSet: { tags: "view" } } } },
    { deleteOne: { filter: { number: 999 } } },
  ]);
  assert.deepEqual([bulk.insertedCount, bulk.modifiedCount, bulk.deletedCount], [1, 126, 1]);

  // Transactions: one goes through, one is undone.
  await mongoose.connection.transaction(async (session) => {
    await Guest.create([{ email: "in@example.com" }], { session });
    await Room.deleteMany({ number: { $gte: 400 } }, { session });
  });
  assert.equal(await Room.countDocuments({ number: { $gte: 400 } }), 0);
  await assert.rejects(mongoose.connection.transaction(async (session) => {
    await Guest.create([{ email: "out@example.com" }], { session });
    throw new Error("changed my mind");
  }), /changed my mind/);
  assert.equal(await Guest.exists({ email: "out@example.com" }), null);

  // A change stream.
  const changes = Guest.watch([{ $match: { operationType: "insert" } }], { fullDocument: "updateLookup" });
  const next = new Promise((resolve, reject) => { changes.once("change", resolve); changes.once("error", reject); });
  // Its first answer has a token: from then on it misses nothing.
  await new Promise((resolve) => changes.once("resumeTokenChanged", resolve));
  await Guest.create({ email: "watched@example.com" });
  assert.equal((await next).fullDocument.email, "watched@example.com");
  await changes.close();

  await Room.syncIndexes();
  assert.deepEqual((await Room.listIndexes()).map((i) => i.name), ["_id_", "number_1"]);
  await mongoose.connection.dropCollection("rooms");
  await mongoose.disconnect();
  console.log("all well");
}

main().catch((error) => { console.error(error); process.exit(1); });
