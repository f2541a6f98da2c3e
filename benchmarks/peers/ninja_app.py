"""The way of Django Ninja's tutorial: a Django model, a schema for what comes in and goes out."""

import os

import django
from django.conf import settings
from sqlalchemy.engine import make_url

url = make_url(os.environ["PEER_URL"])
DATABASE = (
    {"ENGINE": "django.db.backends.sqlite3", "NAME": url.database}
    if url.get_backend_name() == "sqlite"
    else {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.database,
        "USER": url.username,
        "HOST": url.host,
        "PORT": url.port,
    }
)
settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": DATABASE | {"CONN_MAX_AGE": 600}},
    ROOT_URLCONF=__name__,
    SECRET_KEY="benchmark",
)
django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import models  # noqa: E402
from django.shortcuts import get_object_or_404  # noqa: E402
from django.urls import path  # noqa: E402
from ninja import NinjaAPI, Schema  # noqa: E402


class User(models.Model):
    name = models.TextField()
    email = models.TextField(unique=True)

    class Meta:
        app_label = "peers"
        db_table = "users"


class NewUser(Schema):
    name: str
    email: str


class UserOut(NewUser):
    id: int


api = NinjaAPI()


@api.get("/users", response=list[UserOut])
def read_users(request):
    return User.objects.order_by("id")[:100]


@api.get("/users/{user_id}", response=UserOut)
def read_user(request, user_id: int):
    return get_object_or_404(User, id=user_id)


@api.post("/users", response={201: UserOut})
def create_user(request, new: NewUser):
    return 201, User.objects.create(**new.dict())


urlpatterns = [path("", api.urls)]
app = get_wsgi_application()
