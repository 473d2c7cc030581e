"""Asserts what the models of the IR refuse."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydantic import ValidationError

from networks.errors import UserError


@contextmanager
def refused(field: str, *words: str) -> Iterator[None]:
    """The block must fail with one UserError on `field` whose text holds all the words."""
    with pytest.raises(ValidationError) as caught:
        yield
    (problem,) = caught.value.errors()
    error = problem["ctx"]["error"]
    assert isinstance(error, UserError)
    assert error.field == field
    assert all(word in str(error) for word in words), str(error)
