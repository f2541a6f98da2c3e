"""The way of Flask's page on SQLAlchemy: a scoped session, removed when the request ends."""

import os

from flask import Flask, abort, jsonify, request
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

engine = create_engine(os.environ["PEER_URL"])
db_session = scoped_session(sessionmaker(autocommit=False, autoflush=False, bind=engine))


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str] = mapped_column(unique=True)

    def as_dict(self) -> dict[str, object]:
        return {"id": self.id, "name": self.name, "email": self.email}


app = Flask(__name__)


@app.teardown_appcontext
def shutdown_session(exception=None):
    db_session.remove()


@app.get("/users")
def read_users():
    users = db_session.scalars(select(User).order_by(User.id).limit(100))
    return jsonify([user.as_dict() for user in users])


@app.get("/users/<int:user_id>")
def read_user(user_id: int):
    user = db_session.get(User, user_id)
    return jsonify(user.as_dict()) if user else abort(404)


@app.post("/users")
def create_user():
    user = User(name=request.json["name"], email=request.json["email"])
    db_session.add(user)
    db_session.commit()
    return jsonify(user.as_dict()), 201
