"""The floor: FastAPI with a constant body, no database. Nothing built on FastAPI can be faster."""

import json

from fastapi import FastAPI, Response

USERS = [{"id": n, "name": f"User {n}", "email": f"user{n}@example.com"} for n in range(1, 101)]
PAGE, ONE = json.dumps(USERS).encode(), json.dumps(USERS[0]).encode()
app = FastAPI()


@app.get("/users")
async def read_users() -> Response:
    return Response(PAGE, media_type="application/json")


@app.get("/users/{user_id}")
async def read_user(user_id: int) -> Response:
    return Response(ONE, media_type="application/json")


@app.post("/users", status_code=201)
async def create_user() -> Response:
    return Response(ONE, 201, media_type="application/json")
