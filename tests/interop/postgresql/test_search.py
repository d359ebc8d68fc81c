"""Searching the registry on PostgreSQL, by pg_trgm."""

from tests.lachan.test_search import (  # noqa: F401
    test_a_manufacturer_finds_its_own_and_pages_follow_names,
    test_a_piece_is_letters_and_never_a_language,
    test_a_ward_is_found_however_it_is_spelt,
    test_a_word_and_a_letter_read_no_district,
    test_the_search_goes_by_an_index,
    test_what_a_rolled_back_unit_registered_is_not_found,
    test_what_changes_or_goes_is_searched_as_it_is,
)
