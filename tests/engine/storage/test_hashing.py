"""Content hashes, against values known from elsewhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.engine.storage.hashing import canonical_json, hash_bytes, hash_file, hash_json

# FIPS 180-2, appendix B.1.
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_hash_of_bytes_and_file_is_sha_256(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert hash_bytes(b"abc") == hash_file(path) == ABC


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_file_is_hashed_whole_around_the_block_size(tmp_path: Path, size: int) -> None:
    data = bytes(i % 251 for i in range(1009)) * (size // 1009 + 1)
    path = tmp_path / "x"
    path.write_bytes(data[:size])
    assert hash_file(path) == hashlib.sha256(data[:size]).hexdigest()


def test_canonical_form_is_fixed() -> None:
    assert canonical_json({"b": [1, 2.5, None, True], "a": "µ"}) == '{"a":"µ","b":[1,2.5,null,true]}'.encode()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def reversed_keys(value: object) -> object:
    if isinstance(value, dict):
        return {name: reversed_keys(inner) for name, inner in reversed(value.items())}
    return [reversed_keys(inner) for inner in value] if isinstance(value, list) else value


@given(values)
def test_order_of_keys_does_not_matter_and_the_value_reads_back(value: object) -> None:
    try:
        data = canonical_json(value)
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8
        return
    assert canonical_json(reversed_keys(value)) == data
    assert json.loads(data) == value


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}])
def test_value_that_json_lacks_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        hash_json(value)


def test_whole_number_and_float_differ_in_the_hash_so_slices_must_be_typed() -> None:
    assert hash_json({"a": 1}) != hash_json({"a": 1.0})
