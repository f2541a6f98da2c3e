"""A draft is sent when it is told to. Prints how many users each session sees at each step."""

from sqlalchemy import func, select

from database import SessionLocal, engine, read_engine
from models import User
from production.sql.tables import tables

tables.check(engine)
count = select(func.count()).select_from(User)
with SessionLocal() as db, SessionLocal(bind=read_engine) as another:
    print(db.get_bind() is engine)
    db.add(User(name="Ada", email="ada@example.com"))
    print(db.scalar(count))  # autoflush=False: a query does not send the draft
    db.flush()
    print(db.scalar(count), another.scalar(count))  # autocommit=False: nobody else sees it
    db.commit()
    print(another.scalar(count))
