"""JSON is read as skode writes it, and in no other way."""

import pytest

from skode.persistence import DamagedFileError
from skode.persistence.strict_json import dumped, parsed


@pytest.mark.parametrize("document", [{}, {"a": [1, -0.0, 1e-300, None, True, '[{\\"ä\ud800']}, {'"]': {"[": ["\\"]}}])
def test_documents_come_back(document):
    assert parsed(dumped(document).encode()) == document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "not a JSON object"),
        ('{"a":1,"a":2}', "twice"),
        ('{"a":{"b":1,"\\u0062":2}}', "twice"),
        ('{"a":' + "[" * 8 + "]" * 8 + "}", "nested"),
        ('{"a":' + '[{"b":' * 5 + "1", "nested"),
        ('{"a":NaN}', "NaN"),
        ('{"a":-Infinity}', "-Infinity"),
        ('{"a":123456789012345678901}', "long a number"),
        ('{"a":1', "not JSON"),
        ('{"a":"\\', "not JSON"),
        ("", "not JSON"),
        ("\xff", "not JSON"),
    ],
)
def test_other_documents_are_refused(text, message):
    with pytest.raises(DamagedFileError, match=message):
        parsed(text.encode("latin-1"))


@pytest.mark.parametrize("text", ['"\\"]]]]]]]]]]]]"', '"\\\\"', '"[[[[[[[[[["', '"\\\\\\"[[[[[[[[[["'])
def test_brackets_in_strings_do_not_nest(text):
    assert len(parsed(f'{{"a":[{text}]}}'.encode())["a"]) == 1
