"""What the e-mail format of the OpenAPI document leaves open: domains such as .test are refused."""

import schemathesis
from hypothesis import strategies as st

schemathesis.openapi.format(
    "email", st.from_regex(r"[a-z0-9]{1,20}@[a-z]{1,20}\.com", fullmatch=True)
)
