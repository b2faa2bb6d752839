"""The tools of the tests; most of them do not know the program under test."""
