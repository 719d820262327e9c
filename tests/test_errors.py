"""The phrases of error messages."""

import pytest

from vit.errors import UserError, error_context, nearest, shown


def test_nearest_names_the_closest_option_whatever_its_case():
    assert nearest("digit", ["digits", "folder"]) == ' Did you mean "digits"?'
    assert nearest("DIGTS", ["Digits", "folder"]) == ' Did you mean "Digits"?'
    assert nearest("xyz", ["digits", "folder"]) == ""


def test_shown_counts_what_it_leaves_out():
    assert shown(["a", "b"]) == "a, b"
    assert shown(list("abcde"), limit=3) == "a, b, c and 2 more"
    assert shown([]) == ""


def test_told_of_puts_the_place_before_a_mistake_only():
    with pytest.raises(UserError, match=r"^config\.json: depth is 0\.$"), error_context("config.json"):
        raise UserError("depth is 0.")
    with pytest.raises(KeyError, match=r"^'depth'$"), error_context("config.json"):
        raise KeyError("depth")


def test_a_user_error_is_a_value_error():
    assert issubclass(UserError, ValueError)
