"""What DATABASE_URL may be, and what is said about one that cannot be used."""

import pytest

from helpers import REFUSED_URLS
from production.sql.databases import choose


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_a_url_that_cannot_be_used_is_refused_with_what_to_change(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|has|is|cannot) ") as refusal:
        choose(url)

    assert REFUSED_URLS[url] in str(refusal.value)
    assert "\n" not in str(refusal.value)
