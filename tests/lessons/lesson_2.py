"""Two people change the same user at the same time. Prints what each of them is told."""

from sqlalchemy.orm.exc import StaleDataError

from database import SessionLocal, engine
from models import User
from production.sql.tables import tables

tables.check(engine)
with SessionLocal() as db:
    db.add(User(name="Ada", email="ada@example.com"))
    db.commit()

sessions = [SessionLocal(expire_on_commit=False) for _ in range(2)]
drafts = []
for db in sessions:  # both people read the same version ...
    drafts.append(db.get_one(User, 1))
    db.commit()
for db, draft, name in zip(sessions, drafts, ["One", "Other"], strict=True):
    draft.name = name  # ... and both change it
    try:
        db.commit()
        print("stored")
    except StaleDataError:
        print("refused")
    db.close()

with SessionLocal() as db:
    print(db.get_one(User, 1).name)
