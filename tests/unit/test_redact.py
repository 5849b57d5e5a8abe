from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from scrapy_ezcaptcha.errors import redact

secrets = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=4, max_size=20)


@given(secrets, st.text(max_size=30))
def test_no_form_of_a_secret_is_left(secret, words):
    forms = [secret, quote(secret, safe=""), b64encode(secret.encode()).decode()]
    text = redact(f"{words} {' and '.join(forms)}", (secret, ""))
    for form in forms:
        assert form not in text.replace("***", "")


def test_it_is_one_bounded_line():
    text = redact("a\r\n b\tc\x00d \ud800" + "x" * 1000, ())
    assert text.startswith("a b c d x")
    assert len(text) == 300
    assert text.endswith("…")


def test_without_secrets_words_stay():
    assert redact("nothing to hide", ("",)) == "nothing to hide"
