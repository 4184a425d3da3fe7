"""What an application does through MongoEngine: python mongoengine.py URI."""

import datetime
import decimal
import sys

# This file has the package's name: its directory must not come first where Python looks for it.
sys.path.pop(0)

import mongoengine as me
me.connect(host=sys.argv[1], serverSelectionTimeoutMS=10_000)


class Guest(me.Document):
    email = me.EmailField(required=True, unique=True)
    name = me.StringField(max_length=80)
    joined = me.DateTimeField(default=lambda: datetime.datetime(2026, 1, 2))
    meta = {"indexes": ["name", ("name", "-joined")], "ordering": ["email"]}


class Stay(me.EmbeddedDocument):
    guest = me.ReferenceField(Guest)
    nights = me.IntField(min_value=1)


class Room(me.Document):
    number = me.SequenceField()
    price = me.Decimal128Field()
    tags = me.ListField(me.StringField())
    stays = me.EmbeddedDocumentListField(Stay)
    photo = me.FileField()
    extras = me.MapField(me.IntField())
    meta = {"indexes": [{"fields": ["tags"], "sparse": True}], "allow_inheritance": True}


class Suite(Room):
    bedrooms = me.IntField(default=2)


mei = Guest(email="mei@example.com", name="Mei").save()
tom = Guest(email="tom@example.com", name="Tom").save()
try:
    Guest(email="tom@example.com").save()
except me.NotUniqueError:
    pass
else:
    raise AssertionError("an e-mail address was taken twice")

room = Room(price=decimal.Decimal("99.90"), tags=["sea"], extras={"cot": 5})
room.stays = [Stay(guest=mei, nights=2)]
room.photo.put(b"\x89PNG" + b"x" * 600_000, content_type="image/png")
room.save()
Suite(tags=["sea", "quiet"], bedrooms=3).save()
assert [r.number for r in Room.objects] == [1, 2]
assert Suite.objects.get().bedrooms == 3

seen = Room.objects.get(number=1)
assert seen.stays[0].guest.name == "Mei" and seen.price == decimal.Decimal("99.90")
assert len(seen.photo.read()) == 600_004
seen.tags.append("balcony")
seen.extras["parking"] = 12
seen.stays.create(guest=tom, nights=4)
seen.save()
seen.reload()
assert seen.tags == ["sea", "balcony"] and seen.extras == {"cot": 5, "parking": 12}

assert Room.objects(stays__nights__gte=3).count() == 1
assert Room.objects(tags__all=["sea", "quiet"]).first().number == 2
assert Room.objects(me.Q(number=1) | me.Q(tags="quiet")).count() == 2
assert Guest.objects(email__istartswith="MEI").only("name").first().name == "Mei"
assert Room.objects(stays__match={"guest": tom, "nights": 4}).count() == 1
assert Room.objects(number=1, stays__nights=2).update_one(inc__stays__S__nights=1) == 1
assert Room.objects(number=1).modify(push__tags="late", new=True).tags[-1] == "late"
assert Room.objects(number=7).upsert_one(set__tags=["new"]).tags == ["new"]
assert Room.objects.aggregate([{"$unwind": "$stays"}, {"$group": {"_id": None, "n": {"$sum": "$stays.nights"}}}]).next()["n"] == 7
assert Room.objects.sum("number") == 10 and sorted(Room.objects.distinct("tags"))[0] == "balcony"
assert [g.email for g in Guest.objects.order_by("-email")] == ["tom@example.com", "mei@example.com"]

assert Guest.compare_indexes() == {"missing": [], "extra": []}
seen.photo.delete()
assert Room.objects.delete() == 3
Room.drop_collection()
print("all well")
